// The register-blocked product of prepared rows with one panel, for every format whose panel is a sequence of steps: a step holds all
// 32 features for a few inputs, and each feature's sum takes one step after the other.
//
//     prepared rows [steps][words][rows], 4 bytes each      panel [steps][32 features]
//
//               w0 w1   (the step's 32 features)
//     x row 0 ─ acc acc
//     x row 1 ─ acc acc     up to kMaxRows rows; each word of x is broadcast
//
// A panel type P says how to read a step and multiply:
//     kStepBytes, kWords                               bytes of a step; words of a row that it takes
//     load(const char* step, int v, Lanes* w)          features v · kLanes .. of the step: w[kWords]
//     dot(Lanes w, Lanes x, Lanes sum) -> Lanes
#pragma once

#include "kernels/lanes.h"
#include "kernels/linear.h"
#include "kernels/transpose.h"

namespace octavo::OCTAVO_LEVEL {

constexpr int kVectors = kPanel / kLanes;  // registers of a panel's features
constexpr int kBlockRows = 2 * kMaxRows;   // rows of a prepared block: one or two register blocks of even sizes
static_assert(kRowChunk % kBlockRows == 0);

// Steps of a panel that many rows share before they go on: 16 KiB, half of the first-level cache.
constexpr int kSliceSteps = 128;
// How far ahead of its use a panel is fetched that few rows walk through once.
constexpr int kFetchAhead = 4096;

// What to fetch into the cache while a register block walks through its steps.
struct Fetch {
    const char* from;
    int64_t bytes_per_step;
};

template <class P, int rows, int vectors>
OCTAVO_INLINE void multiply_columns(const char* w, const float* x, int64_t steps, int first_vector, Fetch fetch, float* tile, bool resume) {
    Lanes sum[rows][vectors];
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) sum[r][v] = resume ? load_lanes(tile + r * kPanel + (first_vector + v) * kLanes) : Lanes{};
    }
    for (int64_t s = 0; s < steps; s++, w += P::kStepBytes, x += rows * P::kWords, fetch.from += fetch.bytes_per_step) {
        for (int line = 0; line < P::kStepBytes; line += 64) __builtin_prefetch(fetch.from + line);
        Lanes in[vectors][P::kWords];
        for (int v = 0; v < vectors; v++) P::load(w, first_vector + v, in[v]);
        for (int j = 0; j < P::kWords; j++) {
            for (int r = 0; r < rows; r++) {
                const Lanes a = broadcast(x + j * rows + r);
                for (int v = 0; v < vectors; v++) sum[r][v] = P::dot(in[v][j], a, sum[r][v]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) store_lanes(tile + r * kPanel + (first_vector + v) * kLanes, sum[r][v]);
    }
}

template <class P, int rows>
__attribute__((noinline)) void multiply_block(const char* w, const float* x, int64_t steps, Fetch fetch, float* tile, bool resume) {
    constexpr int vectors = rows * kVectors <= 2 * kMaxRows ? kVectors : 2;  // all of the panel while the sums fit in registers
    for (int v = 0; v < kVectors; v += vectors) multiply_columns<P, rows, vectors>(w, x, steps, v, fetch, tile, resume);
}

template <class P, int rows = kMaxRows>
void multiply_rows(int count, const char* w, const float* x, int64_t steps, Fetch fetch, float* tile, bool resume) {
    if constexpr (rows > 1) {
        if (count < rows) return multiply_rows<P, rows - 1>(count, w, x, steps, fetch, tile, resume);
    }
    multiply_block<P, rows>(w, x, steps, fetch, tile, resume);
}

// Rows of the first register block of a prepared block; the second takes the rest.
OCTAVO_INLINE int first_part(int rows) { return rows <= kMaxRows ? rows : (rows + 1) / 2; }

OCTAVO_INLINE int64_t prepared_bytes(int64_t words, int rows) { return (words * rows * 4 + 63) / 64 * 64; }

// Steps of a panel times all rows; `words` of each row lie before `x_word`, of `all_words`. The register blocks share the work of
// fetching the `ahead_bytes` at `ahead`.
template <class P>
void multiply_slice(const char* w, int64_t steps, const char* blocks, int64_t x_word, int64_t all_words, int rows, const char* ahead,
                    int64_t ahead_bytes, float* tile) {
    const int64_t share = ahead_bytes / ((rows + kMaxRows - 1) / kMaxRows);
    const auto part = [&](int part_rows, const float* x) {
        multiply_rows<P>(part_rows, w, x, steps, {ahead, share / steps}, tile, x_word > 0);
        ahead += share;
        tile += part_rows * kPanel;
    };
    for (; rows > 0; rows -= kBlockRows, blocks += prepared_bytes(all_words, kBlockRows)) {
        const int in_block = rows < kBlockRows ? rows : kBlockRows, first = first_part(in_block);
        const float* x = reinterpret_cast<const float*>(blocks);
        part(first, x + x_word * first);
        if (in_block > first) part(in_block - first, x + all_words * first + x_word * (in_block - first));
    }
}

template <class P>
void multiply_panel(const char* panel, int64_t steps, const char* blocks, int rows, float* tile) {
    if (rows <= kMaxRows) return multiply_rows<P>(rows, panel, reinterpret_cast<const float*>(blocks), steps, {panel + kFetchAhead, P::kStepBytes}, tile, false);
    for (int64_t s = 0; s < steps; s += kSliceSteps) {
        const int64_t n = steps - s < kSliceSteps ? steps - s : kSliceSteps, bytes = n * P::kStepBytes;
        const char* w = panel + s * P::kStepBytes;
        multiply_slice<P>(w, n, blocks, s * P::kWords, steps * P::kWords, rows, w + bytes, bytes, tile);
    }
}

}  // namespace octavo::OCTAVO_LEVEL
