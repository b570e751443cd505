#include "kernels/linear.h"

namespace octavo::OCTAVO_LEVEL {

const Format* block_format(WeightKind) { return nullptr; }

}  // namespace octavo::OCTAVO_LEVEL
