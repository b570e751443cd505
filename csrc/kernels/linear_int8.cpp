// Weights of 8 bits with one scale per output feature; activations of 8 bits with one scale per token.
//
// A prepared block has one or two register blocks of R rows: quads [I / 4][R], then float32 scales [R], then -128 Σ codes [R] int32.
//
//     y = scale of token · scale of feature · (Σ (code + 128) x - 128 Σ x)
#include "kernels/dot_int8.h"
#include "kernels/linear_int.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

// Bytes of panel that are asked for in advance. With one or two rows the processor does so better alone.
constexpr int64_t kAhead = 4096;

int64_t rows_bytes(const PackedWeight& weight, int rows) { return (num_quads(weight) * (int64_t)sizeof(Quad) + 8) * rows; }

int64_t block_bytes(const PackedWeight& weight, int rows) { return (rows_bytes(weight, rows) + 63) / 64 * 64; }

struct RowBlock {
    Quad* quads;
    float* scales;
    int32_t* corrections;
    RowBlock(const PackedWeight& weight, const char* at, int rows)
        : quads(reinterpret_cast<Quad*>(const_cast<char*>(at))),
          scales(reinterpret_cast<float*>(quads + num_quads(weight) * rows)),
          corrections(reinterpret_cast<int32_t*>(scales + rows)) {}
};

void prepare_rows(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* at) {
    const RowBlock block(weight, at, rows);
    for (int r = 0; r < rows; r++, x += x_stride) {
        const Quantizer q = quantizer(max_bits(x, weight.in_features));
        block.scales[r] = q.scale;
        block.corrections[r] = -128 * quantize_quads(x, weight.in_features, q.inverse, block.quads + r, rows);
    }
}

void prepare(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block) {
    const int first = first_rows(rows);
    prepare_rows(weight, x, x_stride, first, block);
    if (rows > first) prepare_rows(weight, x + first * x_stride, x_stride, rows - first, block + rows_bytes(weight, first));
}

// Adds the products of `quads` quads. Integer sums are the same in any order, so few rows use several chains to hide latency.
template <int rows, int halves>
OCTAVO_INLINE void add_quads(const char* panel, const Quad* x, int64_t quads, Sums (&sums)[rows][halves]) {
    for (int64_t q = 0; q < quads; q++, panel += 128, x += rows) {
        if (rows > 2) {
            __builtin_prefetch(panel + kAhead);
            __builtin_prefetch(panel + kAhead + 64);
        }
        Codes codes[halves];
        for (int h = 0; h < halves; h++) codes[h] = load_codes(panel + h * 64);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            for (int h = 0; h < halves; h++) sums[r][h] = add_dot(sums[r][h], codes[h], x + r);
        }
    }
}

template <int rows, int halves, int chains>
OCTAVO_INLINE void add_chained(const char* panel, const Quad* x, int64_t quads, Sums (&sums)[rows][halves]) {
    Sums chain[chains][rows][halves];
#pragma GCC unroll 12
    for (int i = 0; i < chains * rows * halves; i++) (&chain[0][0][0])[i] = splat_sums(0);
    int64_t q = 0;
    for (; q + chains <= quads; q += chains, panel += chains * 128, x += chains * rows) {
#pragma GCC unroll 4
        for (int c = 0; c < chains; c++) {
            for (int h = 0; h < halves; h++) {
                const Codes codes = load_codes(panel + c * 128 + h * 64);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) chain[c][r][h] = add_dot(chain[c][r][h], codes, x + c * rows + r);
            }
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < chains; c++) {
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            for (int h = 0; h < halves; h++) sums[r][h] = add_sums(sums[r][h], chain[c][r][h]);
        }
    }
    add_quads<rows, halves>(panel, x, quads - q, sums);
}

template <int rows>
__attribute__((noinline)) void multiply_block(const PackedWeight& weight, const char* panel, const char* at, float* tile) {
    const int64_t quads = num_quads(weight);
    const RowBlock block(weight, at, rows);
    const float* scales = reinterpret_cast<const float*>(panel + quads * 128);
    for (int half = 0; half < 2; half += kDotHalves) {
        Sums sums[rows][kDotHalves];
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            for (int h = 0; h < kDotHalves; h++) sums[r][h] = splat_sums(block.corrections[r]);
        }
        if constexpr (rows <= 2) {
            add_chained<rows, kDotHalves, 2>(panel + half * 64, block.quads, quads, sums);
        } else {
            add_quads<rows, kDotHalves>(panel + half * 64, block.quads, quads, sums);
        }
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            for (int h = 0; h < kDotHalves; h++) {
                const int column = (half + h) * 16;
                store16(tile + r * kPanel + column, to_float(sums[r][h]) * block.scales[r] * load16(scales + column));
            }
        }
    }
}

template <int rows = kDotRows>
void multiply_rows(int count, const PackedWeight& weight, const char* panel, const char* block, float* tile) {
    if constexpr (rows > 1) {
        if (count < rows) return multiply_rows<rows - 1>(count, weight, panel, block, tile);
    }
    multiply_block<rows>(weight, panel, block, tile);
}

void multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char*) {
    const int64_t step = block_bytes(weight, kBlockRows);
    for (; rows > 0; rows -= kBlockRows, blocks += step, tile += kBlockRows * kPanel) {
        const int in_block = rows < kBlockRows ? rows : kBlockRows, first = first_rows(in_block);
        multiply_rows(first, weight, panel, blocks, tile);
        if (in_block > first) multiply_rows(in_block - first, weight, panel, blocks + rows_bytes(weight, first), tile + first * kPanel);
    }
}

int64_t scratch_bytes(const PackedWeight&, int) { return 0; }

void unpack(const PackedWeight& weight, const char* panel, int column, float* out) {
    const float scale = reinterpret_cast<const float*>(panel + num_quads(weight) * 128)[column];
    const uint8_t* codes = reinterpret_cast<const uint8_t*>(panel) + column / 16 * 64 + column % 16 * 4;
    for (int64_t i = 0; i < weight.in_features; i++) out[i] = (float)(codes[i / 4 * 128 + i % 4] - 128) * scale;
}

}  // namespace

const Format int8_format = {kBlockRows, block_bytes, prepare, multiply, scratch_bytes, unpack};

}  // namespace octavo::OCTAVO_LEVEL
