// What the tests and benchmarks ask of a thread team.
#pragma once

#include <cstdint>
#include <vector>

#include "core/threads.h"

namespace octavo {

// How often each rank was called by one run().
std::vector<int> calls_per_rank(Threads& team);

// Rounds in which some member passed a barrier before another had reached it; 0 unless the barrier is broken.
int64_t barrier_faults(Threads& team, int64_t rounds);

// Mean time of one barrier with nothing between, in nanoseconds.
double barrier_ns(Threads& team, int64_t rounds);

// Runs a tape of `records` records that share out `pieces` pieces each, and counts what should not be: a record that starts before
// every member is done with the one before, a piece that is claimed twice or never, memory that is not aligned or that another
// member writes to as well.
int64_t tape_faults(Threads& team, int64_t records, int64_t pieces);

// Sum of x[n] through the kernel sum_f32. Blocks of 65,536 elements are added in order, so the result has the same bits
// for every size of team and every level.
double parallel_sum(Threads& team, const float* x, int64_t n);

}  // namespace octavo
