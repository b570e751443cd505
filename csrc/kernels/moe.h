// Mixture of experts: which experts each token goes to, and their gated MLPs over tokens sorted by expert.
#pragma once

#include <stdint.h>

#include "kernels/linear.h"
#include "kernels/pointwise.h"
#include "kernels/worker.h"

namespace octavo {

// ids [T, top_k], weights [T, top_k]: the likeliest experts under the softmax over all logits [T, E]; ties go to the lower number.
struct Route {
    Matrix logits;
    int32_t* ids = nullptr;
    float* weights = nullptr;
    int32_t num_experts = 0, top_k = 0, renormalize = 0;
};

// out [T, H] = (residual +) sum over each token's experts, lowest number first, of weight · down(activation(gate(x)) · up(x)).
// The experts' weights are alike but for where their panels are.
struct Experts {
    Matrix x, out, residual;       // residual.data null: none; may be out
    const int32_t* ids = nullptr;  // [T, top_k]
    const float* weights = nullptr;
    PackedWeight gate_up, down;  // of any expert; gate_up is interleaved
    const char* const* gate_up_panels = nullptr;  // [E]
    const char* const* down_panels = nullptr;     // [E]
    int32_t num_experts = 0, top_k = 0;
    Activation activation = Activation::silu;
};

struct MoeKernels {
    void (*route)(const Route& args, const Step& step, const Worker& worker);
    void (*experts)(const Experts& args, const Step& step, const Worker& worker);
    Needs (*experts_needs)(const Experts& args, int64_t max_tokens);
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
extern const MoeKernels moe_kernels;
}
#endif

}  // namespace octavo
