// One register of the level, for kernels that count registers; f32x16 of core/simd.h is for all the others.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/worker.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace octavo::OCTAVO_LEVEL {

// kLanes float32 of a register, and how many rows an accumulator block of two registers per row may have.
#if defined(__AVX512F__)
typedef __m512 Lanes;
constexpr int kLanes = 16, kMaxRows = 12;
#elif defined(__AVX2__)
typedef __m256 Lanes;
constexpr int kLanes = 8, kMaxRows = 6;
#else
typedef float Lanes __attribute__((vector_size(16)));
constexpr int kLanes = 4, kMaxRows = 4;
#endif

OCTAVO_INLINE Lanes load_lanes(const void* from) {
    Lanes out;
    memcpy(&out, from, sizeof out);
    return out;
}

OCTAVO_INLINE void store_lanes(void* to, Lanes v) { memcpy(to, &v, sizeof v); }

OCTAVO_INLINE Lanes broadcast(const float* from) {
#if defined(__AVX512F__)
    return _mm512_set1_ps(*from);
#elif defined(__AVX2__)
    return _mm256_broadcast_ss(from);
#else
    return Lanes{} + *from;
#endif
}

// a · b + c, rounded once where the level can.
OCTAVO_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

}  // namespace octavo::OCTAVO_LEVEL
