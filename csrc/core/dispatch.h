// Which compiled level of the kernels runs: the highest that this CPU has, unless a lower one is asked for.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace octavo {

const Kernels& kernels();

// Levels that were compiled in and that this CPU can run, lowest first; never empty.
std::vector<std::string> kernel_levels();

const char* kernel_level();

// Chooses the level for the whole process; false if kernel_levels() does not name it. Not while kernels run.
bool use_kernel_level(const std::string& name);

}  // namespace octavo
