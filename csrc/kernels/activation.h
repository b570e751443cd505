// Pointwise nonlinearities: the same bits on every level. Each is a template over a vector of any length, see core/simd.h.
#pragma once

#include "core/simd.h"
#include "kernels/linear.h"

namespace octavo::OCTAVO_LEVEL {

template <class V>
inline V silu_of(V x) {
    return x / (1.0f + exp_of(-x));
}

// x Φ(x). For a = |x|: Φ(-a) = e^{-a²/2} P(t) with t = 1 / (1 + 0.35 a), P fitted to 3e-8 for a < 14, beyond which x Φ(-a) is 0.
// a² is split so that its rounding does not show in the tail.
template <class V>
inline V gelu_of(V x) {
    const V a = smaller(x < 0.0f ? -x : x, splat<V>(14.0f));
    const V high = (V)(((Integers<V>)a + 0x800) & ~0xfff), low = 0.5f * (a - high) * (a + high);  // high² is exact
    const V t = 1.0f / (1.0f + 0.35f * a);
    V p = splat<V>(-2.914591319859028e-2f);
    p = p * t + 1.4397160708904266e-1f;
    p = p * t - 2.5571408867836e-1f;
    p = p * t + 1.5917395536035278e-1f;
    p = p * t - 2.3109715431928635e-2f;
    p = p * t + 1.0550795495510101e-1f;
    p = p * t + 1.1983288079500198e-1f;
    p = p * t + 1.3986186683177948e-1f;
    p = p * t + 1.3962140679359436e-1f;
    const V tail = p * t * exp_of(-0.5f * high * high) * (1.0f - low * (1.0f - low * (0.5f - low * 0.16666667f)));
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

// 0.5 (1 + tanh u) is 1 / (1 + e^{-2 u}), which loses nothing where tanh u is near -1.
template <class V>
inline V gelu_tanh_of(V x) {
    return x / (1.0f + exp_of(-1.59576912f * (x + 0.044715f * x * x * x)));
}

template <class V>
inline V relu_of(V x) {
    return x < 0.0f ? V{} : x;
}

inline f32x16 silu16(f32x16 x) {
    return in_registers(x, [](f32_register part) { return silu_of(part); });
}
inline f32x16 gelu16(f32x16 x) {
    return in_registers(x, [](f32_register part) { return gelu_of(part); });
}
inline f32x16 gelu_tanh16(f32x16 x) {
    return in_registers(x, [](f32_register part) { return gelu_tanh_of(part); });
}
inline f32x16 relu16(f32x16 x) {
    return in_registers(x, [](f32_register part) { return relu_of(part); });
}

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
