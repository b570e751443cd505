#include "kernels/linear_int.h"

namespace octavo::OCTAVO_LEVEL {

const Format* int_format(WeightKind kind) {
    switch (kind) {
        case WeightKind::int8: return &int8_format;
        default: return nullptr;
    }
}

}  // namespace octavo::OCTAVO_LEVEL
