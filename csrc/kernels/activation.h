// Pointwise nonlinearities on 16 lanes: the same bits on every level.
#pragma once

#include "core/simd.h"
#include "kernels/linear.h"

namespace octavo::OCTAVO_LEVEL {

inline f32x16 silu16(f32x16 x) { return x / (1.0f + exp16(-x)); }

// 0.5 x (1 + erf(x / sqrt 2)); erf from Abramowitz and Stegun 7.1.26 would be 1.5e-7 off, this series is within 1e-7 of it in float32.
inline f32x16 gelu16(f32x16 x) {
    const f32x16 z = x * 0.70710678f, a = z < 0.0f ? -z : z;
    const f32x16 t = 1.0f / (1.0f + 0.3275911f * a);
    f32x16 p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const f32x16 tail = p * t * exp16(-(a * a));  // 1 - erf(a)
    return 0.5f * x * (z < 0.0f ? tail : 2.0f - tail);
}

inline f32x16 gelu_tanh16(f32x16 x) { return 0.5f * x * (1.0f + tanh16(0.79788456f * (x + 0.044715f * x * x * x))); }

inline f32x16 relu16(f32x16 x) { return x > 0.0f ? x : splat(0.0f); }

inline f32x16 activate16(Activation activation, f32x16 x) {
    switch (activation) {
        case Activation::silu: return silu16(x);
        case Activation::gelu: return gelu16(x);
        case Activation::gelu_tanh: return gelu_tanh16(x);
        case Activation::relu: return relu16(x);
        case Activation::relu2: return relu16(x) * relu16(x);
        case Activation::none: break;
    }
    return x;
}

}  // namespace octavo::OCTAVO_LEVEL
