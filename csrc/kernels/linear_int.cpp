#include "kernels/linear.h"

namespace octavo::OCTAVO_LEVEL {

const Format* int_format(WeightKind) { return nullptr; }

}  // namespace octavo::OCTAVO_LEVEL
