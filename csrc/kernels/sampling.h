// From logits to the next token.
#pragma once

#include <stdint.h>

#include "kernels/worker.h"

namespace octavo {

struct SamplingKernels {
    // The lowest of the likeliest tokens of logits [n] and its logit; the first NaN counts as likeliest.
    int64_t (*likeliest)(const float* logits, int64_t n, float* top);
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
extern const SamplingKernels sampling_kernels;
}
#endif

}  // namespace octavo
