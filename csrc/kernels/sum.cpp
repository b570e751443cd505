#include "core/simd.h"
#include "kernels/kernels.h"

namespace octavo::OCTAVO_LEVEL {

float sum_f32(const float* x, int64_t n) {
    // Four accumulators: one would wait for its own previous addition (4 cycles on current cores).
    f32x16 a = {}, b = {}, c = {}, d = {};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        a += load16(x + i);
        b += load16(x + i + 16);
        c += load16(x + i + 32);
        d += load16(x + i + 48);
    }
    float tail[64] = {};
    memcpy(tail, x + i, (n - i) * sizeof(float));
    a += load16(tail);
    b += load16(tail + 16);
    c += load16(tail + 32);
    d += load16(tail + 48);
    return fold16((a + c) + (b + d));
}

}  // namespace octavo::OCTAVO_LEVEL
