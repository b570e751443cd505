// The formats of whole-number weights and the layout of their panels.
//
// int8, one scale per feature:
//     [I / 4] of { [half 0/1][16 features][4 inputs] u8 = code + 128 }, scales f32 [32]
//
// int4 and int4_bf16, a scale per group of 32, 64 or 128 inputs, and perhaps a zero point (otherwise 8):
//     [G] of { zero points u8 [2 groups][32 features] before every even group; scales f16 [32];
//              [group / 4] of { 64 bytes: byte 4 f + k is input k of feature f in its low nibble, of feature f + 16 in its high one } }
//
// Inputs beyond I are padded to a multiple of 4 with zero codes, whose activations are zero too; so the last group may be short.
#pragma once

#include "kernels/linear.h"
#include "kernels/quantize.h"

namespace octavo::OCTAVO_LEVEL {

extern const Format int8_format, int4_format, int4_bf16_format;

OCTAVO_INLINE int64_t num_quads(const PackedWeight& weight) { return (weight.in_features + 3) / 4; }

// Where the parts of an int4 panel stand, in bytes.
struct GroupLayout {
    int64_t groups, quads;  // G; quads of all inputs
    int group_quads;
    bool has_zeros;

    OCTAVO_INLINE explicit GroupLayout(const PackedWeight& weight)
        : groups((weight.in_features + weight.group - 1) / weight.group),
          quads(num_quads(weight)),
          group_quads(weight.group / 4),
          has_zeros(weight.flags & kHasZeroPoints) {}
    OCTAVO_INLINE int quads_of(int64_t g) const { return (int)(quads - g * group_quads < group_quads ? quads - g * group_quads : group_quads); }
    OCTAVO_INLINE int64_t zeros(int64_t g) const { return g / 2 * 2 * 64 * (group_quads + 1) + g / 2 * 64 + g % 2 * 32; }
    OCTAVO_INLINE int64_t scales(int64_t g) const { return g * 64 * (group_quads + 1) + (has_zeros ? (g / 2 + 1) * 64 : 0); }
    OCTAVO_INLINE int64_t codes(int64_t g) const { return scales(g) + 64; }
    OCTAVO_INLINE int64_t bytes() const { return codes(groups - 1) + 64 * quads_of(groups - 1); }
};

}  // namespace octavo::OCTAVO_LEVEL
