// What the processor can do at best: the yardstick of the benches.
#pragma once

#include <stdint.h>

#include "kernels/worker.h"

namespace octavo {

// Products that kernels are made of: float32 multiply-add, bfloat16 pairs, quads of 8-bit integers.
enum class Product : int32_t { f32 = 0, bf16 = 1, int8 = 2 };
constexpr int kNumProducts = 3;

struct LimitKernels {
    // Reads data [bytes] front to back, 64-byte aligned, a multiple of 4096 bytes; returns something that depends on all of it.
    uint64_t (*read)(const char* data, int64_t bytes);
    // Does `rounds` rounds of products on registers; returns how many additions and multiplications that were.
    int64_t (*multiply)(Product kind, int64_t rounds);
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
extern const LimitKernels limit_kernels;
}
#endif

}  // namespace octavo
