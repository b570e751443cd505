// Panels multiplied in float32, and narrower ones that widen to it.
#pragma once

#include "kernels/panel_product.h"

namespace octavo::OCTAVO_LEVEL {

extern const Format bf16_format;

struct F32Panel {
    static constexpr int kStepBytes = kPanel * 4, kWords = 1;
    static OCTAVO_INLINE void load(const char* step, int v, Lanes* w) { w[0] = load_lanes(step + v * kLanes * 4); }
    static OCTAVO_INLINE Lanes dot(Lanes w, Lanes x, Lanes sum) { return multiply_add(w, x, sum); }
};

// Rows up to which a panel is widened in registers; with more it is written out once for all of them.
constexpr int kWidenInRegisters = kLanes == 16 ? kMaxRows : 4;

template <class P>
int64_t widened_bytes(int rows) {
    return rows <= kWidenInRegisters ? 0 : kSliceSteps * kPanel * (int64_t)sizeof(float);
}

template <class P>
void widen(const char* w, int64_t steps, char* out) {
    for (; steps > 0; steps--, w += P::kStepBytes, out += P::kWords * kPanel * sizeof(float)) {
        for (int v = 0; v < kVectors; v++) {
            Lanes values[P::kWords];
            P::load(w, v, values);
            for (int j = 0; j < P::kWords; j++) store_lanes(out + (j * kVectors + v) * sizeof(Lanes), values[j]);
        }
    }
}

// A panel P whose words are float32 inputs, times all rows.
template <class P>
void multiply_widened(const char* panel, int64_t steps, const char* blocks, int rows, float* tile, char* scratch) {
    if (rows <= kWidenInRegisters) return multiply_panel<P>(panel, steps, blocks, rows, tile);
    constexpr int64_t slice = kSliceSteps / P::kWords;
    for (int64_t s = 0; s < steps; s += slice) {
        const int64_t n = steps - s < slice ? steps - s : slice;
        const char* w = panel + s * P::kStepBytes;
        widen<P>(w, n, scratch);
        const int64_t bytes = n * P::kStepBytes;
        multiply_slice<F32Panel>(scratch, n * P::kWords, blocks, s * P::kWords, steps * P::kWords, rows, w + bytes, bytes, tile);
    }
}

}  // namespace octavo::OCTAVO_LEVEL
