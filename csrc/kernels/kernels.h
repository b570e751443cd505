// Every kernel, by family: what each computes, layout, alignment and workspace stand in the family's header. A kernel trusts its
// arguments, allocates nothing and throws nothing.
//
// Each source in this folder is compiled once per instruction-set level, with OCTAVO_LEVEL defined to the level's name, into the
// namespace octavo::<level>. Such sources include C headers only: an inline function of the C++ library compiled with AVX-512
// could be the copy that the linker keeps for everybody.
#pragma once

#include <stdint.h>

#include "kernels/attention.h"
#include "kernels/limits.h"
#include "kernels/linear.h"
#include "kernels/moe.h"
#include "kernels/pointwise.h"
#include "kernels/quantize.h"
#include "kernels/sampling.h"

namespace octavo {

struct Kernels {
    // Sum of x[n]; n >= 0, no alignment asked. Bitwise the same on every level: element i is added to lane i % 64 in order of i,
    // and the lanes are folded in halves.
    float (*sum_f32)(const float* x, int64_t n);
    const LinearKernels* linear;
    const AttentionKernels* attention;
    const PointwiseKernels* pointwise;
    const MoeKernels* moe;
    const SamplingKernels* sampling;
    const QuantizeKernels* quantize;
    const LimitKernels* limits;
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
float sum_f32(const float* x, int64_t n);
}
#endif

}  // namespace octavo
