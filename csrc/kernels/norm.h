// Root-mean-square normalization of one row, as the kernels that fuse it and the one that does not compute it.
#pragma once

#include "core/simd.h"

namespace octavo::OCTAVO_LEVEL {

// 1 / sqrt(mean(x²) + eps) of x [n]. Four accumulators, folded in a fixed order.
inline float inverse_rms(const float* x, int64_t n, float eps) {
    f32x16 a = {}, b = {}, c = {}, d = {};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        const f32x16 p = load16(x + i), q = load16(x + i + 16), r = load16(x + i + 32), s = load16(x + i + 48);
        a += p * p;
        b += q * q;
        c += r * r;
        d += s * s;
    }
    for (; i + 16 <= n; i += 16) {
        const f32x16 p = load16(x + i);
        a += p * p;
    }
    if (i < n) {
        const f32x16 p = load_part(x + i, n - i);
        b += p * p;
    }
    return 1.0f / __builtin_sqrtf(fold16((a + c) + (b + d)) / (float)n + eps);
}

// out = x / rms(x) · weight; out may be x.
inline void rms_norm_row(float* out, const float* x, const float* weight, int64_t n, float eps) {
    const float scale = inverse_rms(x, n, eps);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) store16(out + i, load16(x + i) * scale * load16(weight + i));
    if (i < n) store_part(out + i, load_part(x + i, n - i) * scale * load_part(weight + i, n - i), n - i);
}

}  // namespace octavo::OCTAVO_LEVEL
