// Whole-number weights: found from floating-point ones, and packed into panels (linear_int8.cpp, linear_int4.cpp).
//
// Each function does the share of member `rank` of `size`; members do not meet.
#pragma once

#include <stdint.h>

#include "kernels/linear.h"

namespace octavo {

constexpr int32_t kHasZeroPoints = 1;  // PackedWeight::flags of int4 and int4_bf16; without it they are all 8

// Rows of a weight's codes; the rows of all parts follow each other. Row-major, and nothing has to be aligned.
struct CodeRows {
    const uint8_t* codes = nullptr;  // [rows, I]: int8 as two's complement, int4 one per byte, 0..15
    const float* scales = nullptr;   // [rows] for int8, [rows, G] for int4, G = ceil(I / group)
    const uint8_t* zeros = nullptr;  // [rows, G], or null
    int64_t rows = 0;
};

struct FloatRows {
    const void* values = nullptr;  // [rows, I]
    WeightKind kind = WeightKind::f32;  // f32, bf16 or f16
    int64_t rows = 0, columns = 0;
};

struct QuantizeKernels {
    int64_t (*panel_bytes)(const PackedWeight& weight);  // kinds int8, int4 and int4_bf16
    // Writes weight.panels, which must have room for num_panels() panels of panel_bytes and start at a multiple of 64.
    void (*pack)(const PackedWeight& weight, const CodeRows* parts, int64_t num_parts, int rank, int size);
    // codes [rows, I] int8 and scales [rows]: symmetric, -127..127. A row with values that are not finite has a NaN for its scale.
    void (*quantize_int8)(const FloatRows& from, int8_t* codes, float* scales, int rank, int size);
    // codes [rows, I] 0..15 around 8 and scales [rows, G], which float16 can hold: the ones of least squared error among a few.
    // float16 holds no more than 65504; scales beyond, and those of groups with values that are not finite, are NaN.
    void (*quantize_int4)(const FloatRows& from, int group, uint8_t* codes, float* scales, int rank, int size);
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
extern const QuantizeKernels quantize_kernels;
}
#endif

}  // namespace octavo
