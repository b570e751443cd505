// The driver of every linear layer: prepare rows, walk panels, finish the tile. What a format does is behind Format.
#include "kernels/linear.h"

#include "core/simd.h"
#include "kernels/activation.h"
#include "kernels/amx.h"
#include "kernels/norm.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

// Up to this many rows, and while there is one block only, each member prepares all rows for itself: cheaper than meeting the others.
constexpr int kPrepareAlone = 4;
// One panel in so many is claimed by whoever is free, so many rows at a time, so that a member that was held up does not hold up the team.
constexpr int kClaimedShare = 8;
constexpr int kClaimedRows = 96;  // a multiple of every block_rows

int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

const Format* find_format(WeightKind kind) {
#ifdef __AMX_TILE__
    if (const Format* found = amx_format(kind)) return found;
#endif
    if (const Format* found = float_format(kind)) return found;
    if (const Format* found = int_format(kind)) return found;
    return block_format(kind);
}

int rows_alone(const Format& format) { return format.block_rows > kPrepareAlone ? format.block_rows : kPrepareAlone; }

int64_t prepared_bytes(const Format& format, const PackedWeight& weight, int64_t rows) {
    return align64((rows + format.block_rows - 1) / format.block_rows * format.block_bytes(weight, format.block_rows));
}

void prepare_block(const Format& format, const Linear& args, int64_t first, int rows, char* block, float* normed) {
    const int64_t inputs = args.weight.in_features;
    const float* x = args.x + first * args.x_stride;
    int64_t stride = args.x_stride;
    if (args.norm_weight) {
        for (int r = 0; r < rows; r++) rms_norm_row(normed + r * inputs, x + r * stride, args.norm_weight, inputs, args.norm_eps);
        x = normed;
        stride = inputs;
    }
    format.prepare(args.weight, x, stride, rows, block);
}

void prepare(const Format& format, const Linear& args, int64_t rows, int64_t begin, int64_t end, char* prepared, float* normed) {
    const int64_t step = format.block_bytes(args.weight, format.block_rows);
    for (int64_t block = begin; block < end; block++) {
        const int64_t first = block * format.block_rows;
        const int in_block = (int)(rows - first < format.block_rows ? rows - first : format.block_rows);
        prepare_block(format, args, first, in_block, prepared + block * step, normed);
    }
}

// Sixteen columns, or fewer at the end of a row: the lanes that do not exist are not touched.
struct Full {
    static f32x16 load(const float* from) { return load16(from); }
    void store(float* to, f32x16 v) const { store16(to, v); }
};
struct Part {
    int width;
    f32x16 load(const float* from) const { return load_part(from, width); }
    void store(float* to, f32x16 v) const { store_part(to, v, width); }
};

// Columns `first` .. of rows first_row .. of out, from a tile whose column stands at `column`.
template <class Width>
void store_plain(const Linear& args, const float* tile, int rows, int64_t first_row, int64_t first, int column, Width width) {
    const f32x16 bias = args.bias ? width.load(args.bias + first) : f32x16{};
    float* out = args.out + first_row * args.out_stride + first;
    const float* residual = args.residual ? args.residual + first_row * args.residual_stride + first : nullptr;
    for (int r = 0; r < rows; r++, out += args.out_stride) {
        f32x16 y = load16(tile + r * kPanel + column) + bias;
        if (residual) y += width.load(residual + r * args.residual_stride);
        width.store(out, y);
    }
}

template <class Width>
void store_gated(const Linear& args, const float* tile, int rows, int64_t first_row, int64_t first, Width width) {
    const int64_t half = args.weight.out_features / 2;
    const f32x16 gate_bias = args.bias ? width.load(args.bias + first) : f32x16{};
    const f32x16 up_bias = args.bias ? width.load(args.bias + half + first) : f32x16{};
    float* out = args.out + first_row * args.out_stride + first;
    for (int r = 0; r < rows; r++, out += args.out_stride) {
        const f32x16 gate = load16(tile + r * kPanel) + gate_bias, up = load16(tile + r * kPanel + 16) + up_bias;
        width.store(out, activate16(args.activation, gate) * up);
    }
}

int width_at(int64_t first, int64_t limit) {
    const int64_t left = limit - first;
    return left < 0 ? 0 : left < 16 ? (int)left : 16;
}

void finish(const Linear& args, const float* tile, int rows, int64_t first_row, int64_t panel) {
    if (args.weight.interleaved) {
        const int64_t first = panel * 16;
        const int width = width_at(first, args.weight.out_features / 2);
        if (width == 16) return store_gated(args, tile, rows, first_row, first, Full{});
        return store_gated(args, tile, rows, first_row, first, Part{width});
    }
    for (int column = 0; column < kPanel; column += 16) {
        const int64_t first = panel * kPanel + column;
        const int width = width_at(first, args.weight.out_features);
        if (width == 16) {
            store_plain(args, tile, rows, first_row, first, column, Full{});
        } else if (width) {
            store_plain(args, tile, rows, first_row, first, column, Part{width});
        }
    }
}

void linear(const Linear& args, const Step& step, const Worker& worker) {
    const int64_t rows = count(args.rows, step);
    if (rows == 0) return;
    const Format& format = *find_format(args.weight.kind);
    const PackedWeight& weight = args.weight;
    float* normed = reinterpret_cast<float*>(worker.scratch);
    char* own = worker.scratch + align64(args.norm_weight ? (int64_t)format.block_rows * weight.in_features * sizeof(float) : 0);
    const int64_t blocks = (rows + format.block_rows - 1) / format.block_rows;
    char* prepared = worker.shared;
    if (rows <= rows_alone(format) || worker.size == 1) {
        prepared = worker.size == 1 ? worker.shared : own;
        prepare(format, args, rows, 0, blocks, prepared, normed);
        if (prepared == own) own += prepared_bytes(format, weight, rows_alone(format));
    } else {
        prepare(format, args, rows, worker.begin(blocks), worker.end(blocks), prepared, normed);
        worker.barrier();
    }
    float* tile = reinterpret_cast<float*>(own);
    char* scratch = own + kRowChunk * kPanel * sizeof(float);
    const int64_t block_bytes = format.block_bytes(weight, format.block_rows);

    const auto multiply_rows = [&](int64_t panel, int64_t first, int64_t most) {
        const int chunk = (int)(rows - first < most ? rows - first : most);
        const char* blocks = prepared + first / format.block_rows * block_bytes;
        format.multiply(weight, weight.panels + panel * weight.panel_bytes, blocks, chunk, tile, scratch);
        finish(args, tile, chunk, first, panel);
    };
    const int64_t panels = weight.num_panels(), given = worker.size == 1 ? panels : panels - panels / kClaimedShare;
    for (int64_t panel = worker.begin(given); panel < worker.end(given); panel++) {
        for (int64_t first = 0; first < rows; first += kRowChunk) multiply_rows(panel, first, kRowChunk);
    }
    if (given == panels) return;
    const int64_t parts = (rows + kClaimedRows - 1) / kClaimedRows, claimed = (panels - given) * parts;
    for (int64_t i = worker.claim(); i < claimed; i = worker.claim()) multiply_rows(given + i / parts, i % parts * kClaimedRows, kClaimedRows);
}

Needs linear_needs(const Linear& args, int64_t max_rows) {
    const Format& format = *find_format(args.weight.kind);
    const int chunk = (int)(max_rows < kRowChunk ? max_rows : kRowChunk);
    Needs needs;
    needs.scratch = align64(args.norm_weight ? (int64_t)format.block_rows * args.weight.in_features * sizeof(float) : 0) +
                    prepared_bytes(format, args.weight, rows_alone(format)) + kRowChunk * kPanel * (int64_t)sizeof(float) +
                    align64(format.scratch_bytes(args.weight, chunk));
    needs.shared = prepared_bytes(format, args.weight, max_rows);
    return needs;
}

void embed_packed(const EmbedPacked& args, const Step& step, const Worker& worker) {
    const Format& format = *find_format(args.weight.kind);
    for (int64_t t = worker.begin(step.num_tokens); t < worker.end(step.num_tokens); t++) {
        const int32_t id = step.tokens[t];
        float* out = args.out + t * args.out_stride;
        format.unpack(args.weight, args.weight.panels + id / kPanel * args.weight.panel_bytes, id % kPanel, out);
        if (args.scale != 1.0f) {
            for (int64_t i = 0; i < args.weight.in_features; i++) out[i] *= args.scale;
        }
    }
}

}  // namespace

extern const LinearKernels linear_kernels;
const LinearKernels linear_kernels = {
    .linear = linear,
    .linear_needs = linear_needs,
    .embed_packed = embed_packed,
    .format = find_format,
};

}  // namespace octavo::OCTAVO_LEVEL
