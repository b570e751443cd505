// One vector type of 16 lanes; the flags of the level decide how many registers it takes (4 of SSE or NEON, 2 of AVX2, 1 of
// AVX-512). Arithmetic is per lane and the compiler may not contract it, so that every level rounds alike.
//
// GCC compares and blends a vector of several registers lane by lane. What does so is therefore a template over a vector of any
// length, and in_registers() applies it to a f32x16 one register at a time.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace octavo::OCTAVO_LEVEL {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

// As much as one register holds.
#if defined(__AVX512F__)
typedef f32x16 f32_register;
#elif defined(__AVX__)
typedef float f32_register __attribute__((vector_size(32)));
#else
typedef float f32_register __attribute__((vector_size(16)));
#endif
constexpr int kRegister = sizeof(f32_register) / sizeof(float);

// Integers of a vector's size, which is what comparing two vectors gives.
template <class V>
using Integers = decltype(V{} < V{});

inline f32x16 load16(const float* from) {
    f32x16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

inline void store16(float* to, f32x16 v) { memcpy(to, &v, sizeof v); }

#if defined(__AVX512F__)
inline __mmask16 first_mask(int64_t n) { return (__mmask16)((1u << n) - 1); }

// The first n <= 16 lanes; the others are 0.
inline f32x16 load_part(const float* from, int64_t n) { return (f32x16)_mm512_maskz_loadu_ps(first_mask(n), from); }
inline void store_part(float* to, f32x16 v, int64_t n) { _mm512_mask_storeu_ps(to, first_mask(n), (__m512)v); }
inline f32x16 first_lanes(f32x16 v, int64_t n) { return (f32x16)_mm512_maskz_mov_ps(first_mask(n), (__m512)v); }
#else
inline f32x16 load_part(const float* from, int64_t n) {
    if (n == 16) return load16(from);
    f32x16 out = {};
    memcpy(&out, from, n * sizeof(float));
    return out;
}

inline void store_part(float* to, f32x16 v, int64_t n) {
    if (n == 16) store16(to, v);
    else memcpy(to, &v, n * sizeof(float));
}

inline f32x16 first_lanes(f32x16 v, int64_t n) {
    float lanes[16];
    store16(lanes, v);
    return load_part(lanes, n);
}
#endif

template <class V = f32x16>
inline V splat(float value) {
    return V{} + value;
}

// f of every register of x.
template <class F>
inline f32x16 in_registers(f32x16 x, const F& f) {
    float lanes[16];
    store16(lanes, x);
    for (int i = 0; i < 16; i += kRegister) {
        f32_register part;
        memcpy(&part, lanes + i, sizeof part);
        part = f(part);
        memcpy(lanes + i, &part, sizeof part);
    }
    return load16(lanes);
}

template <class F>
inline f32x16 in_registers(f32x16 x, f32x16 y, const F& f) {
    float lanes[16], others[16];
    store16(lanes, x);
    store16(others, y);
    for (int i = 0; i < 16; i += kRegister) {
        f32_register part, other;
        memcpy(&part, lanes + i, sizeof part);
        memcpy(&other, others + i, sizeof other);
        part = f(part, other);
        memcpy(lanes + i, &part, sizeof part);
    }
    return load16(lanes);
}

// The second where the lanes do not compare.
template <class V>
inline V larger(V a, V b) {
    return a > b ? a : b;
}
template <class V>
inline V smaller(V a, V b) {
    return a < b ? a : b;
}

inline f32x16 max16(f32x16 a, f32x16 b) {
    return in_registers(a, b, [](f32_register p, f32_register q) { return larger(p, q); });
}
inline f32x16 min16(f32x16 a, f32x16 b) {
    return in_registers(a, b, [](f32_register p, f32_register q) { return smaller(p, q); });
}

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

constexpr float kLeastExponent = -87.3365402f;  // e to this is the least normal float32

// p · 2^n for integers n from -126 to 128; p is not a subnormal.
template <class V>
inline V scale_by_power(V p, V n) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) return (V)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#endif
    const Integers<V> whole = __builtin_convertvector(n, Integers<V>), half = whole >> 1;  // two factors, because 2^128 is none
    return p * (V)((half + 127) << 23) * (V)((whole - half + 127) << 23);
}

// e^x within 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, then a polynomial in r. Results that would be subnormal are 0; NaN passes.
template <class V>
inline V exp_of(V x) {
    const V clamped = smaller(splat<V>(89.0f), larger(splat<V>(kLeastExponent), x));
    const V shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 · 2^23: the sum is rounded to an integer
    const V n = shifted - 12582912.0f;
    const V r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // the first product is exact
    V p = splat<V>(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return x < kLeastExponent ? V{} : scale_by_power(p, n);
}

// A series in x² where |x| is small, and otherwise 1 - 2 / (e^{2 |x|} + 1); within 2 ulp.
template <class V>
inline V tanh_of(V x) {
    const V a = x < 0.0f ? -x : x, z = x * x;
    V p = splat<V>(-5.704982206225395e-3f);
    p = p * z + 2.063908241689205e-2f;
    p = p * z - 5.373971536755562e-2f;
    p = p * z + 1.333144158124924e-1f;
    p = p * z - 3.333328068256378e-1f;
    const V near = x + x * z * p, far = 1.0f - 2.0f / (exp_of(a + a) + 1.0f);
    return a < 0.625f ? near : (x < 0.0f ? -far : far);
}

inline f32x16 exp16(f32x16 x) {
    return in_registers(x, [](f32_register part) { return exp_of(part); });
}
inline f32x16 tanh16(f32x16 x) {
    return in_registers(x, [](f32_register part) { return tanh_of(part); });
}
inline float exp1(float x) { return exp_of(splat<f32_register>(x))[0]; }

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

inline f32x16 widen_bf16(u16x16 halves) { return (f32x16)(__builtin_convertvector(halves, i32x16) << 16); }

// IEEE binary16. Without the instruction: exponent and fraction shifted into place, then scaled by the difference of the biases.
inline f32x16 widen_f16(u16x16 halves) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_maskz_cvtph_ps(0xffff, (__m256i)halves);
#elif defined(__F16C__)
    float lanes[16];
    uint16_t from[16];
    memcpy(from, &halves, sizeof from);
    for (int i = 0; i < 16; i += 8) _mm256_storeu_ps(lanes + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    return load16(lanes);
#else
    const i32x16 wide = __builtin_convertvector(halves, i32x16), magnitude = wide & 0x7fff, is_special = (0x7bff - magnitude) >> 31;
    const f32x16 scaled = (f32x16)(magnitude << 13) * 0x1p112f;
    return (f32x16)((i32x16)scaled | (is_special & 0x7f800000) | ((wide & 0x8000) << 16));
#endif
}

}  // namespace octavo::OCTAVO_LEVEL
