// Weights held as float32, bfloat16 and float16.
//
// Panels: float32 [I][32]; bfloat16 [I / 2][half 0/1][16 features][2 inputs], I padded to an even number.
#include "core/simd.h"
#include "kernels/linear.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

// ---- float32: prepared rows are [I][rows]
constexpr int kRowsF32 = 4;

int64_t f32_block_bytes(const PackedWeight& weight, int rows) { return ((int64_t)weight.in_features * rows * 4 + 63) / 64 * 64; }

void f32_prepare(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block) {
    float* out = reinterpret_cast<float*>(block);
    for (int64_t i = 0; i < weight.in_features; i++) {
        for (int r = 0; r < rows; r++) out[i * rows + r] = x[r * x_stride + i];
    }
}

template <int rows>
void f32_block(const PackedWeight& weight, const float* panel, const float* x, float* tile) {
    f32x16 low[rows] = {}, high[rows] = {};
    for (int64_t i = 0; i < weight.in_features; i++) {
        const f32x16 a = load16(panel + i * kPanel), b = load16(panel + i * kPanel + 16);
        for (int r = 0; r < rows; r++) {
            low[r] += a * x[i * rows + r];
            high[r] += b * x[i * rows + r];
        }
    }
    for (int r = 0; r < rows; r++) {
        store16(tile + r * kPanel, low[r]);
        store16(tile + r * kPanel + 16, high[r]);
    }
}

void f32_multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char*) {
    const float* w = reinterpret_cast<const float*>(panel);
    for (; rows > 0; rows -= kRowsF32, tile += kRowsF32 * kPanel, blocks += f32_block_bytes(weight, kRowsF32)) {
        const float* x = reinterpret_cast<const float*>(blocks);
        switch (rows) {
            case 1: f32_block<1>(weight, w, x, tile); break;
            case 2: f32_block<2>(weight, w, x, tile); break;
            case 3: f32_block<3>(weight, w, x, tile); break;
            default: f32_block<4>(weight, w, x, tile);
        }
    }
}

int64_t no_scratch(const PackedWeight&, int) { return 0; }

void f32_unpack(const PackedWeight& weight, const char* panel, int column, float* out) {
    const float* w = reinterpret_cast<const float*>(panel);
    for (int64_t i = 0; i < weight.in_features; i++) out[i] = w[i * kPanel + column];
}

constexpr Format kF32 = {kRowsF32, f32_block_bytes, f32_prepare, f32_multiply, no_scratch, f32_unpack};

}  // namespace

const Format* float_format(WeightKind kind) {
    switch (kind) {
        case WeightKind::f32: return &kF32;
        default: return nullptr;
    }
}

}  // namespace octavo::OCTAVO_LEVEL
