// One vector type; the flags of the level decide how many registers it takes (4 of SSE or NEON, 2 of AVX2, 1 of AVX-512).
// Arithmetic is per lane and the compiler may not contract it, so that every level rounds alike.
#pragma once

#include <stdint.h>
#include <string.h>

namespace octavo::OCTAVO_LEVEL {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

inline f32x16 load16(const float* from) {
    f32x16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

inline void store16(float* to, f32x16 v) { memcpy(to, &v, sizeof v); }

// The first n < 16 lanes; the others are 0.
inline f32x16 load_part(const float* from, int64_t n) {
    f32x16 out = {};
    memcpy(&out, from, n * sizeof(float));
    return out;
}

inline void store_part(float* to, f32x16 v, int64_t n) { memcpy(to, &v, n * sizeof(float)); }

inline f32x16 splat(float value) { return f32x16{} + value; }
inline f32x16 max16(f32x16 a, f32x16 b) { return a > b ? a : b; }
inline f32x16 min16(f32x16 a, f32x16 b) { return a < b ? a : b; }

inline float fold16(f32x16 v) {
    float lanes[16];
    memcpy(lanes, &v, sizeof v);
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    }
    return lanes[0];
}

// The largest lane; a NaN may or may not show.
inline float max_lane(f32x16 v) {
    float lanes[16];
    memcpy(lanes, &v, sizeof v);
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    }
    return lanes[0];
}

// e^x within 2 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, then a polynomial in r. 0 below -87.3, infinity above 88.7; NaN passes.
inline f32x16 exp16(f32x16 x) {
    const f32x16 clamped = min16(max16(x, splat(-87.5f)), splat(89.0f));
    const f32x16 shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 · 2^23: the sum's low bits are n
    const f32x16 n = shifted - 12582912.0f;
    const f32x16 r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    f32x16 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const i32x16 half = __builtin_convertvector(n, i32x16) >> 1;  // 2^n in two factors: n reaches 128 and -126
    const i32x16 rest = __builtin_convertvector(n, i32x16) - half;
    const f32x16 out = p * (f32x16)((half + 127) << 23) * (f32x16)((rest + 127) << 23);
    return x == x ? (x < -87.3f ? splat(0.0f) : out) : x;
}

inline float exp1(float x) { return exp16(splat(x))[0]; }

// tanh(x) = 1 - 2 / (e^{2x} + 1), which keeps its absolute accuracy near 0.
inline f32x16 tanh16(f32x16 x) { return 1.0f - 2.0f / (exp16(x * 2.0f) + 1.0f); }

// bfloat16 is the upper half of a float32; rounding is to nearest even.
inline uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_bf16(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

}  // namespace octavo::OCTAVO_LEVEL
