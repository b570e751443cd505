#include "kernels/limits.h"

#include "kernels/dot_int8.h"
#include "kernels/lanes.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

typedef uint64_t u64x8 __attribute__((vector_size(64)));

uint64_t read(const char* data, int64_t bytes) {
    u64x8 sums[4] = {};
    for (const char* end = data + bytes; data != end; data += 256) {
        for (int i = 0; i < 4; i++) {
            u64x8 line;
            memcpy(&line, data + i * 64, sizeof line);
            sums[i] ^= line;
        }
    }
    const u64x8 all = (sums[0] ^ sums[1]) ^ (sums[2] ^ sums[3]);
    uint64_t out = 0;
    for (int i = 0; i < 8; i++) out ^= all[i];
    return out;
}

// The compiler must take what is there to have been read and changed.
OCTAVO_INLINE void forget(void* memory) { __asm__ volatile("" : : "r"(memory) : "memory"); }

// The register block of panel_product.h: as many sums as there are registers for, two per value of the activations.
constexpr int kColumns = 2;

template <class Dot>
OCTAVO_INLINE int64_t multiply_lanes(int64_t rounds, int64_t operations, const Dot& dot) {
    alignas(64) float from[64] = {};
    Lanes sums[kMaxRows][kColumns] = {};
    for (int64_t round = 0; round < rounds; round++) {
        forget(from);
        const Lanes w[kColumns] = {load_lanes(from), load_lanes(from + kLanes)};
#pragma GCC unroll 12
        for (int r = 0; r < kMaxRows; r++) {
            const Lanes x = broadcast(from + 32 + r);
#pragma GCC unroll 2
            for (int c = 0; c < kColumns; c++) sums[r][c] = dot(w[c], x, sums[r][c]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kMaxRows; r++) {
#pragma GCC unroll 2
        for (int c = 0; c < kColumns; c++) {
            store_lanes(from, sums[r][c]);
            forget(from);
        }
    }
    return rounds * kMaxRows * kColumns * kLanes * operations;
}

int64_t multiply_int8(int64_t rounds) {
    alignas(64) char codes[kDotHalves * 64] = {};
    Quad x[kDotRows] = {};
    Sums sums[kDotRows][kDotHalves];
#pragma GCC unroll 12
    for (int r = 0; r < kDotRows; r++) {
#pragma GCC unroll 2
        for (int half = 0; half < kDotHalves; half++) sums[r][half] = splat_sums(0);
    }
    for (int64_t round = 0; round < rounds; round++) {
        forget(codes);
        forget(x);
#pragma GCC unroll 2
        for (int half = 0; half < kDotHalves; half++) {
            const Codes line = load_codes(codes + half * 64);
#pragma GCC unroll 12
            for (int r = 0; r < kDotRows; r++) sums[r][half] = add_dot(sums[r][half], line, x + r);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kDotRows; r++) {
#pragma GCC unroll 2
        for (int half = 0; half < kDotHalves; half++) {
            memcpy(codes, &sums[r][half], sizeof(Sums));
            forget(codes);
        }
    }
    return rounds * kDotRows * kDotHalves * 16 * 8;
}

int64_t multiply(Product kind, int64_t rounds) {
    if (kind == Product::int8) return multiply_int8(rounds);
#if defined(__AVX512BF16__)
    if (kind == Product::bf16) {
        return multiply_lanes(rounds, 4, [](Lanes w, Lanes x, Lanes sum) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); });
    }
#endif
    // Without an instruction for them, pairs of bfloat16 are widened and cost two float32 products.
    return multiply_lanes(rounds, 2, [](Lanes w, Lanes x, Lanes sum) { return multiply_add(w, x, sum); });
}

}  // namespace

const LimitKernels limit_kernels = {.read = read, .multiply = multiply};

}  // namespace octavo::OCTAVO_LEVEL
