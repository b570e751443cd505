// Weights held as bfloat16; activations are rounded to bfloat16, sums are float32.
//
// Panels: [I / 2][half 0/1][16 features][2 inputs], I padded with a zero to an even number. AVX-512 BF16 multiplies the pairs as they
// stand (prepared rows: pairs too); the other levels widen both to float32 and add the even input's product first, then the odd one's.
#include "core/simd.h"
#include "kernels/linear_float.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

constexpr int kStaged = 64;  // words of a row that are rounded before they are transposed

int64_t pairs(const PackedWeight& weight) { return (weight.in_features + 1) / 2; }

#if defined(__AVX512BF16__)

struct Bf16Panel {
    static constexpr int kStepBytes = kPanel * 4, kWords = 1;
    static OCTAVO_INLINE void load(const char* step, int v, Lanes* w) { w[0] = load_lanes(step + v * kLanes * 4); }
    static OCTAVO_INLINE Lanes dot(Lanes w, Lanes x, Lanes sum) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); }
};

constexpr int kInputsPerWord = 2;

// n words of 2 inputs from `from`, of which `left` exist.
void round_words(const float* from, int64_t left, int64_t n, float* out) {
    for (int64_t i = 0; i < n; i += 16) {
        const float* x = from + 2 * i;
        const int64_t have = left - 2 * i;
        const __m512 low = have >= 16 ? _mm512_loadu_ps(x) : (__m512)load_part(x, have);
        const __m512 high = have >= 32 ? _mm512_loadu_ps(x + 16) : have > 16 ? (__m512)load_part(x + 16, have - 16) : __m512{};
        const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
        memcpy(out + i, &both, sizeof both);
    }
}

void multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char*) {
    multiply_panel<Bf16Panel>(panel, pairs(weight), blocks, rows, tile);
}

int64_t scratch_bytes(const PackedWeight&, int) { return 0; }

#else

struct Bf16Panel {
    static constexpr int kStepBytes = kPanel * 4, kWords = 2;
    static OCTAVO_INLINE void load(const char* step, int v, Lanes* w) {
        typedef uint32_t Bits __attribute__((vector_size(sizeof(Lanes))));
        const Bits both = (Bits)load_lanes(step + v * kLanes * 4);
        w[0] = (Lanes)(both << 16);
        w[1] = (Lanes)(both & 0xffff0000);
    }
    static OCTAVO_INLINE Lanes dot(Lanes w, Lanes x, Lanes sum) { return multiply_add(w, x, sum); }
};

constexpr int kInputsPerWord = 1;

void round_words(const float* from, int64_t left, int64_t n, float* out) {
    for (int64_t i = 0; i < n; i += 16) {
        const i32x16 bits = (i32x16)(left - i >= 16 ? load16(from + i) : left > i ? load_part(from + i, left - i) : f32x16{});
        const i32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & (int32_t)0xffff0000;
        const i32x16 quiet = (bits | 0x400000) & (int32_t)0xffff0000;
        store16(out + i, (f32x16)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded));
    }
}

void multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char* scratch) {
    multiply_widened<Bf16Panel>(panel, pairs(weight), blocks, rows, tile, scratch);
}

int64_t scratch_bytes(const PackedWeight&, int rows) { return widened_bytes<Bf16Panel>(rows); }

#endif

int64_t words(const PackedWeight& weight) { return pairs(weight) * 2 / kInputsPerWord; }

int64_t block_bytes(const PackedWeight& weight, int rows) { return prepared_bytes(words(weight), rows); }

void prepare_part(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, float* out) {
    float staged[kMaxRows * kStaged];
    const int64_t all = words(weight);
    for (int64_t first = 0; first < all; first += kStaged) {
        const int64_t n = all - first < kStaged ? all - first : kStaged, input = first * kInputsPerWord;
        for (int r = 0; r < rows; r++) round_words(x + r * x_stride + input, weight.in_features - input, n, staged + r * kStaged);
        transpose_words(staged, kStaged, rows, n, out + first * rows, rows);
    }
}

void prepare(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block) {
    float* out = reinterpret_cast<float*>(block);
    const int first = first_part(rows);
    prepare_part(weight, x, x_stride, first, out);
    if (rows > first) prepare_part(weight, x + first * x_stride, x_stride, rows - first, out + first * words(weight));
}

void unpack(const PackedWeight& weight, const char* panel, int column, float* out) {
    for (int64_t i = 0; i < weight.in_features; i++) {
        uint16_t value;
        memcpy(&value, panel + ((i / 2 * kPanel + column) * 2 + i % 2) * 2, 2);
        out[i] = from_bf16(value);
    }
}

}  // namespace

const Format bf16_format = {kBlockRows, block_bytes, prepare, multiply, scratch_bytes, unpack};

}  // namespace octavo::OCTAVO_LEVEL
