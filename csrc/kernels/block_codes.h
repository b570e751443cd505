// GGUF's block formats as panels: where everything stands, shared by what packs a panel and by what reads it.
//
// A panel is a sequence of spans, 32 inputs long (q*_0, q*_1, iq4_nl) or 256 (K-quants). A span is a header and then one step, or
// eight, of 32 inputs, and has as many bytes as the file's blocks for the same weights:
//
//     q8_0   q4_0   iq4_nl    d f16 [32]
//     q5_0                    d f16 [32]
//     q4_1   q5_1             d f16 [32], m f16 [32]
//     q4_k   q5_k             d f16 [32], dmin f16 [32], scales 6 bits [8][32], mins 6 bits [8][32]
//     q6_k                    d f16 [32]; and each step begins with its scales, int8 [2][32], so that memory is read strictly forward
//
// The codes of a step are 16 lines of 64 bytes, u8 [quad 0..7][half 0/1][16 features][4 inputs], stored with fewer bits:
//
//     8 bits  as they are
//     4 bits  [quad] of 64 bytes: half 0 in the low nibbles, half 1 in the high ones
//     5 bits  bit 4 of all lines, 2 x 64 bytes: bit t of byte b of group g belongs to byte b of line 8 g + t; then as 4 bits
//     6 bits  [4 lines] of 3 x 64 bytes: three lines in the low 6 bits, the fourth in the pairs of bits above them
//
// The sub-scales of q4_k and q5_k are lines, too: 256 values, 4 lines of 6 bits.
#pragma once

#include <stdint.h>

#include "kernels/linear.h"

namespace octavo {

constexpr int kStep = 32;        // inputs whose codes are decoded together
constexpr int kLine = 64;        // bytes of a line
constexpr int kStepLines = 16;   // lines of decoded codes in a step
constexpr int kSixBits = 192;    // bytes of four lines of 6 bits

struct BlockShape {
    int inputs;        // of a block and of a span
    int file_bytes;    // of a block in the file
    int header_bytes;  // of a span
    int scale_bytes;   // of a step, before its codes
    int bits;          // of a code
    int offset;        // value = scale · (code - offset), or scale · code - min
    bool has_mins;

    constexpr bool has_sub_mins() const { return inputs == 256 && has_mins; }
    constexpr int steps() const { return inputs / kStep; }
    constexpr int step_bytes() const { return scale_bytes + bits * kStep * kPanel / 8; }
    constexpr int span_bytes() const { return header_bytes + steps() * step_bytes(); }
};

constexpr BlockShape block_shape(WeightKind kind) {
    switch (kind) {
        case WeightKind::q8_0: return {32, 34, 64, 0, 8, 128, false};
        case WeightKind::q4_0: return {32, 18, 64, 0, 4, 8, false};
        case WeightKind::q4_1: return {32, 20, 128, 0, 4, 0, true};
        case WeightKind::q5_0: return {32, 22, 64, 0, 5, 16, false};
        case WeightKind::q5_1: return {32, 24, 128, 0, 5, 0, true};
        case WeightKind::q4_k: return {256, 144, 128 + 2 * kSixBits, 0, 4, 0, true};
        case WeightKind::q5_k: return {256, 176, 128 + 2 * kSixBits, 0, 5, 0, true};
        case WeightKind::q6_k: return {256, 210, 64, 2 * kPanel, 6, 32, false};
        case WeightKind::iq4_nl: return {32, 18, 64, 0, 4, 128, false};
        default: return {0, 0, 0, 0, 0, 0, false};
    }
}

// iq4_nl's values, 128 added.
constexpr uint8_t kNonLinear[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

}  // namespace octavo
