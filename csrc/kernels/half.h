// IEEE half precision without instructions for it.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/worker.h"

namespace octavo {

OCTAVO_INLINE uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

OCTAVO_INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

OCTAVO_INLINE float from_f16(uint16_t value) {
    const uint32_t sign = (uint32_t)(value & 0x8000) << 16, rest = value & 0x7fff;
    // 2^112 moves the exponent's bias from 15 to 127 and makes subnormals normal.
    const uint32_t finite = float_bits(float_of(rest << 13) * 5.192296858534828e33f);
    return float_of(sign | (rest < 0x7c00 ? finite : 0x7f800000 | rest << 13));
}

// To nearest, ties to even; beyond 65504 infinity; NaN stays NaN.
OCTAVO_INLINE uint16_t to_f16(float value) {
    const uint32_t bits = float_bits(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    const uint32_t normal = (rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13;
    // 0.5 has the unit of half's subnormals as its last bit, so the addition rounds to them.
    const uint32_t subnormal = float_bits(float_of(rest) + 0.5f) - (126u << 23);
    const uint32_t large = rest > 0x7f800000 ? 0x7e00 : 0x7c00;
    return (uint16_t)(sign | (rest >= 143u << 23 ? large : rest < 113u << 23 ? subnormal : normal));
}

}  // namespace octavo
