// Weights of 4 bits with a scale, and perhaps a zero point, per group of inputs. Activations are of 8 bits with a scale per row and
// group (int4), or bfloat16 (int4_bf16).
//
// A prepared block has one or two register blocks of R rows: words [I / 4][words of a quad][R], then for each group scales f32 [R] and
// what its zero points multiply [R].
//
//     y = Σ over groups, in order, of scale of group · scale of row · (Σ (code - 8) x + (8 - zero point) Σ x)
//
// The inner sum is exact for int8. For bfloat16 it is one chain of products per group, in order of the inputs' pairs (0, 2), (1, 3).
// Panels are unpacked in registers for every register block: beside 12 rows' products that is nearly free, and reading half the bytes
// from the cache is faster than a panel unpacked once for all rows.
#include "kernels/dot_int8.h"
#include "kernels/half.h"
#include "kernels/linear_int.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

// Bytes of panel that are asked for in advance. With few rows the processor does so better alone.
constexpr int64_t kAhead = 4096;

OCTAVO_INLINE i32x16 load_line(const char* line) {
    i32x16 out;
    memcpy(&out, line, sizeof out);
    return out;
}

// ---- int8 activations
struct Int8Activations {
    typedef Quad Word;
    typedef Sums Sum;
    typedef Codes Values;
    static constexpr int kWords = 1;
    static constexpr bool kScaled = true;

    static OCTAVO_INLINE Values from_nibbles(const char* line, int half, int) { return half ? high_nibbles(line) : low_nibbles(line); }
    // The correction is -8 Σ x.
    static OCTAVO_INLINE Sum start(const int32_t* correction) { return splat_sums(*correction); }
    static OCTAVO_INLINE float sum_of_x(const int32_t* correction) { return (float)*correction * -0.125f; }
    static OCTAVO_INLINE Sum dot(Sum sum, const Values& codes, const Word* x) { return add_dot(sum, codes, x); }
    static OCTAVO_INLINE f32x16 finish(Sum sum) { return to_float(sum); }

    static void prepare_group(const float* x, int n, Word* words, int stride, float* scale, int32_t* correction) {
        const Quantizer q = quantizer(max_bits(x, n));
        *scale = q.scale;
        *correction = -8 * quantize_quads(x, n, q.inverse, words, stride);
    }
};

// ---- bfloat16 activations
OCTAVO_INLINE i32x16 round_to_bf16(f32x16 x) {
    const i32x16 bits = (i32x16)x, is_nan = (bits & 0x7fffffff) > 0x7f800000;
    const i32x16 rounded = bits + 0x7fff + (bits >> 16 & 1);
    return ((is_nan & (bits | 0x400000)) | (~is_nan & rounded)) & (int32_t)0xffff0000;
}

struct Bf16Activations {
    static constexpr bool kScaled = false;
#if defined(__AVX512BF16__)
    typedef uint32_t Word;  // a pair of inputs: 0 and 2 of a quad, or 1 and 3
    typedef __m512 Sum;
    typedef __m512i Values;
    static constexpr int kWords = 2;

    // A 16-bit index is taken modulo 32, so the nibble above the one that is meant does not matter: the table repeats.
    static OCTAVO_INLINE Values from_nibbles(const char* line, int half, int word) {
        alignas(64) static const uint16_t table[32] = {0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0,      0x3f80, 0x4000,
                                                       0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
                                                       0xc000, 0xbf80, 0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
        const __m512i nibbles = _mm512_srli_epi16(_mm512_load_si512(line), 8 * word + 4 * half);
        return _mm512_permutexvar_epi16(nibbles, _mm512_load_si512(table));
    }
    static OCTAVO_INLINE Sum dot(Sum sum, Values w, const Word* x) {
        const __m512i broadcast = _mm512_set1_epi32((int32_t)*x);
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(broadcast));
        return sum;
    }
    static OCTAVO_INLINE Sum start(const int32_t*) { return _mm512_setzero_ps(); }
    static OCTAVO_INLINE f32x16 finish(Sum sum) { return (f32x16)sum; }
    static OCTAVO_INLINE void store_words(i32x16 rounded, int quads, Word* words, int stride) {
        const i32x16 second = (i32x16)_mm512_bsrli_epi128((__m512i)rounded, 8);
        const i32x16 pairs = (rounded >> 16 & 0xffff) | second;  // lanes 0 and 1 of each quad
        for (int q = 0; q < quads; q++) {
            words[q * 2 * stride] = (uint32_t)pairs[q * 4];
            words[(q * 2 + 1) * stride] = (uint32_t)pairs[q * 4 + 1];
        }
    }
#else
    typedef float Word;
    static constexpr int kWords = 4;
    static OCTAVO_INLINE void store_words(i32x16 rounded, int quads, Word* words, int stride) {
        const f32x16 x = (f32x16)rounded;
        for (int i = 0; i < quads * 4; i++) words[i * stride] = x[i];
    }
#if defined(__AVX512F__)
    typedef __m512 Sum;
    typedef __m512 Values;
    static OCTAVO_INLINE Values from_nibbles(const char* line, int half, int word) {
        return (__m512)__builtin_convertvector((load_line(line) >> (8 * word + 4 * half) & 15) - 8, f32x16);
    }
    static OCTAVO_INLINE Sum dot(Sum sum, Values w, const Word* x) { return _mm512_fmadd_ps(w, _mm512_set1_ps(*x), sum); }
    static OCTAVO_INLINE Sum start(const int32_t*) { return _mm512_setzero_ps(); }
    static OCTAVO_INLINE f32x16 finish(Sum sum) { return (f32x16)sum; }
#elif defined(__AVX2__)
    struct Values {
        __m256 low, high;
    };
    typedef Values Sum;
    static OCTAVO_INLINE __m256 eight(__m256i line, int shift) {
        const __m256i nibbles = _mm256_and_si256(_mm256_srli_epi32(line, shift), _mm256_set1_epi32(15));
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(nibbles, _mm256_set1_epi32(8)));
    }
    static OCTAVO_INLINE Values from_nibbles(const char* line, int half, int word) {
        const __m256i* codes = reinterpret_cast<const __m256i*>(line);
        return {eight(_mm256_load_si256(codes), 8 * word + 4 * half), eight(_mm256_load_si256(codes + 1), 8 * word + 4 * half)};
    }
    static OCTAVO_INLINE Sum dot(Sum sum, const Values& w, const Word* x) {
        const __m256 broadcast = _mm256_broadcast_ss(x);
        return {_mm256_fmadd_ps(w.low, broadcast, sum.low), _mm256_fmadd_ps(w.high, broadcast, sum.high)};
    }
    static OCTAVO_INLINE Sum start(const int32_t*) { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static OCTAVO_INLINE f32x16 finish(const Sum& sum) {
        f32x16 out;
        memcpy(&out, &sum, sizeof out);
        return out;
    }
#else
    typedef f32x16 Sum;
    typedef f32x16 Values;
    static OCTAVO_INLINE Values from_nibbles(const char* line, int half, int word) {
        return __builtin_convertvector((load_line(line) >> (8 * word + 4 * half) & 15) - 8, f32x16);
    }
    static OCTAVO_INLINE Sum dot(Sum sum, const Values& w, const Word* x) { return sum + w * *x; }
    static OCTAVO_INLINE Sum start(const int32_t*) { return Sum{}; }
    static OCTAVO_INLINE f32x16 finish(const Sum& sum) { return sum; }
#endif
#endif

    static OCTAVO_INLINE float sum_of_x(const int32_t* correction) { return float_of((uint32_t)*correction); }

    static void prepare_group(const float* x, int n, Word* words, int stride, float* scale, int32_t* correction) {
        f32x16 sum = {};
        for (int i = 0; i < n; i += 16) {
            const int part = n - i < 16 ? n - i : 16;
            const i32x16 rounded = round_to_bf16(load_part(x + i, part));
            sum += (f32x16)rounded;
            store_words(rounded, (part + 3) / 4, words + i / 4 * kWords * stride, stride);
        }
        *scale = 1.0f;
        *correction = (int32_t)float_bits(fold16(sum));
    }
};

// ---- prepared rows
template <class A>
struct RowBlock {
    typename A::Word* words;
    float* scales;
    int32_t* corrections;
    RowBlock(const GroupLayout& layout, const char* at, int rows)
        : words(reinterpret_cast<typename A::Word*>(const_cast<char*>(at))),
          scales(reinterpret_cast<float*>(words + layout.quads * A::kWords * rows)),
          corrections(reinterpret_cast<int32_t*>(scales + layout.groups * rows)) {}
};

template <class A>
int64_t rows_bytes(const GroupLayout& layout, int rows) {
    return (layout.quads * A::kWords * (int64_t)sizeof(typename A::Word) + layout.groups * 8) * rows;
}

template <class A>
int64_t block_bytes(const PackedWeight& weight, int rows) {
    return (rows_bytes<A>(GroupLayout(weight), rows) + 63) / 64 * 64;
}

template <class A>
void prepare_rows(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* at) {
    const GroupLayout layout(weight);
    const RowBlock<A> block(layout, at, rows);
    for (int r = 0; r < rows; r++, x += x_stride) {
        for (int64_t g = 0; g < layout.groups; g++) {
            const int64_t first = g * weight.group, left = weight.in_features - first;
            A::prepare_group(x + first, (int)(left < weight.group ? left : weight.group), block.words + first / 4 * A::kWords * rows + r, rows,
                             block.scales + g * rows + r, block.corrections + g * rows + r);
        }
    }
}

template <class A>
void prepare(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block) {
    const int first = first_rows(rows);
    prepare_rows<A>(weight, x, x_stride, first, block);
    if (rows > first) prepare_rows<A>(weight, x + first * x_stride, x_stride, rows - first, block + rows_bytes<A>(GroupLayout(weight), first));
}

// ---- panels
struct GroupScales {
    alignas(64) float scales[kPanel];
    float zeros[kPanel];  // 8 - zero point
};

OCTAVO_INLINE void load_scales(const GroupLayout& layout, const char* panel, int64_t g, GroupScales& out) {
    const char* at = panel + layout.scales(g);
#if defined(__AVX512F__)
    for (int i = 0; i < kPanel; i += 16) {
        _mm512_store_ps(out.scales + i, _mm512_maskz_cvtph_ps(0xffff, _mm256_load_si256(reinterpret_cast<const __m256i*>(at + 2 * i))));
    }
#elif defined(__F16C__)
    for (int i = 0; i < kPanel; i += 8) {
        _mm256_store_ps(out.scales + i, _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(at + 2 * i))));
    }
#else
    for (int i = 0; i < kPanel; i++) {
        uint16_t bits;
        memcpy(&bits, at + 2 * i, 2);
        out.scales[i] = from_f16(bits);
    }
#endif
    if (!layout.has_zeros) return;
    const uint8_t* zeros = reinterpret_cast<const uint8_t*>(panel + layout.zeros(g));
    for (int i = 0; i < kPanel; i++) out.zeros[i] = (float)(8 - zeros[i]);
}

// One quad's products for `rows` rows.
template <class A, int rows>
OCTAVO_INLINE void add_quad(const char* line, const typename A::Word* x, int half, typename A::Sum (&sums)[rows][kDotHalves]) {
#pragma GCC unroll 4
    for (int word = 0; word < A::kWords; word++) {
        typename A::Values w[kDotHalves];
        for (int h = 0; h < kDotHalves; h++) w[h] = A::from_nibbles(line, half + h, word);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            for (int h = 0; h < kDotHalves; h++) sums[r][h] = A::dot(sums[r][h], w[h], x + word * rows + r);
        }
    }
}

template <class A, bool has_zeros, int rows>
OCTAVO_INLINE void add_to_tile(const RowBlock<A>& block, int64_t g, const GroupScales& scales, int half, const typename A::Sum (&sums)[rows][kDotHalves],
                               float* tile) {
#pragma GCC unroll 2
    for (int h = 0; h < kDotHalves; h++) {
        const int column = (half + h) * 16;
        const f32x16 scale = load16(scales.scales + column);
        const f32x16 zero = has_zeros ? load16(scales.zeros + column) : f32x16{};
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            float* out = tile + r * kPanel + column;
            f32x16 y = A::finish(sums[r][h]);
            if (has_zeros) y += zero * A::sum_of_x(block.corrections + g * rows + r);
            y *= A::kScaled ? scale * block.scales[g * rows + r] : scale;
            store16(out, g ? load16(out) + y : y);
        }
    }
}

template <class A, bool has_zeros, int rows>
OCTAVO_INLINE void multiply_group(const GroupLayout& layout, const char* panel, const RowBlock<A>& block, int64_t g, float* tile) {
    GroupScales scales;
    load_scales(layout, panel, g, scales);
    const int step = rows * A::kWords, quads = layout.quads_of(g);
    for (int half = 0; half < 2; half += kDotHalves) {
        typename A::Sum sums[rows][kDotHalves];
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            for (int h = 0; h < kDotHalves; h++) sums[r][h] = A::start(block.corrections + g * rows + r);
        }
        const typename A::Word* x = block.words + g * layout.group_quads * step;
        const char* line = panel + layout.codes(g);
        for (int q = 0; q < quads; q++, line += 64, x += step) {
            if (rows > 4) __builtin_prefetch(line + kAhead);
            add_quad<A, rows>(line, x, half, sums);
        }
        add_to_tile<A, has_zeros, rows>(block, g, scales, half, sums, tile);
    }
}

template <class A, bool has_zeros, int rows>
__attribute__((noinline)) void multiply_block(const GroupLayout& layout, const char* panel, const char* at, float* tile) {
    const RowBlock<A> block(layout, at, rows);
    for (int64_t g = 0; g < layout.groups; g++) multiply_group<A, has_zeros, rows>(layout, panel, block, g, tile);
}

template <class A, int rows = kDotRows>
void multiply_rows(int count, const GroupLayout& layout, const char* panel, const char* at, float* tile) {
    if constexpr (rows > 1) {
        if (count < rows) return multiply_rows<A, rows - 1>(count, layout, panel, at, tile);
    }
    if (layout.has_zeros) multiply_block<A, true, rows>(layout, panel, at, tile);
    else multiply_block<A, false, rows>(layout, panel, at, tile);
}

template <class A>
void multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char*) {
    const GroupLayout layout(weight);
    const int64_t step = block_bytes<A>(weight, kBlockRows);
    for (; rows > 0; rows -= kBlockRows, blocks += step, tile += kBlockRows * kPanel) {
        const int in_block = rows < kBlockRows ? rows : kBlockRows, first = first_rows(in_block);
        multiply_rows<A>(first, layout, panel, blocks, tile);
        if (in_block > first) multiply_rows<A>(in_block - first, layout, panel, blocks + rows_bytes<A>(layout, first), tile + first * kPanel);
    }
}

int64_t scratch_bytes(const PackedWeight&, int) { return 0; }

void unpack(const PackedWeight& weight, const char* panel, int column, float* out) {
    const GroupLayout layout(weight);
    for (int64_t g = 0; g < layout.groups; g++) {
        uint16_t bits;
        memcpy(&bits, panel + layout.scales(g) + column * 2, 2);
        const float scale = from_f16(bits);
        const int zero = layout.has_zeros ? (uint8_t)panel[layout.zeros(g) + column] : 8;
        const uint8_t* codes = reinterpret_cast<const uint8_t*>(panel + layout.codes(g)) + column % 16 * 4;
        for (int64_t i = g * weight.group; i < (g + 1) * weight.group && i < weight.in_features; i++) {
            const int64_t k = i - g * weight.group;
            out[i] = (float)((codes[k / 4 * 64 + k % 4] >> column / 16 * 4 & 15) - zero) * scale;
        }
    }
}

template <class A>
constexpr Format kFormat = {kBlockRows, block_bytes<A>, prepare<A>, multiply<A>, scratch_bytes, unpack};

}  // namespace

const Format int4_format = kFormat<Int8Activations>;
const Format int4_bf16_format = kFormat<Bf16Activations>;

}  // namespace octavo::OCTAVO_LEVEL
