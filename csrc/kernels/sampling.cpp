#include "kernels/sampling.h"

namespace octavo::OCTAVO_LEVEL {

extern const SamplingKernels sampling_kernels;
const SamplingKernels sampling_kernels = {};

}  // namespace octavo::OCTAVO_LEVEL
