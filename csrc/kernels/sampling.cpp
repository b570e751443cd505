#include "kernels/sampling.h"

#include <math.h>

#include "core/simd.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

using Lanes = f32_register;
using Whole = Integers<Lanes>;

constexpr float kMinusInf = -__builtin_inff();
// The likeliest token's weight is 2^43, so that 2^20 tokens still sum below 2^63. In halves: 2^21 · 2^22.
constexpr float kHighScale = 0x1p21f, kLowScale = 0x1p22f;
constexpr int64_t kSummed = 256 * kRegister;  // tokens whose halves are summed in int32 lanes: 256 · 2^22 < 2^31
constexpr int64_t kSplitAt = 16384;           // tokens of a row that are worth splitting between members
constexpr int kSamples = 33;                  // elements that a border is guessed from
constexpr int64_t kAhead = 16;                // edits whose logits are on their way
constexpr int64_t kSlack = 16;                // elements that compress() writes beyond its results

OCTAVO_INLINE Lanes load(const float* from) {
    Lanes out;
    memcpy(&out, from, sizeof out);
    return out;
}

OCTAVO_INLINE Lanes load(const float* from, int64_t n, float rest) {
    Lanes out = splat<Lanes>(rest);
    memcpy(&out, from, (n < kRegister ? n : kRegister) * sizeof(float));
    return out;
}

OCTAVO_INLINE bool is_finite(float x) { return __builtin_fabsf(x) <= 3.40282347e38f; }

// ---- maxima
OCTAVO_INLINE float largest_lane(Lanes v) {
#if defined(__AVX512F__)
    v = larger(v, __builtin_shuffle(v, (i32x16){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
    v = larger(v, __builtin_shuffle(v, (i32x16){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));
    v = larger(v, __builtin_shuffle(v, (i32x16){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));
    return larger(v, __builtin_shuffle(v, (i32x16){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14}))[0];
#else
    float out = v[0];
    for (int lane = 1; lane < kRegister; lane++) out = v[lane] > out ? v[lane] : out;
    return out;
#endif
}

OCTAVO_INLINE bool any(Whole mask) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#else
    int32_t out = 0;
    for (int lane = 0; lane < kRegister; lane++) out |= mask[lane];
    return out != 0;
#endif
}

// The largest of x [n], or NaN if there is one.
OCTAVO_INLINE float largest(const float* x, int64_t n) {
    Lanes top = splat<Lanes>(kMinusInf);
    Whole bits = {};  // of the largest magnitude: NaN's are above infinity's
    const auto take = [&](Lanes v) {
        const Whole magnitude = (Whole)v & 0x7fffffff;
        top = larger(v, top);
        bits = magnitude > bits ? magnitude : bits;
    };
    int64_t i = 0;
    for (; i + kRegister <= n; i += kRegister) take(load(x + i));
    if (i < n) take(load(x + i, n - i, kMinusInf));
    return any(bits > 0x7f800000) ? __builtin_nanf("") : largest_lane(top);
}

OCTAVO_INLINE int64_t stretch_size(const LogitsView& logits, int64_t stretch) {
    const int64_t left = logits.vocab_size - stretch * kStretch;
    return left < kStretch ? left : kStretch;
}

OCTAVO_INLINE void rescan(const LogitsView& logits, int64_t row, int64_t stretch) {
    const float* x = logits.row(row) + stretch * kStretch;
    const int64_t n = stretch_size(logits, stretch);
    logits.maxima_of(row)[stretch] = n == kStretch ? largest(x, kStretch) : largest(x, n);
}

// Calls visit(row, stretch) for this member's share of all stretches.
template <class Visit>
OCTAVO_INLINE void for_stretches(const LogitsView& logits, const Worker& worker, const Visit& visit) {
    const int64_t stretches = logits.num_stretches(), all = logits.num_rows * stretches;
    int64_t row = worker.begin(all) / stretches, stretch = worker.begin(all) % stretches;
    for (int64_t left = worker.end(all) - worker.begin(all); left > 0; left--) {
        visit(row, stretch);
        if (++stretch == stretches) stretch = 0, row++;
    }
}

void scan(const LogitsView& logits, const Worker& worker) {
    for_stretches(logits, worker, [&](int64_t row, int64_t stretch) { rescan(logits, row, stretch); });
}

// The first of x [n] that equals `value`, or that is NaN when `value` is.
OCTAVO_INLINE int64_t find(const float* x, int64_t n, float value) {
    const bool is_nan = value != value;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] == value || (is_nan && x[i] != x[i])) return i;
    }
    return 0;
}

void likeliest(const LogitsView& logits, int64_t* ids, float* tops, const Worker& worker) {
    const int64_t stretches = logits.num_stretches();
    for (int64_t row = worker.begin(logits.num_rows); row < worker.end(logits.num_rows); row++) {
        const float* maxima = logits.maxima_of(row);
        const int64_t stretch = find(maxima, stretches, largest(maxima, stretches));
        const float* x = logits.row(row) + stretch * kStretch;
        const int64_t at = find(x, stretch_size(logits, stretch), maxima[stretch]);
        ids[row] = stretch * kStretch + at;
        tops[row] = x[at];
    }
}

// ---- edits
void mask_stretch(float* x, int64_t n, const uint32_t* words) {
#if defined(__AVX512F__)
    if (n == kStretch) {
        for (int64_t i = 0; i < kStretch; i += 16) {
            const __mmask16 excluded = (__mmask16)~(words[i / 32] >> i % 32);
            _mm512_mask_storeu_ps(x + i, excluded, (__m512)splat(kMinusInf));
        }
        return;
    }
#endif
    for (int64_t first = 0; first < n; first += 32) {
        const uint32_t word = words[first / 32];
        const int64_t stop = n - first < 32 ? n : first + 32;
        if (word == ~0u) continue;
        for (int64_t i = first; i < stop; i++) x[i] = word >> (i - first) & 1 ? x[i] : kMinusInf;
    }
}

void mask(const LogitsView& logits, const uint32_t* bits, int64_t stride, const Worker& worker) {
    for_stretches(logits, worker, [&](int64_t row, int64_t stretch) {
        mask_stretch(logits.row(row) + stretch * kStretch, stretch_size(logits, stretch), bits + row * stride + stretch * (kStretch / 32));
        rescan(logits, row, stretch);
    });
}

void exclude_between(float* x, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) x[i] = kMinusInf;
}

void keep_only(const LogitsView& logits, const Edit& edit) {
    float *x = logits.row(edit.row), *maxima = logits.maxima_of(edit.row);
    exclude_between(maxima, 0, logits.num_stretches());
    int64_t next = 0;
    for (int64_t i = 0; i < edit.count; i++) {
        const int32_t id = edit.ids[i];
        exclude_between(x, next, id);
        next = id + 1;
        float& top = maxima[id / kStretch];
        if (!(x[id] <= top) && top == top) top = x[id];
    }
    exclude_between(x, next, logits.vocab_size);
}

OCTAVO_INLINE void set_logit(const LogitsView& logits, int64_t row, int32_t id, float value) {
    float &x = logits.row(row)[id], &top = logits.maxima_of(row)[id / kStretch];
    const float before = x;
    x = value;
    if (value > top) top = value;
    // The largest was lowered, or there is a NaN whose whereabouts are unknown.
    else if (before == top || top != top || value != value) rescan(logits, row, id / kStretch);
}

// Every token of the edit gets become(its logit, i).
template <class Become>
OCTAVO_INLINE void replace(const LogitsView& logits, const Edit& edit, const Become& become) {
    const float* x = logits.row(edit.row);
    const int32_t* ids = edit.ids;
    const int64_t count = edit.count, row = edit.row;
    for (int64_t i = 0; i < count; i++) {
        if (i + kAhead < count) __builtin_prefetch(x + ids[i + kAhead], 1);
        set_logit(logits, row, ids[i], become(x[ids[i]], i));
    }
}

void penalize(const LogitsView& logits, const Edit& edit) {
    const float presence = edit.presence, frequency = edit.frequency, repetition = edit.repetition, *times = edit.values;
    replace(logits, edit, [=](float value, int64_t i) {
        const float less = value / repetition, more = value * repetition;  // both, because signs cannot be foreseen
        const float repeated = value > 0 ? less : more;
        return repeated - frequency * times[i] - presence * (times[i] > 0 ? 1.0f : 0.0f);
    });
}

void apply(const LogitsView& logits, const Edit& edit) {
    const float* values = edit.values;
    switch (edit.kind) {
        case EditKind::keep_only: return keep_only(logits, edit);
        case EditKind::exclude: return replace(logits, edit, [](float, int64_t) { return kMinusInf; });
        case EditKind::add: return replace(logits, edit, [=](float value, int64_t i) { return value + values[i]; });
        case EditKind::penalize: return penalize(logits, edit);
    }
}

void edit(const LogitsView& logits, const Edit* edits, int64_t count, const Worker& worker) {
    for (int64_t i = 0; i < count; i++) {
        if (edits[i].row % worker.size == worker.rank) apply(logits, edits[i]);
    }
}

// ---- weights
OCTAVO_INLINE int64_t weight_of(float w) { return (int64_t)(w * (kHighScale * kLowScale)); }

// Sums of weights in exact halves.
struct Halves {
    Whole high = {}, low = {};

    OCTAVO_INLINE void add(Lanes w) {
        const Lanes scaled = w * kHighScale;
        const Whole whole = __builtin_convertvector(scaled, Whole);
        high += whole;
        low += __builtin_convertvector((scaled - __builtin_convertvector(whole, Lanes)) * kLowScale, Whole);
    }
    OCTAVO_INLINE int64_t sum() const {
        int64_t out = 0;
        for (int lane = 0; lane < kRegister; lane++) out += ((int64_t)high[lane] << 22) + low[lane];
        return out;
    }
};

// The sum of the weights of term(i) for i = 0, kRegister, … < n; term gives kRegister weights, 0 beyond n.
template <class Term>
OCTAVO_INLINE int64_t sum_of(int64_t n, const Term& term) {
    int64_t sum = 0;
    for (int64_t first = 0; first < n; first += kSummed) {
        const int64_t stop = n - first < kSummed ? n : first + kSummed;
        Halves halves;
        for (int64_t i = first; i < stop; i += kRegister) halves.add(term(i));
        sum += halves.sum();
    }
    return sum;
}

// out = e^{(x - top) / temperature} for x [n]; returns the sum of the weights. out may be x; its last register is written whole.
int64_t weigh(const float* x, int64_t n, float top, float temperature, float* out) {
    return sum_of(n, [&](int64_t i) {
        const Lanes v = i + kRegister <= n ? load(x + i) : load(x + i, n - i, kMinusInf);
        const Lanes w = exp_of((v - top) / temperature);
        memcpy(out + i, &w, sizeof w);
        return w;
    });
}

// ---- selection
// Copies those of x [n] that keeps() marks to out, in order, and returns how many; out may be x. Writes up to kSlack more.
template <class Keeps>
OCTAVO_INLINE int64_t compress(const float* x, int64_t n, float* out, const Keeps& keeps) {
    int64_t kept = 0, i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        const f32x16 v = load16(x + i);
        const __mmask16 marks = _mm512_movepi32_mask((__m512i)keeps(v));
        store16(out + kept, (f32x16)_mm512_maskz_compress_ps(marks, (__m512)v));
        kept += __builtin_popcount(marks);
    }
#endif
    for (; i < n; i++) {
        const float v = x[i];
        out[kept] = v;
        kept += keeps(v);
    }
    return kept;
}

// What a border is measured in: tokens, or weights.
struct Tokens {
    static OCTAVO_INLINE int64_t of(float) { return 1; }
    static OCTAVO_INLINE int64_t above(const float* x, int64_t n, float border, int64_t* equal) {
        Whole more = {}, same = {};  // counted downwards: a mark is -1
        int64_t i = 0;
        for (; i + kRegister <= n; i += kRegister) {
            const Lanes v = load(x + i);
            more += v > border;
            same += v == border;
        }
        int64_t above = 0;
        *equal = 0;
        for (int lane = 0; lane < kRegister; lane++) above -= more[lane], *equal -= same[lane];
        for (; i < n; i++) above += x[i] > border, *equal += x[i] == border;
        return above;
    }
};

struct Weights {
    static OCTAVO_INLINE int64_t of(float w) { return weight_of(w); }
    static OCTAVO_INLINE int64_t above(const float* w, int64_t n, float border, int64_t* equal) {
        Whole same = {};
        const int64_t sum = sum_of(n, [&](int64_t i) {
            const Lanes v = i + kRegister <= n ? load(w + i) : load(w + i, n - i, -1.0f);
            same += v == border;
            return v > border ? v : Lanes{};
        });
        *equal = 0;
        for (int lane = 0; lane < kRegister; lane++) *equal -= same[lane];
        return sum;
    }
};

// Sorts x [n], largest first.
void sort_down(float* x, int n) {
    for (int i = 1; i < n; i++) {
        const float v = x[i];
        int at = i;
        for (; at > 0 && x[at - 1] < v; at--) x[at] = x[at - 1];
        x[at] = v;
    }
}

// One of x [n]: about where, largest first, `share` of the whole measure is reached; `middle` asks for the median instead.
template <class Measure>
float guess(const float* x, int64_t n, double share, bool middle) {
    const int taken = n < kSamples ? (int)n : kSamples;
    float samples[kSamples];
    for (int i = 0; i < taken; i++) samples[i] = x[n * i / taken];
    sort_down(samples, taken);
    if (middle) return samples[taken / 2];
    double all = 0, upto = 0;
    for (int i = 0; i < taken; i++) all += (double)Measure::of(samples[i]);
    for (int i = 0; i < taken; i++) {
        upto += (double)Measure::of(samples[i]);
        if (upto >= share * all) return samples[i];
    }
    return samples[taken - 1];
}

struct Border {
    float at;
    int64_t reached;  // the measure of everything at or above it
};

// The largest border such that what is at or above it measures at least `wanted`, 1 to `all`: the measure of x [n]. Quickselect
// by three parts; x has kSlack elements more and is overwritten.
template <class Measure>
Border find_border(float* x, int64_t n, int64_t wanted, int64_t all) {
    int64_t reached = 0;  // by what was above x
    for (bool middle = false;; middle = !middle) {
        const float border = guess<Measure>(x, n, (double)(wanted - reached) / (double)all, middle);
        int64_t equal;
        const int64_t above = Measure::above(x, n, border, &equal), upto = above + equal * Measure::of(border);
        if (reached + above >= wanted) {
            n = compress(x, n, x, [=](auto v) { return v > border; });
            all = above;
        } else if (reached + upto >= wanted) {
            return {border, reached + upto};
        } else {
            n = compress(x, n, x, [=](auto v) { return v < border; });
            reached += upto;
            all -= upto;
        }
    }
}

// One draw's memory.
struct Slot {
    float *values, *spare;  // [vocab_size + kSlack]
    int32_t* ids;           // [vocab_size + kSlack]
    int64_t total;
};

int64_t slot_elements(int64_t vocab_size) { return (vocab_size + kSlack + 15) / 16 * 16; }

int64_t slot_bytes(int64_t vocab_size) { return 64 + slot_elements(vocab_size) * (2 * sizeof(float) + sizeof(int32_t)); }

Slot slot_at(const Worker& worker, int64_t vocab_size, int64_t index) {
    char* memory = worker.shared + index * slot_bytes(vocab_size) + 64;
    float* values = reinterpret_cast<float*>(memory);
    const int64_t elements = slot_elements(vocab_size);
    return {values, values + elements, reinterpret_cast<int32_t*>(values + 2 * elements), 0};
}

int64_t* total_of(const Worker& worker, int64_t vocab_size, int64_t index) {
    return reinterpret_cast<int64_t*>(worker.shared + index * slot_bytes(vocab_size));
}

// The logits of a row from `low` on and their ids, in order of ids; returns how many.
int64_t collect(const LogitsView& logits, int64_t row, float low, const Slot& slot) {
    const float *x = logits.row(row), *maxima = logits.maxima_of(row);
    int64_t kept = 0;
    for (int64_t stretch = 0; stretch < logits.num_stretches(); stretch++) {
        if (!(maxima[stretch] >= low)) continue;
        const int64_t first = stretch * kStretch, stop = first + stretch_size(logits, stretch);
        int64_t i = first;
#if defined(__AVX512F__)
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (; i + 16 <= stop; i += 16) {
            const __m512 v = _mm512_loadu_ps(x + i);
            const __mmask16 marks = _mm512_cmp_ps_mask(v, _mm512_set1_ps(low), _CMP_GE_OQ);
            _mm512_storeu_ps(slot.values + kept, _mm512_maskz_compress_ps(marks, v));
            _mm512_storeu_si512(slot.ids + kept, _mm512_maskz_compress_epi32(marks, _mm512_add_epi32(lane, _mm512_set1_epi32((int)i))));
            kept += __builtin_popcount(marks);
        }
#endif
        for (; i < stop; i++) {
            slot.values[kept] = x[i];
            slot.ids[kept] = (int32_t)i;
            kept += x[i] >= low;
        }
    }
    return kept;
}

// At most the k-th largest logit of a row, and close to it: the k-th largest maximum.
float below_kth(const LogitsView& logits, int64_t row, int64_t k, float* spare) {
    const int64_t stretches = logits.num_stretches();
    if (k > stretches) return kMinusInf;
    memcpy(spare, logits.maxima_of(row), stretches * sizeof(float));
    return find_border<Tokens>(spare, stretches, k, stretches).at;
}

// Drops from a slot's `count` tokens those below the k-th largest.
int64_t keep_top(const Slot& slot, int64_t count, int64_t k) {
    if (count <= k) return count;
    memcpy(slot.spare, slot.values, count * sizeof(float));
    const float low = find_border<Tokens>(slot.spare, count, k, count).at;
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        const float value = slot.values[i];
        slot.values[kept] = value;
        slot.ids[kept] = slot.ids[i];
        kept += value >= low;
    }
    return kept;
}

// ---- drawing
// Philox4x32-10 as in octavo/worker/sampling/random.py, stream 0.
double uniform(uint64_t seed, uint64_t position) {
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int turn = 0; turn < 10; turn++) {
        const uint64_t first = (uint64_t)counter[0] * 0xD2511F53u, second = (uint64_t)counter[2] * 0xCD9E8D57u;
        const uint32_t mixed = (uint32_t)(second >> 32) ^ counter[1] ^ key[0], other = (uint32_t)(first >> 32) ^ counter[3] ^ key[1];
        counter[0] = mixed;
        counter[1] = (uint32_t)second;
        counter[2] = other;
        counter[3] = (uint32_t)first;
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return (double)(((uint64_t)counter[0] << 32 | counter[1]) >> 11) * 0x1p-53;
}

// The first of w [n] at which the sum of the weights not below `border` exceeds `target`.
int64_t walk(const float* w, int64_t n, float border, int64_t target) {
    constexpr int64_t kStep = 512;
    int64_t upto = 0, first = 0;
    for (; first < n; first += kStep) {
        const int64_t left = n - first < kStep ? n - first : kStep;
        const int64_t sum = sum_of(left, [&](int64_t i) {
            const Lanes v = i + kRegister <= left ? load(w + first + i) : load(w + first + i, left - i, 0.0f);
            return v >= border ? v : Lanes{};
        });
        if (upto + sum > target) break;
        upto += sum;
    }
    int64_t last = n - 1;
    for (int64_t i = first; i < n; i++) {
        if (w[i] >= border) upto += weight_of(w[i]);
        if (upto > target) return i;
    }
    return last;
}

OCTAVO_INLINE float row_top(const LogitsView& logits, int64_t row) { return largest(logits.maxima_of(row), logits.num_stretches()); }

// Whether min-p or top-k leave only some of the tokens.
OCTAVO_INLINE bool is_limited(const LogitsView& logits, const Draws& draws, int64_t i) {
    return draws.min_p[i] > 0 || (draws.top_k[i] > 0 && draws.top_k[i] < logits.vocab_size);
}

// Fills a slot with the tokens that min-p and top-k leave.
int64_t limit(const LogitsView& logits, const Draws& draws, int64_t i, float top, const Slot& slot) {
    const int64_t k = draws.top_k[i] > 0 ? draws.top_k[i] : logits.vocab_size;
    float low = kMinusInf;
    if (draws.min_p[i] > 0) low = top + (float)(log(draws.min_p[i]) * (double)draws.temperature[i]);
    if (k < logits.vocab_size) low = fmaxf(low, below_kth(logits, draws.rows[i], k, slot.spare));
    return keep_top(slot, collect(logits, draws.rows[i], low, slot), k);
}

// Draws from the weights in a slot, the first `count` of a vocabulary or of slot.ids, whose sum is `total`.
int64_t draw_from(const Draws& draws, int64_t i, const Slot& slot, int64_t count, int64_t total) {
    float border = 0;
    if (draws.top_p[i] < 1) {
        int64_t wanted = (int64_t)ceil(draws.top_p[i] * (double)total);
        wanted = wanted < 1 ? 1 : wanted < total ? wanted : total;
        memcpy(slot.spare, slot.values, count * sizeof(float));
        const Border nucleus = find_border<Weights>(slot.spare, count, wanted, total);
        border = nucleus.at;
        total = nucleus.reached;
    }
    const int64_t target = (int64_t)(uniform(draws.seeds[i], (uint64_t)draws.positions[i]) * (double)total);
    return walk(slot.values, count, border, target < total ? target : total - 1);
}

void draw_one(const LogitsView& logits, const Draws& draws, int64_t i, const Slot& slot) {
    const int64_t row = draws.rows[i];
    const float top = row_top(logits, row);
    if (!is_finite(top)) return;
    if (is_limited(logits, draws, i)) {
        const int64_t count = limit(logits, draws, i, top, slot);
        const int64_t total = weigh(slot.values, count, top, draws.temperature[i], slot.values);
        draws.ids[row] = slot.ids[draw_from(draws, i, slot, count, total)];
    } else {
        const int64_t total = weigh(logits.row(row), logits.vocab_size, top, draws.temperature[i], slot.values);
        draws.ids[row] = draw_from(draws, i, slot, logits.vocab_size, total);
    }
}

// This member's share of an unlimited row's weights, into the slot that all share; the sum is added to *total.
void weigh_share(const LogitsView& logits, const Draws& draws, int64_t i, const Slot& slot, int64_t* total, const Worker& worker) {
    const float top = row_top(logits, draws.rows[i]);
    if (!is_finite(top) || is_limited(logits, draws, i)) return;
    const int64_t stretches = logits.num_stretches(), first = worker.begin(stretches) * kStretch;
    const int64_t stop = worker.rank + 1 == worker.size ? logits.vocab_size : worker.end(stretches) * kStretch;
    const int64_t sum = weigh(logits.row(draws.rows[i]) + first, stop - first, top, draws.temperature[i], slot.values + first);
    __atomic_fetch_add(total, sum, __ATOMIC_RELAXED);
}

void draw(const LogitsView& logits, const Draws& draws, const Worker& worker) {
    const int64_t vocab = logits.vocab_size;
    if (draws.count >= worker.size || vocab < kSplitAt) {
        const Slot slot = slot_at(worker, vocab, worker.rank);
        for (int64_t i = worker.claim(); i < draws.count; i = worker.claim()) draw_one(logits, draws, i, slot);
        return;
    }
    for (int64_t i = 0; i < draws.count; i++) {
        weigh_share(logits, draws, i, slot_at(worker, vocab, i), total_of(worker, vocab, i), worker);
    }
    worker.barrier();
    if (worker.rank >= draws.count) return;
    const int64_t i = worker.rank, row = draws.rows[i];
    const Slot slot = slot_at(worker, vocab, i);
    if (is_limited(logits, draws, i)) draw_one(logits, draws, i, slot);
    else if (is_finite(row_top(logits, row))) draws.ids[row] = draw_from(draws, i, slot, vocab, *total_of(worker, vocab, i));
}

// ---- log-probabilities
// Sorts a slot's `count` tokens by logit, largest first, lower ids first among equals: a heap sort, which needs no more memory.
void sort_tokens(const Slot& slot, int64_t count) {
    float* value = slot.values;
    int32_t* id = slot.ids;
    const auto after = [&](int64_t a, int64_t b) { return value[a] < value[b] || (value[a] == value[b] && id[a] > id[b]); };
    const auto swap = [&](int64_t a, int64_t b) {
        const float v = value[a];
        const int32_t name = id[a];
        value[a] = value[b];
        id[a] = id[b];
        value[b] = v;
        id[b] = name;
    };
    const auto sink = [&](int64_t at, int64_t stop) {
        for (int64_t child = 2 * at + 1; child < stop; at = child, child = 2 * at + 1) {
            if (child + 1 < stop && after(child + 1, child)) child++;
            if (!after(child, at)) return;
            swap(at, child);
        }
    };
    for (int64_t at = count / 2 - 1; at >= 0; at--) sink(at, count);
    for (int64_t stop = count - 1; stop > 0; stop--) {
        swap(0, stop);
        sink(0, stop);
    }
}

void tell(const LogitsView& logits, const Logprobs& asked, int64_t i, const Slot& slot) {
    const int64_t row = asked.rows[i], vocab = logits.vocab_size, k = asked.alternatives;
    const float *x = logits.row(row), top = row_top(logits, row), own = x[asked.tokens[i]];
    int64_t* ids = asked.ids + i * (1 + k);
    double* values = asked.values + i * (1 + k);
    ids[0] = asked.tokens[i];
    if (!is_finite(top)) {
        for (int64_t j = 0; j <= k; j++) values[j] = __builtin_nan("");
        for (int64_t j = 1; j <= k; j++) ids[j] = j - 1;
        asked.ranks[i] = 1;
        return;
    }
    // The weights' sum is in units of 2^-43.
    const double norm = (double)top + log((double)weigh(x, vocab, top, 1.0f, slot.values) * 0x1p-43);
    int64_t equal;
    values[0] = (double)own - norm;
    asked.ranks[i] = 1 + Tokens::above(x, vocab, own, &equal);
    if (k == 0) return;
    const int64_t count = keep_top(slot, collect(logits, row, below_kth(logits, row, k, slot.spare), slot), k);
    sort_tokens(slot, count);
    for (int64_t j = 0; j < k; j++) {
        ids[1 + j] = slot.ids[j];
        values[1 + j] = (double)slot.values[j] - norm;
    }
}

void logprobs(const LogitsView& logits, const Logprobs& asked, const Worker& worker) {
    const Slot slot = slot_at(worker, logits.vocab_size, worker.rank);
    for (int64_t i = worker.claim(); i < asked.count; i = worker.claim()) tell(logits, asked, i, slot);
}

}  // namespace

extern const SamplingKernels sampling_kernels;
const SamplingKernels sampling_kernels = {
    .scan = scan,
    .likeliest = likeliest,
    .mask = mask,
    .edit = edit,
    .draw = draw,
    .logprobs = logprobs,
    .slot_bytes = slot_bytes,
};

}  // namespace octavo::OCTAVO_LEVEL
