#include "kernels/attention.h"

namespace octavo::OCTAVO_LEVEL {

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {};

}  // namespace octavo::OCTAVO_LEVEL
