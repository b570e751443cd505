// Rows of 4-byte words turned into columns, with registers of 4 that every machine has.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/worker.h"

namespace octavo {

// out[i * out_rows + r] = x[r * x_stride + i], i < n: 4-byte words of rows become rows of words.
OCTAVO_INLINE void transpose_words(const float* x, int64_t x_stride, int rows, int64_t n, float* out, int out_rows) {
    typedef float Four __attribute__((vector_size(16)));
    typedef int32_t Pick __attribute__((vector_size(16)));
    int r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * x_stride) {
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) {
            Four a, b, c, d;
            memcpy(&a, x + i, 16);
            memcpy(&b, x + x_stride + i, 16);
            memcpy(&c, x + 2 * x_stride + i, 16);
            memcpy(&d, x + 3 * x_stride + i, 16);
            const Four ab0 = __builtin_shuffle(a, b, Pick{0, 4, 1, 5}), ab2 = __builtin_shuffle(a, b, Pick{2, 6, 3, 7});
            const Four cd0 = __builtin_shuffle(c, d, Pick{0, 4, 1, 5}), cd2 = __builtin_shuffle(c, d, Pick{2, 6, 3, 7});
            a = __builtin_shuffle(ab0, cd0, Pick{0, 1, 4, 5});
            b = __builtin_shuffle(ab0, cd0, Pick{2, 3, 6, 7});
            c = __builtin_shuffle(ab2, cd2, Pick{0, 1, 4, 5});
            d = __builtin_shuffle(ab2, cd2, Pick{2, 3, 6, 7});
            memcpy(out + i * out_rows + r, &a, 16);
            memcpy(out + (i + 1) * out_rows + r, &b, 16);
            memcpy(out + (i + 2) * out_rows + r, &c, 16);
            memcpy(out + (i + 3) * out_rows + r, &d, 16);
        }
        for (; i < n; i++) {
            for (int k = 0; k < 4; k++) memcpy(out + i * out_rows + r + k, x + k * x_stride + i, 4);
        }
    }
    for (; r < rows; r++, x += x_stride) {
        for (int64_t i = 0; i < n; i++) memcpy(out + i * out_rows + r, x + i, 4);
    }
}

}  // namespace octavo
