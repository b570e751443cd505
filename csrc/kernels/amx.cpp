// bfloat16 and int8 weights on tiles of 16 rows by 64 bytes. A step is 16 lines of a panel: 32 inputs in bfloat16, 64 in int8.
//
//                        B0: features 0..15     B1: features 16..31    16 lines of the panel as they stand, 128 bytes apart
//     A0: rows 0..15     C00                    C01
//     A1: rows 16..31    C10                    C11                    each step adds to all four
//
// A prepared block is up to 16 rows: [steps][rows][64 bytes], the inputs beyond I zero. The last step's lines, where the panel ends
// before the 16th, are completed with zeros in a copy. Each sum takes the steps one after the other, and a step's own sum is what
// the instruction makes of 16 lines; a tile of one row or of sixteen does the same to each row.
//
// bfloat16: any number of rows, one included, goes through tiles. TDPBF16PS adds in an order of its own (the even inputs of a step, the
// odd ones, both, and then the sum so far), which vector instructions could follow at a fraction of their speed only. One row
// waits for the memory and not for the tiles: two chains of steps take in 2 KiB in the latency of one product.
//
// int8: sums are exact, so up to kVectorRows rows of a block take the level's vector code, and its layout of them.
#include "kernels/amx.h"

#include "kernels/dot_int8.h"
#include "kernels/linear_int.h"

#ifdef __AMX_TILE__
#include "kernels/amx_tiles.h"
#else
#include "kernels/amx_emulated.h"
#endif

namespace octavo::OCTAVO_LEVEL {
namespace {

#ifdef __AMX_TILE__
template <WeightKind kind>
using Tiles = HardwareTiles<kind>;
#else
template <WeightKind kind>
using Tiles = EmulatedTiles<kind>;
#endif

constexpr int kLineBytes = 128, kStepLines = 16, kStepBytes = kStepLines * kLineBytes;
// Steps that many rows share before they go on: 32 KiB of panel, two thirds of the first-level cache.
constexpr int64_t kTileSliceSteps = 16;
constexpr int kVectorRows = 4;

enum : int { C00, C01, C10, C11, A0, A1, B0, B1 };

int64_t steps_of(int64_t lines) { return (lines + kStepLines - 1) / kStepLines; }

// A panel's lines, the last step completed.
struct TileSteps {
    const char* panel;
    int64_t full, count;
    alignas(64) char last[kStepBytes];

    TileSteps(const char* from, int64_t lines) : panel(from), full(lines / kStepLines), count(steps_of(lines)) {
        if (count == full) return;
        const int64_t bytes = lines % kStepLines * kLineBytes;
        memcpy(last, panel + full * kStepBytes, bytes);
        memset(last + bytes, 0, kStepBytes - bytes);
    }
    OCTAVO_INLINE const char* at(int64_t step) const { return step < full ? panel + step * kStepBytes : last; }
};

// Rows that one pass takes: one block, or two.
struct TileRows {
    const char* blocks[2];
    int rows[2];
    char* out;  // [rows][32], 4 bytes each
};

TileShapes shapes_of(int first, int second) {
    TileShapes shapes;
    constexpr int upper[] = {C00, C01, A0}, lower[] = {C10, C11, A1}, panel[] = {B0, B1};
    for (int t : upper) shapes.set(t, first);
    for (int t : lower) shapes.set(t, second);
    for (int t : panel) shapes.set(t, kStepLines);
    return shapes;
}

template <bool two, class T>
void multiply_steps(T& tiles, const TileSteps& steps, int64_t first, int64_t end, const TileRows& in) {
    char* lower = in.out + kTileRows * kLineBytes;
    if (first == 0) {
        tiles.template zero<C00>();
        tiles.template zero<C01>();
        if constexpr (two) {
            tiles.template zero<C10>();
            tiles.template zero<C11>();
        }
    } else {
        tiles.template load<C00>(in.out, kLineBytes);
        tiles.template load<C01>(in.out + 64, kLineBytes);
        if constexpr (two) {
            tiles.template load<C10>(lower, kLineBytes);
            tiles.template load<C11>(lower + 64, kLineBytes);
        }
    }
    for (int64_t s = first; s < end; s++) {
        const char* lines = steps.at(s);
        tiles.template load<B0>(lines, kLineBytes);
        tiles.template load<A0>(in.blocks[0] + s * in.rows[0] * kTileBytes, kTileBytes);
        tiles.template load<B1>(lines + 64, kLineBytes);
        tiles.template dot<C00, A0, B0>();
        tiles.template dot<C01, A0, B1>();
        if constexpr (two) {
            tiles.template load<A1>(in.blocks[1] + s * in.rows[1] * kTileBytes, kTileBytes);
            tiles.template dot<C10, A1, B0>();
            tiles.template dot<C11, A1, B1>();
        }
    }
    tiles.template store<C00>(in.out, kLineBytes);
    tiles.template store<C01>(in.out + 64, kLineBytes);
    if constexpr (two) {
        tiles.template store<C10>(lower, kLineBytes);
        tiles.template store<C11>(lower + 64, kLineBytes);
    }
}

// out [rows][32] float32 or int32 = all rows of the blocks times the panel.
template <class T>
void multiply_tiles(const char* panel, int64_t lines, const char* blocks, int64_t block_bytes, int rows, void* out) {
    const TileSteps steps(panel, lines);
    T tiles;
    const auto pass = [&](int first, int upper, int lower) {
        const char* block = blocks + first / kTileRows * block_bytes;
        return TileRows{{block, block + block_bytes}, {upper, lower}, static_cast<char*>(out) + first * kLineBytes};
    };
    const int paired = rows / (2 * kTileRows) * 2 * kTileRows, left = rows - paired;
    if (paired) {
        tiles.configure(shapes_of(kTileRows, kTileRows));
        const int64_t slice = paired > 2 * kTileRows ? kTileSliceSteps : steps.count;
        for (int64_t s = 0; s < steps.count; s += slice) {
            const int64_t end = steps.count - s < slice ? steps.count : s + slice;
            for (int r = 0; r < paired; r += 2 * kTileRows) multiply_steps<true>(tiles, steps, s, end, pass(r, kTileRows, kTileRows));
        }
    }
    if (left > kTileRows) {
        tiles.configure(shapes_of(kTileRows, left - kTileRows));
        multiply_steps<true>(tiles, steps, 0, steps.count, pass(paired, kTileRows, left - kTileRows));
    } else if (left) {
        tiles.configure(shapes_of(left, 0));
        multiply_steps<false>(tiles, steps, 0, steps.count, pass(paired, left, 0));
    }
    tiles.release();
}

f32x16 load_up_to(const float* x, int64_t n) { return n >= 16 ? load16(x) : n > 0 ? load_part(x, n) : f32x16{}; }

// ---- bfloat16

int64_t bf16_lines(const PackedWeight& weight) { return (weight.in_features + 1) / 2; }

int64_t bf16_block_bytes(const PackedWeight& weight, int rows) { return steps_of(bf16_lines(weight)) * rows * kTileBytes; }

// 32 values, of which n exist.
void round_step(const float* x, int64_t n, char* out) {
    const f32x16 low = load_up_to(x, n), high = load_up_to(x + 16, n - 16);
#ifdef __AVX512BF16__
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    memcpy(out, &both, sizeof both);
#else
    uint16_t both[32];
    for (int i = 0; i < 16; i++) {
        both[i] = to_bf16(low[i]);
        both[16 + i] = to_bf16(high[i]);
    }
    memcpy(out, both, sizeof both);
#endif
}

void bf16_prepare(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block) {
    const int64_t inputs = weight.in_features;
    for (int r = 0; r < rows; r++, x += x_stride) {
        char* out = block + r * kTileBytes;
        for (int64_t i = 0; i < inputs; i += 32, out += rows * kTileBytes) round_step(x + i, inputs - i, out);
    }
}

void bf16_multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char*) {
    multiply_tiles<Tiles<WeightKind::bf16>>(panel, bf16_lines(weight), blocks, bf16_block_bytes(weight, kTileRows), rows, tile);
}

void bf16_unpack(const PackedWeight& weight, const char* panel, int column, float* out) {
    for (int64_t i = 0; i < weight.in_features; i++) {
        uint16_t value;
        memcpy(&value, panel + ((i / 2 * kPanel + column) * 2 + i % 2) * 2, 2);
        out[i] = from_bf16(value);
    }
}

// ---- int8: behind a block's steps stand float32 scales [rows] and -128 Σ codes [rows] int32

int64_t codes_bytes(const PackedWeight& weight, int rows) { return steps_of(num_quads(weight)) * rows * kTileBytes; }

int64_t int8_block_bytes(const PackedWeight& weight, int rows) {
    if (rows <= kVectorRows) return int8_format.block_bytes(weight, rows);
    return codes_bytes(weight, rows) + (rows * 8 + 63) / 64 * 64;
}

void int8_prepare(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block) {
    if (rows <= kVectorRows) return int8_format.prepare(weight, x, x_stride, rows, block);
    const int64_t inputs = weight.in_features;
    float* scales = reinterpret_cast<float*>(block + codes_bytes(weight, rows));
    int32_t* corrections = reinterpret_cast<int32_t*>(scales + rows);
    for (int r = 0; r < rows; r++, x += x_stride) {
        const Quantizer q = quantizer(max_bits(x, inputs));
        i32x16 sums = {};
        char* out = block + r * kTileBytes;
        for (int64_t i = 0; i < inputs; i += 64, out += rows * kTileBytes) {
            for (int k = 0; k < 64; k += 16) {
                const i8x16 codes = quantize16(load_up_to(x + i + k, inputs - i - k), q.inverse, sums);
                memcpy(out + k, &codes, sizeof codes);
            }
        }
        int32_t total = 0;
        for (int lane = 0; lane < 16; lane++) total += sums[lane];
        scales[r] = q.scale;
        corrections[r] = -128 * total;
    }
}

// The sums of a block's rows become products, in place.
void scale_sums(const PackedWeight& weight, const char* panel, const char* block, int rows, float* tile) {
    const float* scales = reinterpret_cast<const float*>(block + codes_bytes(weight, rows));
    const int32_t* corrections = reinterpret_cast<const int32_t*>(scales + rows);
    const float* features = reinterpret_cast<const float*>(panel + num_quads(weight) * kLineBytes);
    for (int r = 0; r < rows; r++, tile += kPanel) {
        for (int column = 0; column < kPanel; column += 16) {
            const i32x16 sums = (i32x16)load16(tile + column) + corrections[r];
            store16(tile + column, __builtin_convertvector(sums, f32x16) * scales[r] * load16(features + column));
        }
    }
}

void int8_multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char* scratch) {
    const int64_t block_bytes = int8_block_bytes(weight, kTileRows);
    const int last = rows % kTileRows, vector_rows = last <= kVectorRows ? last : 0, tile_rows = rows - vector_rows;
    if (tile_rows) {
        multiply_tiles<Tiles<WeightKind::int8>>(panel, num_quads(weight), blocks, block_bytes, tile_rows, tile);
        for (int r = 0; r < tile_rows; r += kTileRows) {
            const int in_block = tile_rows - r < kTileRows ? tile_rows - r : kTileRows;
            scale_sums(weight, panel, blocks + r / kTileRows * block_bytes, in_block, tile + r * kPanel);
        }
    }
    if (vector_rows) {
        int8_format.multiply(weight, panel, blocks + tile_rows / kTileRows * block_bytes, vector_rows, tile + tile_rows * kPanel, scratch);
    }
}

void int8_unpack(const PackedWeight& weight, const char* panel, int column, float* out) { int8_format.unpack(weight, panel, column, out); }

int64_t bf16_scratch_bytes(const PackedWeight&, int) { return 0; }

int64_t int8_scratch_bytes(const PackedWeight& weight, int) { return int8_format.scratch_bytes(weight, kVectorRows); }

static_assert(kRowChunk % kTileRows == 0);
constexpr Format kBf16 = {kTileRows, bf16_block_bytes, bf16_prepare, bf16_multiply, bf16_scratch_bytes, bf16_unpack};
constexpr Format kInt8 = {kTileRows, int8_block_bytes, int8_prepare, int8_multiply, int8_scratch_bytes, int8_unpack};

}  // namespace

const Format* amx_format(WeightKind kind) { return kind == WeightKind::bf16 ? &kBf16 : kind == WeightKind::int8 ? &kInt8 : nullptr; }

#ifndef __AMX_TILE__
const char* first_fault() {
    const char* fault = tile_fault;
    tile_fault = nullptr;
    return fault;
}
#endif

}  // namespace octavo::OCTAVO_LEVEL
