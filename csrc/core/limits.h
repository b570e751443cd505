// The limits of this machine, measured: what the benches compare kernels with.
#pragma once

#include <cstdint>

#include "core/threads.h"
#include "kernels/limits.h"

namespace octavo {

// GB/s at which the team reads data [bytes], 64-byte aligned, once: each member a contiguous part, as kernels read panels.
double read_bandwidth(Threads& team, const char* data, int64_t bytes);

// 10^9 additions and multiplications per second of the team, each member on registers of its own for about 2 ms.
double register_peak(Threads& team, Product kind);

}  // namespace octavo
