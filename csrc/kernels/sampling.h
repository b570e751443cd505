// From logits to the next token, and what a request may ask to be told or changed on the way. octavo/worker/sampling/ has the same in
// torch, which defines the results; here a weight is made by this library's own exp. All sums are of integers, so no result
// depends on the team or on how a row is cut.
#pragma once

#include <stdint.h>

#include "kernels/worker.h"

namespace octavo {

// A row's tokens are looked at in stretches of 128. The largest logit of each is kept, NaN if it has one: most of what comes later
// then reads only the stretches that matter.
//
//     logits  [ 128 tokens ][ 128 tokens ] …      maxima  [ one ][ one ] …
constexpr int64_t kStretch = 128;

struct LogitsView {
    float* data = nullptr;
    int64_t stride = 0;
    int64_t num_rows = 0;
    int64_t vocab_size = 0;
    float* maxima = nullptr;  // [num_rows, num_stretches()]

    OCTAVO_INLINE int64_t num_stretches() const { return (vocab_size + kStretch - 1) / kStretch; }
    OCTAVO_INLINE float* row(int64_t r) const { return data + r * stride; }
    OCTAVO_INLINE float* maxima_of(int64_t r) const { return maxima + r * num_stretches(); }
};

enum class EditKind : int32_t { keep_only = 0, exclude = 1, add = 2, penalize = 3 };

// A change of the logits of some distinct tokens of one row; keep_only wants ids in ascending order.
struct Edit {
    EditKind kind = EditKind::exclude;
    int64_t row = 0;
    int64_t count = 0;
    const int32_t* ids = nullptr;
    const float* values = nullptr;  // add: what; penalize: how often each was generated
    float presence = 0, frequency = 0, repetition = 1;
};

// count draws; draw i is for row rows[i] and replaces ids[rows[i]], unless that row has no finite maximum.
struct Draws {
    int64_t count = 0;
    const int64_t* rows = nullptr;
    const float* temperature = nullptr;  // > 0
    const int64_t* top_k = nullptr;      // 0: none
    const double* top_p = nullptr;       // 1: none
    const double* min_p = nullptr;       // 0: none
    const uint64_t* seeds = nullptr;
    const int64_t* positions = nullptr;
    int64_t* ids = nullptr;
};

// For each of rows [count]: the log-probability of tokens[i], its rank, and the `alternatives` likeliest tokens, lower ids first
// among equals. ids and values [count, 1 + alternatives]; alternatives <= vocab_size.
struct Logprobs {
    int64_t count = 0;
    const int64_t* rows = nullptr;
    const int64_t* tokens = nullptr;
    int64_t alternatives = 0;
    int64_t* ids = nullptr;
    double* values = nullptr;
    int64_t* ranks = nullptr;
};

// draw() and logprobs() use one slot of slot_bytes() for each member in worker.shared, the first 8 bytes of each zero.
struct SamplingKernels {
    void (*scan)(const LogitsView& logits, const Worker& worker);  // fills maxima
    // The lowest of the likeliest tokens of each row and its logit, from maxima; the first NaN counts as likeliest.
    void (*likeliest)(const LogitsView& logits, int64_t* ids, float* tops, const Worker& worker);
    // Bit i of a row's bits, least significant first, allows token i; keeps maxima true, as edit() does.
    void (*mask)(const LogitsView& logits, const uint32_t* bits, int64_t stride, const Worker& worker);
    void (*edit)(const LogitsView& logits, const Edit* edits, int64_t count, const Worker& worker);
    void (*draw)(const LogitsView& logits, const Draws& draws, const Worker& worker);
    void (*logprobs)(const LogitsView& logits, const Logprobs& asked, const Worker& worker);
    int64_t (*slot_bytes)(int64_t vocab_size);
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
extern const SamplingKernels sampling_kernels;
}
#endif

}  // namespace octavo
