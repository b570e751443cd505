#include "kernels/linear_int.h"

namespace octavo::OCTAVO_LEVEL {

const Format* int_format(WeightKind kind) {
    switch (kind) {
        case WeightKind::int8: return &int8_format;
        case WeightKind::int4: return &int4_format;
        case WeightKind::int4_bf16: return &int4_bf16_format;
        default: return nullptr;
    }
}

}  // namespace octavo::OCTAVO_LEVEL
