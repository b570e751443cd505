#include "kernels/kernels.h"

namespace octavo::OCTAVO_LEVEL {

extern const Kernels table;
const Kernels table = {
    .sum_f32 = sum_f32,
    .linear = &linear_kernels,
    .attention = &attention_kernels,
    .pointwise = &pointwise_kernels,
    .moe = &moe_kernels,
    .sampling = &sampling_kernels,
    .quantize = &quantize_kernels,
    .limits = &limit_kernels,
};

}  // namespace octavo::OCTAVO_LEVEL
