#include "kernels/moe.h"

namespace octavo::OCTAVO_LEVEL {

extern const MoeKernels moe_kernels;
const MoeKernels moe_kernels = {};

}  // namespace octavo::OCTAVO_LEVEL
