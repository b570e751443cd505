#include "kernels/pointwise.h"

#include "core/simd.h"
#include "kernels/activation.h"
#include "kernels/norm.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

using Lanes = f32_register;

constexpr int64_t kSpan = 64;     // columns that are never split between members: four cache lines
constexpr int64_t kAlone = 2048;  // elements that rank 0 is done with before the others would have fetched them

// Calls visit(row, begin, end) for this member's share of [rows, columns], at most once per row.
template <class Visit>
OCTAVO_INLINE void for_spans(int64_t rows, int64_t columns, const Worker& worker, const Visit& visit) {
    if (rows * columns <= kAlone) {
        for (int64_t row = 0; worker.rank == 0 && row < rows; row++) visit(row, (int64_t)0, columns);
        return;
    }
    const int64_t spans = (columns + kSpan - 1) / kSpan, stop = worker.end(rows * spans);
    for (int64_t at = worker.begin(rows * spans); at < stop;) {
        const int64_t row = at / spans, first = at % spans;
        const int64_t last = stop - at < spans - first ? first + stop - at : spans;
        visit(row, first * kSpan, last < spans ? last * kSpan : columns);
        at += last - first;
    }
}

// Calls visit(row, part) for this member's share of `parts` pieces of each row, which are of `columns` elements.
template <class Visit>
OCTAVO_INLINE void for_parts(int64_t rows, int64_t parts, int64_t columns, const Worker& worker, const Visit& visit) {
    const bool alone = rows * parts * columns <= kAlone;
    if (alone && worker.rank > 0) return;
    const int64_t begin = alone ? 0 : worker.begin(rows * parts), end = alone ? rows * parts : worker.end(rows * parts);
    for (int64_t at = begin; at < end; at++) visit(at / parts, at % parts);
}

// Calls each(i, width) for i = begin, begin + kRegister, …: width is kRegister but perhaps at the end.
template <class Each>
OCTAVO_INLINE void for_lanes(int64_t begin, int64_t end, const Each& each) {
    int64_t i = begin;
    for (; i + kRegister <= end; i += kRegister) each(i, (int64_t)kRegister);
    if (i < end) each(i, end - i);
}

// The first `width` lanes; the others are 0.
OCTAVO_INLINE Lanes load_lanes(const float* from, int64_t width) {
    Lanes out = {};
    if (width == kRegister) memcpy(&out, from, sizeof out);
    else memcpy(&out, from, width * sizeof(float));
    return out;
}

OCTAVO_INLINE void store_lanes(float* to, Lanes v, int64_t width) {
    if (width == kRegister) memcpy(to, &v, sizeof v);
    else memcpy(to, &v, width * sizeof(float));
}

OCTAVO_INLINE float* row_of(const Matrix& matrix, int64_t row) { return matrix.data + row * matrix.stride; }

// ---- embedding
template <class Element, class Widen>
void embed_rows(const Embed& args, const Step& step, const Worker& worker, const Widen& widen) {
    const int32_t* ids = args.by_position ? step.positions : step.tokens;
    const Element* table = reinterpret_cast<const Element*>(args.table);
    for_spans(step.num_tokens, args.columns, worker, [&](int64_t row, int64_t begin, int64_t end) {
        const Element* from = table + ids[row] * args.columns;
        float* out = row_of(args.out, row);
        for (int64_t i = begin; i < end; i += 16) {
            const int64_t width = end - i < 16 ? end - i : 16;
            store_part(out + i, widen(from + i, width) * args.scale, width);
        }
    });
}

OCTAVO_INLINE u16x16 load_halves(const uint16_t* from, int64_t width) {
    u16x16 out = {};
    if (width == 16) memcpy(&out, from, sizeof out);
    else memcpy(&out, from, width * sizeof(uint16_t));
    return out;
}

void embed(const Embed& args, const Step& step, const Worker& worker) {
    switch (args.kind) {
        case TableKind::f32: return embed_rows<float>(args, step, worker, [](const float* from, int64_t n) { return load_part(from, n); });
        case TableKind::bf16:
            return embed_rows<uint16_t>(args, step, worker, [](const uint16_t* from, int64_t n) { return widen_bf16(load_halves(from, n)); });
        case TableKind::f16:
            return embed_rows<uint16_t>(args, step, worker, [](const uint16_t* from, int64_t n) { return widen_f16(load_halves(from, n)); });
    }
}

// ---- norms
// The sum over i < n of term(i, width), as 64 running sums of every 64th element, folded in halves: the same on every level.
template <class Term>
OCTAVO_INLINE float sum_of(int64_t n, const Term& term) {
    constexpr int kSums = 64 / kRegister;
    Lanes sums[kSums] = {};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int s = 0; s < kSums; s++) sums[s] += term(i + s * kRegister, (int64_t)kRegister);
    }
    for (int s = 0; i < n; i += kRegister, s++) sums[s] += term(i, n - i < kRegister ? n - i : (int64_t)kRegister);
    float lanes[64];
    memcpy(lanes, sums, sizeof lanes);
    return fold16((load16(lanes) + load16(lanes + 32)) + (load16(lanes + 16) + load16(lanes + 48)));
}

// The mean of x [n], and 1 / sqrt(its variance + eps).
void moments(const float* x, int64_t n, float eps, float* mean, float* scale) {
    const float middle = sum_of(n, [&](int64_t i, int64_t width) { return load_lanes(x + i, width); }) / (float)n;
    const float squares = sum_of(n, [&](int64_t i, int64_t width) {
        Lanes centered = load_lanes(x + i, width) - middle;
        for (int64_t lane = width; lane < kRegister; lane++) centered[lane] = 0;
        return centered * centered;
    });
    *mean = middle;
    *scale = 1.0f / __builtin_sqrtf(squares / (float)n + eps);
}

void norm(const NormArgs& args, const Step& step, const Worker& worker) {
    for_parts(count(args.rows, step), args.heads, args.columns, worker, [&](int64_t row, int64_t head) {
        const int64_t first = head * args.columns;
        const float* x = row_of(args.x, row) + first;
        const float* weight = args.weight ? args.weight + first : nullptr;
        const float* bias = args.bias ? args.bias + first : nullptr;
        const float* residual = args.residual.data ? row_of(args.residual, row) + first : nullptr;
        float* out = row_of(args.out, row) + first;
        float mean = 0, scale;
        if (args.kind == NormKind::rms) scale = inverse_rms(x, args.columns, args.eps);
        else moments(x, args.columns, args.eps, &mean, &scale);
        for_lanes(0, args.columns, [&](int64_t i, int64_t width) {
            Lanes y = load_lanes(x + i, width);
            if (args.kind == NormKind::layer) y -= mean;
            y *= scale;
            if (weight) y *= load_lanes(weight + i, width);
            if (bias) y += load_lanes(bias + i, width);
            if (residual) y += load_lanes(residual + i, width);
            store_lanes(out + i, y, width);
        });
    });
}

// ---- elementwise
void add(const Add& args, const Step& step, const Worker& worker) {
    for_spans(count(args.rows, step), args.columns, worker, [&](int64_t row, int64_t begin, int64_t end) {
        const float *x = row_of(args.x, row), *y = row_of(args.y, row);
        float* out = row_of(args.out, row);
        for_lanes(begin, end, [&](int64_t i, int64_t width) { store_lanes(out + i, load_lanes(x + i, width) + load_lanes(y + i, width), width); });
    });
}

template <class F>
void map_rows(const MapArgs& args, const Step& step, const Worker& worker, const F& f) {
    for_spans(count(args.rows, step), args.columns, worker, [&](int64_t row, int64_t begin, int64_t end) {
        const float* x = row_of(args.x, row);
        float* out = row_of(args.out, row);
        for_lanes(begin, end, [&](int64_t i, int64_t width) { store_lanes(out + i, f(load_lanes(x + i, width)), width); });
    });
}

template <class F>
void gate_rows(const MapArgs& args, const Step& step, const Worker& worker, const F& f) {
    for_spans(count(args.rows, step), args.columns, worker, [&](int64_t row, int64_t begin, int64_t end) {
        const float *gate = row_of(args.x, row), *up = gate + args.columns;
        float* out = row_of(args.out, row);
        for_lanes(begin, end, [&](int64_t i, int64_t width) { store_lanes(out + i, f(load_lanes(gate + i, width)) * load_lanes(up + i, width), width); });
    });
}

// Calls apply with the activation's function, so that no loop chooses anew for every element.
template <class Apply>
void with_activation(Activation activation, const Apply& apply) {
    switch (activation) {
        case Activation::silu: return apply([](Lanes x) { return silu_of(x); });
        case Activation::gelu: return apply([](Lanes x) { return gelu_of(x); });
        case Activation::gelu_tanh: return apply([](Lanes x) { return gelu_tanh_of(x); });
        case Activation::relu: return apply([](Lanes x) { return relu_of(x); });
        case Activation::relu2: return apply([](Lanes x) { return relu_of(x) * relu_of(x); });
        case Activation::none: return apply([](Lanes x) { return x; });
    }
}

void map(const MapArgs& args, const Step& step, const Worker& worker) {
    const float value = args.value;
    switch (args.map) {
        case Map::activation: return with_activation(args.activation, [&](const auto& f) { map_rows(args, step, worker, f); });
        case Map::gated: return with_activation(args.activation, [&](const auto& f) { gate_rows(args, step, worker, f); });
        case Map::scale: return map_rows(args, step, worker, [=](Lanes x) { return x * value; });
        case Map::clip: return map_rows(args, step, worker, [=](Lanes x) { return smaller(splat<Lanes>(value), larger(splat<Lanes>(-value), x)); });
        case Map::softcap: return map_rows(args, step, worker, [=](Lanes x) { return tanh_of(x / value) * value; });
        case Map::copy: return map_rows(args, step, worker, [](Lanes x) { return x; });
        case Map::exp: return map_rows(args, step, worker, [](Lanes x) { return exp_of(x); });
    }
}

void rotate(const Rotate& args, const Step& step, const Worker& worker) {
    const int64_t half = args.rotated / 2;
    for_parts(step.num_tokens, args.heads, args.head_dim, worker, [&](int64_t row, int64_t head) {
        const float* x = row_of(args.x, row) + head * args.head_dim;
        const float *cosines = args.angles + row * args.rotated, *sines = cosines + half;
        float* out = row_of(args.out, row) + head * args.head_dim;
        for_lanes(0, half, [&](int64_t i, int64_t width) {
            const Lanes first = load_lanes(x + i, width), second = load_lanes(x + half + i, width);
            const Lanes cosine = load_lanes(cosines + i, width), sine = load_lanes(sines + i, width);
            store_lanes(out + i, first * cosine - second * sine, width);
            store_lanes(out + half + i, second * cosine + first * sine, width);
        });
        if (out == x) return;
        for_lanes(2 * half, args.head_dim, [&](int64_t i, int64_t width) { store_lanes(out + i, load_lanes(x + i, width), width); });
    });
}

}  // namespace

extern const PointwiseKernels pointwise_kernels;
const PointwiseKernels pointwise_kernels = {.embed = embed, .norm = norm, .add = add, .map = map, .rotate = rotate};

}  // namespace octavo::OCTAVO_LEVEL
