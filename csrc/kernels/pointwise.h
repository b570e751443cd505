// Operations on rows of float32: embedding, norms, activations, rotation, residuals. The same bits on every level.
#pragma once

#include <stdint.h>

#include "kernels/linear.h"
#include "kernels/worker.h"

namespace octavo {

// A matrix of float32 with rows of its own distance: [rows, columns].
struct Matrix {
    float* data = nullptr;
    int64_t stride = 0;
};

enum class TableKind : int32_t { f32 = 0, bf16 = 1, f16 = 2 };

// out [T, columns] = scale · rows of a dense table at the step's tokens or positions.
struct Embed {
    const char* table = nullptr;
    TableKind kind = TableKind::f32;
    int32_t by_position = 0;  // index by positions instead of tokens
    int64_t columns = 0;
    Matrix out;
    float scale = 1;
};

enum class NormKind : int32_t { rms = 0, layer = 1 };

// out = norm(x) · weight + bias per row, or residual + that; with heads > 1 each of `heads` spans of `columns` is normalized by
// itself with its own weight [heads, columns].
struct NormArgs {
    Matrix x, out;
    Matrix residual;  // data null: none; may be out
    const float* weight = nullptr;
    const float* bias = nullptr;
    NormKind kind = NormKind::rms;
    int32_t heads = 1;
    int64_t columns = 0;
    float eps = 0;
    Rows rows = Rows::tokens;
};

// out = x + y.
struct Add {
    Matrix x, y, out;
    int64_t columns = 0;
    Rows rows = Rows::tokens;
};

enum class Map : int32_t { activation = 0, gated = 1, scale = 2, clip = 3, softcap = 4, copy = 5, exp = 6 };

// out = f(x), elementwise; gated reads gate | up [2 · columns].
struct MapArgs {
    Matrix x, out;
    Map map = Map::activation;
    Activation activation = Activation::none;
    float value = 0;  // factor, bound or cap
    int64_t columns = 0;
    Rows rows = Rows::tokens;
};

// Channel pairs (i, i + rotated / 2) of each of `heads` heads of x turned by angles [T, rotated]: cosines, then sines. out may be x.
struct Rotate {
    Matrix x, out;
    const float* angles = nullptr;
    int32_t heads = 0, head_dim = 0, rotated = 0;
};

struct PointwiseKernels {
    void (*embed)(const Embed& args, const Step& step, const Worker& worker);
    void (*norm)(const NormArgs& args, const Step& step, const Worker& worker);
    void (*add)(const Add& args, const Step& step, const Worker& worker);
    void (*map)(const MapArgs& args, const Step& step, const Worker& worker);
    void (*rotate)(const Rotate& args, const Step& step, const Worker& worker);
};

#ifdef OCTAVO_LEVEL
namespace OCTAVO_LEVEL {
extern const PointwiseKernels pointwise_kernels;
}
#endif

}  // namespace octavo
