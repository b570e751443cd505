// Tile registers in software: Intel SDM volume 1, chapter 18, and the operation sections of TDPBF16PS and TDPBSUD in volume 2.
//
// What a processor would answer with an exception is remembered instead, for amx_emulated::first_fault().
#pragma once

#include <float.h>
#include <stdint.h>
#include <string.h>

#include "core/simd.h"
#include "kernels/amx_tiles.h"

namespace octavo::OCTAVO_LEVEL {

inline const char* tile_fault = nullptr;

inline bool tile_rule(bool kept, const char* otherwise) {
    if (!kept && !tile_fault) tile_fault = otherwise;
    return kept;
}

// Subnormal numbers are zeros to TDPBF16PS, as operands and as results.
inline float flush(float x) { return __builtin_fabsf(x) < FLT_MIN ? __builtin_copysignf(0.0f, x) : x; }

template <WeightKind kind>
class EmulatedTiles {
public:
    ~EmulatedTiles() { tile_rule(!configured_, "tiles were not released"); }

    void configure(const TileShapes& shapes) {
        tile_rule(shapes.palette == 1 && shapes.start_row == 0, "ldtilecfg: palette or first row");
        for (uint8_t byte : shapes.reserved) tile_rule(byte == 0, "ldtilecfg: reserved bytes");
        for (int t = 0; t < 16; t++) {
            tile_rule(shapes.rows[t] <= (t < kTiles ? kTileRows : 0), "ldtilecfg: rows");
            tile_rule(shapes.row_bytes[t] <= (t < kTiles ? kTileBytes : 0), "ldtilecfg: bytes of a row");
            tile_rule((shapes.rows[t] == 0) == (shapes.row_bytes[t] == 0), "ldtilecfg: rows without bytes");
        }
        shapes_ = shapes;
        configured_ = true;
        memset(data_, 0, sizeof data_);
    }

    void release() {
        configured_ = false;
        memset(data_, 0, sizeof data_);
    }

    template <int t>
    void zero() {
        if (usable(t)) memset(data_[t], 0, sizeof data_[t]);
    }

    // Rows and bytes beyond the shape become zero.
    template <int t>
    void load(const void* from, int64_t stride) {
        if (!usable(t)) return;
        memset(data_[t], 0, sizeof data_[t]);
        for (int r = 0; r < shapes_.rows[t]; r++) memcpy(data_[t][r], static_cast<const char*>(from) + r * stride, shapes_.row_bytes[t]);
    }

    template <int t>
    void store(void* to, int64_t stride) {
        if (!usable(t)) return;
        for (int r = 0; r < shapes_.rows[t]; r++) memcpy(static_cast<char*>(to) + r * stride, data_[t][r], shapes_.row_bytes[t]);
    }

    template <int c, int a, int b>
    void dot() {
        static_assert(c != a && c != b && a != b, "the three tiles of a product must differ");
        if (!(usable(a) && usable(b) && usable(c))) return;
        const bool fits = shapes_.rows[c] == shapes_.rows[a] && shapes_.row_bytes[c] == shapes_.row_bytes[b] &&
                          shapes_.row_bytes[a] == 4 * shapes_.rows[b] && shapes_.row_bytes[a] % 4 == 0 && shapes_.row_bytes[b] % 4 == 0;
        if (!tile_rule(fits, "a product of tiles whose shapes do not fit")) return;
        for (int m = 0; m < shapes_.rows[c]; m++) {
            if constexpr (kind == WeightKind::bf16) dot_bf16(data_[c][m], data_[a][m], data_[b], shapes_.rows[b], shapes_.row_bytes[c] / 4);
            else dot_int8(data_[c][m], data_[a][m], data_[b], shapes_.rows[b], shapes_.row_bytes[c] / 4);
        }
    }

private:
    typedef char Row[kTileBytes];

    bool usable(int t) const {
        return tile_rule(configured_, "a tile was used before ldtilecfg or after tilerelease") && tile_rule(shapes_.rows[t], "a tile without a shape was used");
    }

    // The even inputs of a step are one chain of fused operations, the odd ones another; their sum is added to c.
    static void dot_bf16(char* c, const char* a, const Row* b, int pairs, int columns) {
        for (int n = 0; n < columns; n++) {
            float chains[2] = {};
            for (int k = 0; k < pairs; k++) {
                uint16_t x[2], w[2];
                memcpy(x, a + 4 * k, 4);
                memcpy(w, b[k] + 4 * n, 4);
                for (int i = 0; i < 2; i++) chains[i] = flush(__builtin_fmaf(flush(from_bf16(x[i])), flush(from_bf16(w[i])), chains[i]));
            }
            float sum;
            memcpy(&sum, c + 4 * n, 4);
            sum = flush(flush(sum) + flush(chains[0] + chains[1]));
            memcpy(c + 4 * n, &sum, 4);
        }
    }

    static void dot_int8(char* c, const char* a, const Row* b, int quads, int columns) {
        for (int n = 0; n < columns; n++) {
            uint32_t sum;  // wraps around as the instruction does
            memcpy(&sum, c + 4 * n, 4);
            for (int k = 0; k < quads; k++) {
                for (int i = 0; i < 4; i++) sum += (uint32_t)((int8_t)a[4 * k + i] * (uint8_t)b[k][4 * n + i]);
            }
            memcpy(c + 4 * n, &sum, 4);
        }
    }

    TileShapes shapes_;
    bool configured_ = false;
    char data_[kTiles][kTileRows][kTileBytes] = {};
};

}  // namespace octavo::OCTAVO_LEVEL
