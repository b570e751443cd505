// Up to kMaxRows query heads against up to 256 keys and values of one KV head: scores, softmax and weighted sum of a segment.
//
// The same template serves one row and twelve, and a row's bits depend on no other row. A score is one chain along D, a weighted sum
// one chain along the keys; keys that a row does not see get weight zero, so that tiles in which it sees none leave its bits alone.
#pragma once

#include "core/simd.h"
#include "kernels/attention_cache.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace octavo::OCTAVO_LEVEL {

constexpr int kSegmentTiles = 16, kSegment = kSegmentTiles * kTile;

#if defined(__AVX512F__)
constexpr int kMaxRows = 12, kMaxChains = 24;
#else
constexpr int kMaxRows = 4, kMaxChains = 4;
#endif

// Below any score, and below the largest score of a row that has seen no key: exp2 of their difference is 0, without a NaN.
constexpr float kMasked = -3e38f, kNothing = -1e30f;

inline f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    union Halves {
        f32x16 whole;
        __m256 half[2];
    } x = {a}, y = {b}, z = {c};
    z.half[0] = _mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]);
    z.half[1] = _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1]);
    return z.whole;
#else
    return a * b + c;
#endif
}

template <class V>
inline V exp2_of(V x) {
    const V n = (larger(x, splat<V>(-126.0f)) + 12582912.0f) - 12582912.0f;  // 1.5 · 2^23
    const V f = x - n;
    V p = 1.3264727e-3f * f + 9.6715130e-3f;
    p = p * f + 5.5507336e-2f;
    p = p * f + 2.4022242e-1f;
    p = p * f + 6.9314700e-1f;
    p = p * f + 1.0f;
    const V out = scale_by_power(p, n);
    return x < -126.0f ? splat<V>(0.0f) : out;
}

// 2^x for x <= 0, relative error 2e-7; exactly 1 at 0 and exactly 0 far below; NaN passes.
inline f32x16 exp2_16(f32x16 x) {
#if defined(__AVX512F__)
    const __m512 v = (__m512)x;
    const __m512 n = _mm512_maskz_roundscale_ps(0xffff, v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(v, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.3264727e-3f), f, _mm512_set1_ps(9.6715130e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5507336e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022242e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314700e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return (f32x16)_mm512_maskz_scalef_ps(0xffff, p, n);
#else
    return in_registers(x, [](f32_register v) { return exp2_of(v); });
#endif
}

inline i32x16 load_words(const char* from) {
    i32x16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

// ---- How a kind of cache is multiplied: by float32 FMAs on widened elements, or by an instruction that adds up a word's products.

// What softmax needs of a query row beside its scores.
struct RowScale {
    float scale = 1;     // of its quantized channels
    int32_t offset = 0;  // to subtract from each of its integer dot products
};

template <CacheKind kind>
struct Widened {
    static constexpr int e = kElements<kind>;
    static constexpr int kParts = e;  // 32-bit words of a query, or of weights, per word of the cache
    static constexpr bool kQuantizesWeights = false;
    using Sum = f32x16;
    struct Word {
        f32x16 part[e];
    };

    static Word widen(const char* from, int32_t zero) {
        Word word;
        const i32x16 bits = load_words(from);
        if constexpr (kind == CacheKind::f32) {
            word.part[0] = (f32x16)bits;
        } else if constexpr (kind == CacheKind::bf16) {
            word.part[0] = (f32x16)(bits << 16);
            word.part[1] = (f32x16)(bits & (int32_t)0xffff0000);
        } else {
            for (int j = 0; j < 4; j++) {
                const i32x16 byte = zero ? (bits >> (8 * j) & 255) - zero : bits << (24 - 8 * j) >> 24;
                word.part[j] = __builtin_convertvector(byte, f32x16);
            }
        }
        return word;
    }
    static Word load_keys(const char* from) { return widen(from, 128); }
    static Word load_values(const char* from) { return widen(from, 0); }
    static void add(Sum& sum, const Word& word, const uint32_t* x, int stride) {
#pragma GCC unroll 4
        for (int j = 0; j < e; j++) {
            float factor;
            memcpy(&factor, x + j * stride, 4);
            sum = fma16(word.part[j], splat(factor), sum);
        }
    }
    static void add_keys(Sum& sum, const Word& word, const uint32_t* x, int stride) { add(sum, word, x, stride); }
    static void add_values(Sum& sum, const Word& word, const uint32_t* x, int stride) { add(sum, word, x, stride); }
    static f32x16 result(const Sum& sum, int32_t) { return sum; }
    static RowScale pack_query(const float* x, int channels, uint32_t* out, int stride) {
        for (int d = 0; d < channels; d++) memcpy(out + d * stride, x + d, 4);
        return {};
    }
    static void store_weights(uint32_t* row, int tile, f32x16 p) { memcpy(row + tile * kTile, &p, sizeof p); }
};

template <CacheKind kind>
struct Dot : Widened<kind> {};

#if defined(__AVX512BF16__)
template <>
struct Dot<CacheKind::bf16> {
    static constexpr int e = 2, kParts = 1;
    static constexpr bool kQuantizesWeights = false;
    using Sum = __m512;
    using Word = __m512bh;

    static Word load_keys(const char* from) { return (__m512bh)_mm512_loadu_si512(from); }
    static Word load_values(const char* from) { return load_keys(from); }
    static void add_keys(Sum& sum, const Word& word, const uint32_t* x, int) {
        sum = _mm512_dpbf16_ps(sum, word, (__m512bh)_mm512_set1_epi32((int)*x));
    }
    static void add_values(Sum& sum, const Word& word, const uint32_t* x, int stride) { add_keys(sum, word, x, stride); }
    static f32x16 result(const Sum& sum, int32_t) { return (f32x16)sum; }
    static RowScale pack_query(const float* x, int channels, uint32_t* out, int stride) {
        for (int d = 0; d < channels; d += 16) {
            const __m256i packed = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + d));
            uint32_t words[8];
            memcpy(words, &packed, sizeof words);
            for (int i = 0; i < 8; i++) out[(d / 2 + i) * stride] = words[i];
        }
        return {};
    }
    static void store_weights(uint32_t* row, int tile, f32x16 p) {
        const __m256i packed = (__m256i)_mm512_cvtneps_pbh((__m512)p);
        memcpy(row + tile * kTile / 2, &packed, sizeof packed);
    }
};
#endif

#if defined(__AVX512VNNI__)
template <>
struct Dot<CacheKind::int8> {
    static constexpr int e = 4, kParts = 1;
    static constexpr bool kQuantizesWeights = true;
    using Sum = __m512i;
    using Word = __m512i;

    static Word load_keys(const char* from) { return _mm512_loadu_si512(from); }
    static Word load_values(const char* from) { return _mm512_loadu_si512(from); }
    static void add_keys(Sum& sum, const Word& word, const uint32_t* x, int) {
        sum = _mm512_dpbusd_epi32(sum, word, _mm512_set1_epi32((int)*x));
    }
    static void add_values(Sum& sum, const Word& word, const uint32_t* x, int) {
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi32((int)*x), word);
    }
    static f32x16 result(const Sum& sum, int32_t offset) {
        return (f32x16)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_sub_epi32(sum, _mm512_set1_epi32(offset)));
    }
    static RowScale pack_query(const float* x, int channels, uint32_t* out, int stride) {
        const float most = largest_magnitude(x, channels), inverse = most > 0 ? 127.0f / most : 0.0f;
        int32_t total = 0;
        for (int d = 0; d < channels; d += 4) {
            uint32_t word = 0;
            for (int j = 0; j < 4; j++) {
                const int32_t q = quantize(x[d + j], inverse);
                total += q;
                word |= (uint32_t)(q & 255) << (8 * j);
            }
            out[d / 4 * stride] = word;
        }
        return {most / 127.0f, 128 * total};
    }
    // p >= 0 in units of 255: see weigh_row.
    static void store_weights(uint32_t* row, int tile, f32x16 p) {
        const __m128i packed = _mm512_maskz_cvtusepi32_epi8(0xffff, _mm512_maskz_cvtps_epi32(0xffff, (__m512)p));
        memcpy(row + tile * kTile / 4, &packed, sizeof packed);
    }
};
#endif

// ---- The tiles of a segment, and the part of it that one row sees

struct Span {
    int first = 0, last = 0;
};

struct SegmentTiles {
    const char* keys[kSegmentTiles];
    const char* values[kSegmentTiles];
    const float* key_scales[kSegmentTiles];  // int8 only
    const float* value_scales[kSegmentTiles];
};

// Scores of R rows against T tiles. query: [word][part][R], scores: [R][kSegment].
template <class M, int R, int T>
inline void score_tiles(const uint32_t* query, const RowScale* rows, const char* const* tiles, int words, float* scores) {
    typename M::Sum sum[R][T] = {};
    const char* tile[T];
    for (int t = 0; t < T; t++) tile[t] = tiles[t];
    for (int w = 0; w < words; w++) {
        typename M::Word word[T];
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) word[t] = M::load_keys(tile[t] + w * 64);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) M::add_keys(sum[r][t], word[t], query + r, R);
        }
        query += R * M::kParts;
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) store16(scores + r * kSegment + t * kTile, M::result(sum[r][t], rows[r].offset));
    }
}

template <class M, int R>
void score_rows(const uint32_t* query, const RowScale* rows, const char* const* tiles, Span span, int channels, float* scores) {
    const int words = channels / M::e;
    int t = span.first;
    if constexpr (R * 8 <= kMaxChains) {
        for (; t + 8 <= span.last; t += 8) score_tiles<M, R, 8>(query, rows, tiles + t, words, scores + t * kTile);
    }
    if constexpr (R * 4 <= kMaxChains) {
        for (; t + 4 <= span.last; t += 4) score_tiles<M, R, 4>(query, rows, tiles + t, words, scores + t * kTile);
    }
    if constexpr (R * 2 <= kMaxChains) {
        for (; t + 2 <= span.last; t += 2) score_tiles<M, R, 2>(query, rows, tiles + t, words, scores + t * kTile);
    }
    for (; t < span.last; t++) score_tiles<M, R, 1>(query, rows, tiles + t, words, scores + t * kTile);
}

// Sums of the values of tiles span.first .. span.last, C times 16 channels, for R rows. weights: [R][kSegment / e * kParts].
template <class M, int R, int C>
inline void weigh_columns(const uint32_t* weights, const char* const* tiles, Span span, int channels, int column, float* out) {
    constexpr int kRow = kSegment / M::e * M::kParts;
    typename M::Sum sum[R][C] = {};
    for (int t = span.first; t < span.last; t++) {
        const char* value = tiles[t] + column * 64;
        const uint32_t* weight = weights + t * (kTile / M::e) * M::kParts;
        for (int w = 0; w < kTile / M::e; w++) {
            typename M::Word word[C];
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) word[c] = M::load_values(value + c * 64);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) M::add_values(sum[r][c], word[c], weight + r * kRow, 1);
            }
            value += channels * 4;
            weight += M::kParts;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) store16(out + (int64_t)r * channels + (column + c) * 16, M::result(sum[r][c], 0));
    }
}

template <class M, int R>
void weigh_rows(const uint32_t* weights, const char* const* tiles, Span span, int channels, float* out) {
    const int columns = channels / 16;
    int c = 0;
    if constexpr (R * 8 <= kMaxChains) {
        for (; c + 8 <= columns; c += 8) weigh_columns<M, R, 8>(weights, tiles, span, channels, c, out);
    }
    if constexpr (R * 4 <= kMaxChains) {
        for (; c + 4 <= columns; c += 4) weigh_columns<M, R, 4>(weights, tiles, span, channels, c, out);
    }
    if constexpr (R * 2 <= kMaxChains) {
        for (; c + 2 <= columns; c += 2) weigh_columns<M, R, 2>(weights, tiles, span, channels, c, out);
    }
    for (; c < columns; c++) weigh_columns<M, R, 1>(weights, tiles, span, channels, c, out);
}

// A score becomes score · slope, in units of log2, or with a softcap log2(e) · c · tanh(score · slope).
struct Logits {
    float slope, cap;  // cap: log2(e) · c, or 0
};

// Scores of one row become the weights of its values: 2^(score - largest). Returns the largest, the weights' sum and their unit.
struct RowSum {
    float largest, sum, unit;
};

template <class M, CacheKind kind>
inline RowSum weigh_row(float* scores, const SegmentTiles& tiles, Span span, Span visible, Logits logits, RowScale row, uint32_t* weights) {
    constexpr bool scaled = kind == CacheKind::int8;
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const f32x16 slope = splat(logits.slope * row.scale);
    const bool partial = visible.first > span.first * kTile || visible.last < span.last * kTile;
    f32x16 most = splat(kNothing);
    for (int t = span.first; t < span.last; t++) {
        f32x16 s = load16(scores + t * kTile) * slope;
        if constexpr (scaled) s *= load16(tiles.key_scales[t]);
        if (logits.cap != 0) s = tanh16(s) * logits.cap;
        if (partial) {
            const i32x16 position = lane + t * kTile;
            s = (position >= visible.first) & (position < visible.last) ? s : splat(kMasked);
        }
        store16(scores + t * kTile, s);
        most = max16(s, most);
    }
    RowSum out;
    out.largest = max_lane(most);
    out.unit = 1;
    const f32x16 largest = splat(out.largest);
    f32x16 even = {}, odd = {}, heaviest = {};
    for (int t = span.first; t < span.last; t++) {
        f32x16 p = exp2_16(load16(scores + t * kTile) - largest);
        if (t % 2) {
            odd += p;
        } else {
            even += p;
        }
        if constexpr (scaled) {
            p = p == 0.0f ? splat(0.0f) : p * load16(tiles.value_scales[t]);
            if constexpr (M::kQuantizesWeights) {
                store16(scores + t * kTile, p);
                heaviest = max16(p, heaviest);
                continue;
            }
        }
        M::store_weights(weights, t, p);
    }
    out.sum = fold16(even + odd);
    if constexpr (M::kQuantizesWeights) {
        const float heavy = max_lane(heaviest);
        out.unit = heavy / 255.0f;
        const f32x16 inverse = splat(heavy > 0 ? 255.0f / heavy : 0.0f);
        for (int t = span.first; t < span.last; t++) M::store_weights(weights, t, load16(scores + t * kTile) * inverse);
    }
    return out;
}

// What R rows know of a segment, or of all segments up to one: largest score, sum of weights, weighted sum of values [R, channels].
struct State {
    float* largest;
    float* sum;
    float* values;
};

struct SegmentScratch {
    float* scores;      // [kMaxRows][kSegment]
    uint32_t* weights;  // likewise
};

template <class M, CacheKind kind, int R>
__attribute__((noinline)) void attend_segment(const uint32_t* query, const RowScale* rows, const SegmentTiles& tiles, Span span, const Span* visible, Logits logits,
                    int channels, const SegmentScratch& scratch, const State& out) {
    constexpr int kRow = kSegment / M::e * M::kParts;
    score_rows<M, R>(query, rows, tiles.keys, span, channels, scratch.scores);
    float unit[R];
    for (int r = 0; r < R; r++) {
        const RowSum row = weigh_row<M, kind>(scratch.scores + r * kSegment, tiles, span, visible[r], logits, rows[r], scratch.weights + r * kRow);
        out.largest[r] = row.largest;
        out.sum[r] = row.sum;
        unit[r] = row.unit;
    }
    weigh_rows<M, R>(scratch.weights, tiles.values, span, channels, out.values);
    if constexpr (M::kQuantizesWeights) {
        for (int r = 0; r < R; r++) {
            for (int d = 0; d < channels; d += 16) {
                float* v = out.values + (int64_t)r * channels + d;
                store16(v, load16(v) * unit[r]);
            }
        }
    }
}

// into = into and then next, for `rows` rows: the one formula by which segments meet, in order, wherever they were computed.
inline void merge(const State& into, const State& next, int rows, int channels) {
    for (int r = 0; r < rows; r++) {
        const float largest = into.largest[r] > next.largest[r] ? into.largest[r] : next.largest[r];
        f32x16 shift = {};
        shift[0] = into.largest[r] - largest;
        shift[1] = next.largest[r] - largest;
        const f32x16 factor = exp2_16(shift);
        const float old_factor = factor[0], new_factor = factor[1];
        into.largest[r] = largest;
        into.sum[r] = into.sum[r] * old_factor + next.sum[r] * new_factor;
        float* a = into.values + (int64_t)r * channels;
        const float* b = next.values + (int64_t)r * channels;
        for (int d = 0; d < channels; d += 16) store16(a + d, fma16(load16(b + d), splat(new_factor), load16(a + d) * old_factor));
    }
}

}  // namespace octavo::OCTAVO_LEVEL
