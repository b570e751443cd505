// Dot products of unsigned 8-bit codes with signed 8-bit activations, exact in int32 and so the same on every level.
//
// Inputs come in quads. A line of codes is [16 features][4 inputs] u8; a Quad is four activations of one row in the form that the
// level multiplies with, and is read as a broadcast:
//
//     VNNI    x0 x1 x2 x3 as int8                      one vpdpbusd per line and row
//     others  x0 x2 | x1 x3 as int16                   two vpmaddwd: the even bytes of the codes, then the odd ones
//
// maddubs would need one instruction less and saturates: 2 · 255 · 127 does not fit in int16.
#pragma once

#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "core/simd.h"
#include "kernels/worker.h"

namespace octavo::OCTAVO_LEVEL {

typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

#ifdef __AVX512VNNI__
typedef int32_t Quad;
OCTAVO_INLINE Quad make_quad(int32_t four_bytes) { return four_bytes; }
#else
typedef int64_t Quad;
OCTAVO_INLINE Quad make_quad(int32_t four_bytes) {
    const int16_t x[4] = {(int8_t)four_bytes, (int8_t)(four_bytes >> 16), (int8_t)(four_bytes >> 8), (int8_t)(four_bytes >> 24)};
    Quad out;
    memcpy(&out, x, sizeof out);
    return out;
}
#endif

// Sums: 16 int32, one per feature. Codes: a line as the product wants it, split once for all rows.
#if defined(__AVX512VNNI__)
constexpr int kDotRows = 12;  // rows of a register block: 24 sums, 2 lines of codes and a broadcast
typedef __m512i Sums;
typedef __m512i Codes;
OCTAVO_INLINE Sums splat_sums(int32_t value) { return _mm512_set1_epi32(value); }
OCTAVO_INLINE Sums sums_of(i32x16 v) { return (Sums)v; }
OCTAVO_INLINE i32x16 lanes(Sums a) { return (i32x16)a; }
OCTAVO_INLINE Codes load_codes(const void* line) { return _mm512_load_si512(line); }
OCTAVO_INLINE Codes low_nibbles(const void* line) { return _mm512_and_si512(_mm512_load_si512(line), _mm512_set1_epi8(15)); }
OCTAVO_INLINE Codes high_nibbles(const void* line) {
    return _mm512_and_si512(_mm512_srli_epi16(_mm512_load_si512(line), 4), _mm512_set1_epi8(15));
}
// Assembly, because GCC 12 copies every accumulator of the intrinsic before and after it.
OCTAVO_INLINE Sums add_dot(Sums sums, Codes codes, const Quad* x) {
    const __m512i broadcast = _mm512_set1_epi32(*x);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(codes), "v"(broadcast));
    return sums;
}
OCTAVO_INLINE Sums add_sums(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
#elif defined(__AVX512BW__)
constexpr int kDotRows = 12;
typedef __m512i Sums;
struct Codes {
    __m512i even, odd;
};
OCTAVO_INLINE Codes split_codes(__m512i line) { return {_mm512_and_si512(line, _mm512_set1_epi16(255)), _mm512_srli_epi16(line, 8)}; }
OCTAVO_INLINE Sums splat_sums(int32_t value) { return _mm512_set1_epi32(value); }
OCTAVO_INLINE i32x16 lanes(Sums a) { return (i32x16)a; }
OCTAVO_INLINE Codes load_codes(const void* line) { return split_codes(_mm512_load_si512(line)); }
OCTAVO_INLINE Codes low_nibbles(const void* line) { return split_codes(_mm512_and_si512(_mm512_load_si512(line), _mm512_set1_epi8(15))); }
OCTAVO_INLINE Codes high_nibbles(const void* line) {
    return split_codes(_mm512_and_si512(_mm512_srli_epi16(_mm512_load_si512(line), 4), _mm512_set1_epi8(15)));
}
OCTAVO_INLINE Sums add_dot(Sums sums, Codes codes, const Quad* x) {
    const int32_t* pairs = reinterpret_cast<const int32_t*>(x);
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(codes.even, _mm512_set1_epi32(pairs[0])));
    return _mm512_add_epi32(sums, _mm512_madd_epi16(codes.odd, _mm512_set1_epi32(pairs[1])));
}
OCTAVO_INLINE Sums add_sums(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
#elif defined(__AVX2__)
constexpr int kDotRows = 4;
struct Sums {
    __m256i low, high;
};
struct Codes {
    __m256i low_even, low_odd, high_even, high_odd;
};
OCTAVO_INLINE Codes split_codes(__m256i low, __m256i high) {
    const __m256i even = _mm256_set1_epi16(255);
    return {_mm256_and_si256(low, even), _mm256_srli_epi16(low, 8), _mm256_and_si256(high, even), _mm256_srli_epi16(high, 8)};
}
OCTAVO_INLINE Sums splat_sums(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
OCTAVO_INLINE i32x16 lanes(Sums a) {
    i32x16 out;
    memcpy(&out, &a, sizeof out);
    return out;
}
OCTAVO_INLINE Codes load_codes(const void* line) {
    const __m256i* half = static_cast<const __m256i*>(line);
    return split_codes(_mm256_load_si256(half), _mm256_load_si256(half + 1));
}
OCTAVO_INLINE Codes low_nibbles(const void* line) {
    const __m256i* half = static_cast<const __m256i*>(line);
    const __m256i mask = _mm256_set1_epi8(15);
    return split_codes(_mm256_and_si256(_mm256_load_si256(half), mask), _mm256_and_si256(_mm256_load_si256(half + 1), mask));
}
OCTAVO_INLINE Codes high_nibbles(const void* line) {
    const __m256i* half = static_cast<const __m256i*>(line);
    const __m256i mask = _mm256_set1_epi8(15);
    return split_codes(_mm256_and_si256(_mm256_srli_epi16(_mm256_load_si256(half), 4), mask),
                       _mm256_and_si256(_mm256_srli_epi16(_mm256_load_si256(half + 1), 4), mask));
}
OCTAVO_INLINE Sums add_dot(Sums sums, const Codes& codes, const Quad* x) {
    const int32_t* pairs = reinterpret_cast<const int32_t*>(x);
    const __m256i even = _mm256_set1_epi32(pairs[0]), odd = _mm256_set1_epi32(pairs[1]);
    sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(codes.low_even, even));
    sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(codes.high_even, even));
    sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(codes.low_odd, odd));
    sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(codes.high_odd, odd));
    return sums;
}
OCTAVO_INLINE Sums add_sums(Sums a, Sums b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
#else
constexpr int kDotRows = 4;
typedef i32x16 Sums;
typedef i32x16 Codes;
OCTAVO_INLINE Sums splat_sums(int32_t value) { return i32x16{} + value; }
OCTAVO_INLINE i32x16 lanes(Sums a) { return a; }
OCTAVO_INLINE Codes load_codes(const void* line) {
    Codes out;
    memcpy(&out, line, sizeof out);
    return out;
}
OCTAVO_INLINE Codes low_nibbles(const void* line) { return load_codes(line) & 0x0f0f0f0f; }
OCTAVO_INLINE Codes high_nibbles(const void* line) { return load_codes(line) >> 4 & 0x0f0f0f0f; }
OCTAVO_INLINE Sums add_dot(Sums sums, const Codes& codes, const Quad* x) {
    int16_t v[4];
    memcpy(v, x, sizeof v);
    return sums + (codes & 255) * v[0] + (codes >> 16 & 255) * v[1] + (codes >> 8 & 255) * v[2] + (codes >> 24 & 255) * v[3];
}
OCTAVO_INLINE Sums add_sums(Sums a, Sums b) { return a + b; }
#endif

// Halves of a panel whose sums a register block keeps: both where there are 32 registers.
constexpr int kDotHalves = kDotRows == 12 ? 2 : 1;
// Rows of a prepared block: one or two register blocks of even sizes, so that 13 rows are not 12 and 1.
constexpr int kBlockRows = 2 * kDotRows;
OCTAVO_INLINE int first_rows(int rows) { return rows <= kDotRows ? rows : (rows + 1) / 2; }

OCTAVO_INLINE f32x16 to_float(Sums sums) { return __builtin_convertvector(lanes(sums), f32x16); }

// The largest magnitude of x [n] as its bits, which order as integers do; 0x7f800000 or more when some value is not finite.
OCTAVO_INLINE int32_t max_bits(const float* x, int64_t n) {
    i32x16 most = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const i32x16 bits = (i32x16)load16(x + i) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    if (i < n) {
        const i32x16 bits = (i32x16)load_part(x + i, n - i) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    int32_t out = 0;
    for (int lane = 0; lane < 16; lane++) out = most[lane] > out ? most[lane] : out;
    return out;
}

struct Quantizer {
    float scale, inverse;
};

// Symmetric to ±127. A row of zeros, or of values too small for their inverse, has scale 0; one with values that are not finite NaN.
OCTAVO_INLINE Quantizer quantizer(int32_t bits) {
    float most;
    memcpy(&most, &bits, sizeof most);
    if (bits >= 0x7f800000) return {__builtin_nanf(""), 0.0f};
    if (most < 1e-36f) return {0.0f, 0.0f};
    return {most / 127.0f, 127.0f / most};
}

// Codes of 16 values, rounded to nearest even; their sum is added to `sums`. Values that are not finite become 0.
OCTAVO_INLINE i8x16 quantize16(f32x16 x, float inverse, i32x16& sums) {
    const f32x16 shifted = x * inverse + 12582912.0f;  // 1.5 · 2^23: the sum's low bits are the integer
    const i32x16 codes = inverse != 0.0f ? (i32x16)shifted - 0x4b400000 : i32x16{};
    sums += codes;
    return __builtin_convertvector(codes, i8x16);
}

// x [n] as quads, `stride` apart, zeros behind the end. Returns the sum of the codes.
OCTAVO_INLINE int32_t quantize_quads(const float* x, int64_t n, float inverse, Quad* out, int64_t stride) {
    i32x16 sums = {};
    for (int64_t i = 0; i < n; i += 16) {
        const i32x4 four = (i32x4)quantize16(n - i >= 16 ? load16(x + i) : load_part(x + i, n - i), inverse, sums);
        const int64_t quads = n - i >= 16 ? 4 : (n - i + 3) / 4;
        for (int64_t q = 0; q < quads; q++) out[(i / 4 + q) * stride] = make_quad(four[q]);
    }
    int32_t total = 0;
    for (int lane = 0; lane < 16; lane++) total += sums[lane];
    return total;
}

}  // namespace octavo::OCTAVO_LEVEL
