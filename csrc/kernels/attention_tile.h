// Up to kMaxQueries query heads against up to 256 keys and values of one KV head: scores, softmax and weighted sum of a segment.
//
// The same template serves one row and twelve, and a row's bits depend on no other row. A score is one chain along D, a weighted sum
// one chain along the keys; keys that a row does not see get weight zero, so that tiles in which it sees none leave its bits alone.
#pragma once

#include "core/simd.h"
#include "kernels/attention_cache.h"
#include "kernels/lanes.h"

namespace octavo::OCTAVO_LEVEL {

constexpr int kSegmentTiles = 16, kSegment = kSegmentTiles * kTile;

// Rows of a block, and sums of 16 lanes that fit the registers beside what they are made of.
#if defined(__AVX512F__)
constexpr int kMaxQueries = 12, kMaxChains = 24;
#elif defined(__AVX2__)
constexpr int kMaxQueries = 4, kMaxChains = 4;
#else
constexpr int kMaxQueries = 2, kMaxChains = 2;
#endif

// Below any score, and below the largest score of a row that has seen no key: exp2 of their difference is 0, without a NaN.
constexpr float kMasked = -1e36f, kNothing = -1e30f;

// 16 lanes as registers: GCC keeps these out of memory, unlike a f32x16 of several.
struct Sixteen {
    static constexpr int kParts = 16 / kLanes;
    Lanes part[kParts];
};

inline Sixteen load_sixteen(const void* from) {
    Sixteen out;
#pragma GCC unroll 4
    for (int i = 0; i < Sixteen::kParts; i++) out.part[i] = load_lanes(static_cast<const float*>(from) + i * kLanes);
    return out;
}

inline void store_sixteen(float* to, const Sixteen& v) {
#pragma GCC unroll 4
    for (int i = 0; i < Sixteen::kParts; i++) store_lanes(to + i * kLanes, v.part[i]);
}

inline void multiply_add(Sixteen& sum, const Sixteen& a, const float* factor) {
    const Lanes b = broadcast(factor);
#pragma GCC unroll 4
    for (int i = 0; i < Sixteen::kParts; i++) sum.part[i] = multiply_add(a.part[i], b, sum.part[i]);
}

inline f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    float x[16], y[16], z[16];
    store16(x, a);
    store16(y, b);
    store16(z, c);
    for (int i = 0; i < 16; i += kLanes) store_lanes(z + i, multiply_add(load_lanes(x + i), load_lanes(y + i), load_lanes(z + i)));
    return load16(z);
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

// simd.h folds through memory, which is too slow for a row of a segment.
#if defined(__AVX512F__)
inline f32x16 higher(f32x16 a, f32x16 b) { return (f32x16)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
inline float highest(f32x16 v) {
    const __m256 half = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 0), _mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 1));
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline float total(f32x16 v) {
    const __m256 half = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 0), _mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
#else
inline f32x16 higher(f32x16 a, f32x16 b) { return max16(a, b); }
inline float highest(f32x16 v) { return max_lane(v); }
inline float total(f32x16 v) { return fold16(v); }
#endif

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
    using Sum = Sixteen;
    struct Word {
        Sixteen part[e];
    };

    // zero: what stands for 0 in an int8 cache, 128 or, for signed bytes, 0.
    static Word widen(const char* from, int zero) {
        typedef int32_t Bits __attribute__((vector_size(sizeof(Lanes))));
        typedef float Floats __attribute__((vector_size(sizeof(Lanes))));
        Word word;
        const Sixteen bits = load_sixteen(from);
#pragma GCC unroll 4
        for (int i = 0; i < Sixteen::kParts; i++) {
            const Bits b = (Bits)bits.part[i];
            if constexpr (kind == CacheKind::f32) {
                word.part[0].part[i] = (Lanes)b;
            } else if constexpr (kind == CacheKind::bf16) {
                word.part[0].part[i] = (Lanes)(b << 16);
                word.part[1].part[i] = (Lanes)(b & (int32_t)0xffff0000);
            } else {
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    const Bits byte = zero ? (b >> (8 * j) & 255) - zero : b << (24 - 8 * j) >> 24;
                    word.part[j].part[i] = (Lanes)__builtin_convertvector(byte, Floats);
                }
            }
        }
        return word;
    }
    static Word load_keys(const char* from) { return widen(from, 128); }
    static Word load_values(const char* from) { return widen(from, 0); }
    static void add(Sum& sum, const Word& word, const uint32_t* x, int stride) {
#pragma GCC unroll 4
        for (int j = 0; j < e; j++) multiply_add(sum, word.part[j], reinterpret_cast<const float*>(x + j * stride));
    }
    static void add_keys(Sum& sum, const Word& word, const uint32_t* x, int stride) { add(sum, word, x, stride); }
    static void add_values(Sum& sum, const Word& word, const uint32_t* x, int stride) { add(sum, word, x, stride); }
    static void store_result(float* to, const Sum& sum, int32_t) { store_sixteen(to, sum); }
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
    static void store_result(float* to, const Sum& sum, int32_t) { store16(to, (f32x16)sum); }
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
    static void store_result(float* to, const Sum& sum, int32_t offset) {
        store16(to, (f32x16)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_sub_epi32(sum, _mm512_set1_epi32(offset))));
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
    const char* next_keys[kSegmentTiles];  // of the segment that comes next, if any; anything else that may be read
    const float* key_scales[kSegmentTiles];  // int8 only
    const float* value_scales[kSegmentTiles];
};

// Decoding waits for memory: while it reads keys it asks for the values, and while it reads values for the keys that come next.
inline void ask_for(const char* line) { __builtin_prefetch(line, 0, 2); }

// Scores of R rows against T tiles. query: [word][part][R], scores: [R][kSegment].
template <class M, int R, int T>
inline void score_tiles(const uint32_t* query, const RowScale* rows, const char* const* tiles, const char* const* ahead, int words, float* scores) {
    typename M::Sum sum[R][T] = {};
    const char *tile[T], *next[T];
    for (int t = 0; t < T; t++) {
        tile[t] = tiles[t];
        next[t] = ahead[t];
    }
    for (int w = 0; w < words; w++) {
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) ask_for(next[t] + w * 64);
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
        for (int t = 0; t < T; t++) M::store_result(scores + r * kSegment + t * kTile, sum[r][t], rows[r].offset);
    }
}

template <class M, int R>
void score_rows(const uint32_t* query, const RowScale* rows, const SegmentTiles& tiles, Span span, int channels, float* scores) {
    const int words = channels / M::e;
    int t = span.first;
    if constexpr (R * 8 <= kMaxChains) {
        for (; t + 8 <= span.last; t += 8) score_tiles<M, R, 8>(query, rows, tiles.keys + t, tiles.values + t, words, scores + t * kTile);
    }
    if constexpr (R * 4 <= kMaxChains) {
        for (; t + 4 <= span.last; t += 4) score_tiles<M, R, 4>(query, rows, tiles.keys + t, tiles.values + t, words, scores + t * kTile);
    }
    if constexpr (R * 2 <= kMaxChains) {
        for (; t + 2 <= span.last; t += 2) score_tiles<M, R, 2>(query, rows, tiles.keys + t, tiles.values + t, words, scores + t * kTile);
    }
    for (; t < span.last; t++) score_tiles<M, R, 1>(query, rows, tiles.keys + t, tiles.values + t, words, scores + t * kTile);
}

// Sums of the values of tiles span.first .. span.last, C times 16 channels, for R rows. weights: [R][kSegment / e * kParts].
template <class M, int R, int C>
inline void weigh_columns(const uint32_t* weights, const SegmentTiles& tiles, Span span, int channels, int column, float* out) {
    constexpr int kRow = kSegment / M::e * M::kParts;
    typename M::Sum sum[R][C] = {};
    for (int t = span.first; t < span.last; t++) {
        const char *value = tiles.values[t] + column * 64, *next = tiles.next_keys[t] + column * 64;
        const uint32_t* weight = weights + t * (kTile / M::e) * M::kParts;
        for (int w = 0; w < kTile / M::e; w++) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) ask_for(next + c * 64);
            next += channels * 4;
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
        for (int c = 0; c < C; c++) M::store_result(out + (int64_t)r * channels + (column + c) * 16, sum[r][c], 0);
    }
}

template <class M, int R>
void weigh_rows(const uint32_t* weights, const SegmentTiles& tiles, Span span, int channels, float* out) {
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
    const bool partial = visible.first > span.first * kTile || visible.last < span.last * kTile;
    const bool bent = scaled || logits.cap != 0;  // else the slope waits for the exponential
    const float slope = logits.slope * row.scale;
    f32x16 most = splat(kNothing);
    for (int t = span.first; t < span.last; t++) {
        f32x16 s = load16(scores + t * kTile);
        if (bent) {
            s *= slope;
            if constexpr (scaled) s *= load16(tiles.key_scales[t]);
            if (logits.cap != 0) s = tanh16(s) * logits.cap;
        }
        if (partial) {
            const i32x16 position = lane + t * kTile;
            s = (position >= visible.first) & (position < visible.last) ? s : splat(kMasked);
        }
        if (bent || partial) store16(scores + t * kTile, s);
        most = higher(s, most);
    }
    RowSum out;
    const f32x16 factor = splat(bent ? 1.0f : slope);
    out.largest = highest(most) * factor[0];
    out.unit = 1;
    const f32x16 shift = splat(-out.largest);
    f32x16 even = {}, odd = {}, heaviest = {};
    for (int t = span.first; t < span.last; t++) {
        f32x16 p = exp2_16(fma16(load16(scores + t * kTile), factor, shift));
        if (t % 2) {
            odd += p;
        } else {
            even += p;
        }
        if constexpr (scaled) {
            p = p == 0.0f ? splat(0.0f) : p * load16(tiles.value_scales[t]);
            if constexpr (M::kQuantizesWeights) {
                store16(scores + t * kTile, p);
                heaviest = higher(p, heaviest);
                continue;
            }
        }
        M::store_weights(weights, t, p);
    }
    out.sum = total(even + odd);
    if constexpr (M::kQuantizesWeights) {
        const float heavy = highest(heaviest);
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
    float* scores;      // [kMaxQueries][kSegment]
    uint32_t* weights;  // likewise
};

template <class M, CacheKind kind, int R>
__attribute__((noinline)) void attend_segment(const uint32_t* query, const RowScale* rows, const SegmentTiles& tiles, Span span, const Span* visible, Logits logits,
                    int channels, const SegmentScratch& scratch, const State& out) {
    constexpr int kRow = kSegment / M::e * M::kParts;
    score_rows<M, R>(query, rows, tiles, span, channels, scratch.scores);
    float unit[R];
    for (int r = 0; r < R; r++) {
        const RowSum row = weigh_row<M, kind>(scratch.scores + r * kSegment, tiles, span, visible[r], logits, rows[r], scratch.weights + r * kRow);
        out.largest[r] = row.largest;
        out.sum[r] = row.sum;
        unit[r] = row.unit;
    }
    weigh_rows<M, R>(scratch.weights, tiles, span, channels, out.values);
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
