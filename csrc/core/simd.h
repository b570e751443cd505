// One vector type; the flags of the level decide how many registers it takes (4 of SSE or NEON, 2 of AVX2, 1 of AVX-512).
// Arithmetic is per lane and the compiler may not contract it, so that every level rounds alike.
#pragma once

#include <string.h>

namespace octavo::OCTAVO_LEVEL {

typedef float f32x16 __attribute__((vector_size(64)));

inline f32x16 load16(const float* from) {
    f32x16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

inline float fold16(f32x16 v) {
    float lanes[16];
    memcpy(lanes, &v, sizeof v);
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    }
    return lanes[0];
}

}  // namespace octavo::OCTAVO_LEVEL
