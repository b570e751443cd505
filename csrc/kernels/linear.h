// Matrix products with packed weights: one driver for every format, and what a format has to bring.
//
// A weight [O, I] is cut into panels of 32 output features; a panel is contiguous, 64-byte aligned and holds everything that its
// features need, scales included, so that a product reads memory strictly forward:
//
//     panels ─▶ [ panel 0: features 0..31 ][ panel 1: features 32..63 ] … [ panel ceil(O / 32) - 1, padded with zeros ]
//
// With `interleaved` the two halves of a gated layer, gate | up [2 I', I], meet in one panel: columns 0..15 are gate features
// 16 p .. 16 p + 15, columns 16..31 the up features of the same numbers; ceil(I' / 16) panels, zeros beyond I'.
//
// The same panel serves one row and a thousand, on every level. Each output element is one chain of additions along I whose order
// depends on the format and the level alone: not on the number of rows, on the team, or on which rows stand beside it.
#pragma once

#include <stdint.h>

#include "kernels/worker.h"

namespace octavo {

constexpr int kPanel = 32;

// Keep in step with octavo/ops/cpu/linear.py.
enum class WeightKind : int32_t {
    f32 = 0,
    bf16 = 1,
    f16 = 2,
    int8 = 3,   // symmetric, one scale per output feature; activations int8 per token
    int4 = 4,   // groups of 32, 64 or 128 inputs, symmetric or with zero points; activations int8 per group
    int4_bf16 = 5,  // the same weights, activations bfloat16
    q8_0 = 6,
    q4_0 = 7,
    q4_1 = 8,
    q5_0 = 9,
    q5_1 = 10,
    q4_k = 11,
    q5_k = 12,
    q6_k = 13,
    iq4_nl = 14,
};
constexpr int kNumWeightKinds = 15;

struct PackedWeight {
    const char* panels = nullptr;
    int64_t panel_bytes = 0;
    int32_t out_features = 0;  // O, as the model says; 2 I' when interleaved
    int32_t in_features = 0;   // I, as the model says; formats pad it to what they need
    WeightKind kind = WeightKind::f32;
    int32_t group = 0;  // inputs per scale where the format leaves a choice (int4)
    int32_t flags = 0;  // format's own, such as: has zero points
    int32_t interleaved = 0;

    OCTAVO_INLINE int64_t num_panels() const { return interleaved ? (out_features / 2 + 15) / 16 : (out_features + kPanel - 1) / kPanel; }
};

// What the driver asks of a format. Rows of activations are prepared in blocks: a full block has block_rows rows, the last one
// may have fewer. Block b starts at b * block_bytes(weight, block_rows) of the prepared area, which is 64-byte aligned.
struct Format {
    int block_rows;
    // Bytes of a prepared block of `rows` <= block_rows rows: a multiple of 64.
    int64_t (*block_bytes)(const PackedWeight& weight, int rows);
    // x [rows, I] float32, rows x_stride apart, becomes what multiply() reads. A row's values depend on that row alone.
    void (*prepare)(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block);
    // tile [rows, 32] float32 = prepared rows times the panel's 32 features. rows <= kRowChunk.
    void (*multiply)(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char* scratch);
    // Private bytes that multiply() wants for up to `rows` rows.
    int64_t (*scratch_bytes)(const PackedWeight& weight, int rows);
    // out[i * out_stride], i < I: the values of feature `column` (0..31) of a panel, as the format denotes them.
    void (*unpack)(const PackedWeight& weight, const char* panel, int column, float* out);
};

constexpr int kRowChunk = 240;  // rows per multiply(): a multiple of every block_rows; its tile (30 KiB) stays in L1 or L2

enum class Activation : int32_t { none = 0, silu = 1, gelu = 2, gelu_tanh = 3, relu = 4, relu2 = 5 };
constexpr int kNumActivations = 6;

// out = residual + bias + weight · norm(x), or activation(gate) · up of an interleaved weight, for `rows` rows.
struct Linear {
    PackedWeight weight;
    const float* x = nullptr;  // [rows, I]
    int64_t x_stride = 0;
    float* out = nullptr;  // [rows, O], or [rows, O / 2] when interleaved
    int64_t out_stride = 0;
    const float* bias = nullptr;      // [O] or null; interleaved: gate | up
    const float* residual = nullptr;  // [rows, O] or null; may be `out`
    int64_t residual_stride = 0;
    const float* norm_weight = nullptr;  // [I]: rows of x are first scaled to unit root-mean-square; null: taken as they are
    float norm_eps = 0;
    Activation activation = Activation::none;  // with an interleaved weight only
    Rows rows = Rows::tokens;
};

// out [T, I] = scale · the rows of a packed weight that the step's tokens name.
struct EmbedPacked {
    PackedWeight weight;
    float* out = nullptr;
    int64_t out_stride = 0;
    float scale = 1;
};

struct LinearKernels {
    void (*linear)(const Linear& args, const Step& step, const Worker& worker);
    Needs (*linear_needs)(const Linear& args, int64_t max_rows);
    void (*embed_packed)(const EmbedPacked& args, const Step& step, const Worker& worker);
    const Format* (*format)(WeightKind kind);  // null: this level has no such format
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
extern const LinearKernels linear_kernels;
const Format* float_format(WeightKind kind);  // linear_float.cpp
const Format* int_format(WeightKind kind);    // linear_int.cpp
const Format* block_format(WeightKind kind);  // linear_block.cpp: GGUF's
}  // namespace OCTAVO_LEVEL
#endif

}  // namespace octavo
