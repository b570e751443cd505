// Weights held as float32 and float16, multiplied in float32; bfloat16 is in linear_bf16.cpp.
//
// Panels: float32 [I][32], float16 [I][32]. Prepared rows are float32 as they come.
#include "kernels/linear_float.h"

#include "core/simd.h"
#include "kernels/half.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

int64_t block_bytes(const PackedWeight& weight, int rows) { return prepared_bytes(weight.in_features, rows); }

void prepare(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block) {
    const int64_t inputs = weight.in_features;
    float* out = reinterpret_cast<float*>(block);
    const int first = first_part(rows);
    transpose_words(x, x_stride, first, inputs, out, first);
    if (rows > first) transpose_words(x + first * x_stride, x_stride, rows - first, inputs, out + first * inputs, rows - first);
}

void f32_multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char*) {
    multiply_panel<F32Panel>(panel, weight.in_features, blocks, rows, tile);
}

int64_t f32_scratch_bytes(const PackedWeight&, int) { return 0; }

void f32_unpack(const PackedWeight& weight, const char* panel, int column, float* out) {
    const float* w = reinterpret_cast<const float*>(panel);
    for (int64_t i = 0; i < weight.in_features; i++) out[i] = w[i * kPanel + column];
}

struct F16Panel {
    static constexpr int kStepBytes = kPanel * 2, kWords = 1;
    static OCTAVO_INLINE void load(const char* step, int v, Lanes* w) {
        const char* from = step + v * kLanes * 2;
#if defined(__AVX512F__)
        w[0] = _mm512_maskz_cvtph_ps((__mmask16)-1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
        w[0] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
        uint16_t halves[kLanes];
        float values[kLanes];
        memcpy(halves, from, sizeof halves);
        for (int i = 0; i < kLanes; i++) values[i] = from_f16(halves[i]);
        w[0] = load_lanes(values);
#endif
    }
    static OCTAVO_INLINE Lanes dot(Lanes w, Lanes x, Lanes sum) { return multiply_add(w, x, sum); }
};

void f16_multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char* scratch) {
    multiply_widened<F16Panel>(panel, weight.in_features, blocks, rows, tile, scratch);
}

int64_t f16_scratch_bytes(const PackedWeight&, int rows) { return widened_bytes<F16Panel>(rows); }

void f16_unpack(const PackedWeight& weight, const char* panel, int column, float* out) {
    for (int64_t i = 0; i < weight.in_features; i++) {
        uint16_t value;
        memcpy(&value, panel + (i * kPanel + column) * 2, 2);
        out[i] = from_f16(value);
    }
}

constexpr Format kF32 = {kBlockRows, block_bytes, prepare, f32_multiply, f32_scratch_bytes, f32_unpack};
constexpr Format kF16 = {kBlockRows, block_bytes, prepare, f16_multiply, f16_scratch_bytes, f16_unpack};

}  // namespace

const Format* float_format(WeightKind kind) {
    switch (kind) {
        case WeightKind::f32: return &kF32;
        case WeightKind::f16: return &kF16;
        case WeightKind::bf16: return &bf16_format;
        default: return nullptr;
    }
}

}  // namespace octavo::OCTAVO_LEVEL
