// Products on Intel's tile registers (AMX), with the panels of the other levels: what level `amx` has instead of their formats for
// bfloat16 and int8, and the same formats on tiles in software (amx_emulated.h), which run everywhere and are there for tests.
#pragma once

#include "kernels/linear.h"

namespace octavo {

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
const Format* amx_format(WeightKind kind);  // null: not one of those
}
#endif

namespace amx_emulated {
const Format* amx_format(WeightKind kind);
const char* first_fault();  // what a processor would have refused since the last call; null: nothing
}  // namespace amx_emulated

}  // namespace octavo
