#include "kernels/pointwise.h"

namespace octavo::OCTAVO_LEVEL {

extern const PointwiseKernels pointwise_kernels;
const PointwiseKernels pointwise_kernels = {};

}  // namespace octavo::OCTAVO_LEVEL
