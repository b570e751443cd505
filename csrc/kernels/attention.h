// Softmax attention over the paged cache: queries, keys and values are normalized, rotated, written and attended to in one record.
#pragma once

#include <stdint.h>

#include "kernels/worker.h"

namespace octavo {

enum class CacheKind : int32_t { f32 = 0, bf16 = 1, int8 = 2 };

// out [T, N, D]: each token's query heads over the keys and values of its row, positions max(0, p - window + 1) .. p.
struct Attention {
    const float* q = nullptr;  // [T, N, D], tokens q_stride apart; likewise k and v [T, K, D]
    const float* k = nullptr;
    const float* v = nullptr;
    int64_t q_stride = 0, k_stride = 0, v_stride = 0;
    const float* norm_weight = nullptr;  // [N + K, D]: each query and key head is first scaled to unit root-mean-square; or null
    float norm_eps = 0;
    const float* angles = nullptr;  // [T, R]: R/2 cosines, R/2 sines; or null
    int32_t rotated = 0;            // R <= D
    float clip = 0;                 // q, k and v are cut to [-clip, clip] before rotation; 0: not
    float* out = nullptr;
    int64_t out_stride = 0;
    char* cache = nullptr;  // this layer's KV tensor
    CacheKind kind = CacheKind::f32;
    int64_t num_pages = 0;
    int32_t page_size = 0;  // P
    int32_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
    int32_t window = 0;      // 0: unbounded
    float scale = 1;
    float softcap = 0;             // 0: none
    const float* sinks = nullptr;  // [N] logits that take part in the softmax without a value; or null
    char* plan = nullptr;          // what plan_attention wrote for this group in this step, for as many query and KV heads as here
    int32_t group = 0;             // index into Step::groups
};

// Writes the plan that the layers of one cache group share in a step.
struct PlanAttention {
    char* plan = nullptr;
    int64_t plan_bytes = 0;
    int32_t group = 0;
    int32_t page_size = 0, window = 0;
    int32_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
    int32_t max_rows = 0, max_tokens = 0, max_pages = 0;  // bounds of any step
    int32_t share_prefixes = 1;
};

struct AttentionKernels {
    void (*attention)(const Attention& args, const Step& step, const Worker& worker);
    Needs (*attention_needs)(const Attention& args, int64_t max_tokens);
    void (*plan)(const PlanAttention& args, const Step& step, const Worker& worker);
    int64_t (*plan_bytes)(const PlanAttention& args);
    int64_t (*cache_bytes)(const Attention& args);  // of the layer's KV tensor: num_pages pages
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
extern const AttentionKernels attention_kernels;
}
#endif

}  // namespace octavo
