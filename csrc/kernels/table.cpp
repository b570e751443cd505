#include "kernels/kernels.h"

namespace octavo::OCTAVO_LEVEL {

extern const Kernels table;
const Kernels table = {
    .sum_f32 = sum_f32,
};

}  // namespace octavo::OCTAVO_LEVEL
