#pragma once

#include <nanobind/nanobind.h>

namespace octavo {

// Step, Tape, and every kernel's arguments. Threads must be bound before.
void bind_tape(nanobind::module_& m);

}  // namespace octavo
