// Softmax attention over the paged cache: how a member of the team does a piece of the plan.
#include "kernels/attention.h"

#include "core/simd.h"
#include "kernels/attention_cache.h"
#include "kernels/attention_plan.h"
#include "kernels/attention_tile.h"
#include "kernels/norm.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

constexpr float kLog2e = 1.44269504f;

int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }
int smaller(int a, int b) { return a < b ? a : b; }
int larger(int a, int b) { return a > b ? a : b; }

int padded_channels(const Attention& args) { return (args.head_dim + 15) / 16 * 16; }
int most_rows(const Attention& args) { return larger(kTargetRows, args.num_heads / args.num_kv_heads); }

// One member's memory; walks the same layout to measure it and to hand it out.
struct Scratch {
    float *head, *largest, *sum, *values, *segment_largest, *segment_sum, *segment_values, *scores;
    uint32_t *query, *weights;
    RowScale* scales;
    int32_t *tokens, *positions;
    char* tiles;
    int64_t bytes;

    Scratch(const Attention& args, char* memory) {
        const int64_t channels = padded_channels(args), rows = most_rows(args) + 16;
        char* at = memory;
        const auto take = [&at](int64_t count) {
            char* out = at;
            at += align64(count * 4);
            return out;
        };
        head = reinterpret_cast<float*>(take(2 * channels));
        largest = reinterpret_cast<float*>(take(rows));
        sum = reinterpret_cast<float*>(take(rows));
        values = reinterpret_cast<float*>(take(rows * channels));
        segment_largest = reinterpret_cast<float*>(take(kMaxQueries));
        segment_sum = reinterpret_cast<float*>(take(kMaxQueries));
        segment_values = reinterpret_cast<float*>(take(kMaxQueries * channels));
        scores = reinterpret_cast<float*>(take(kMaxQueries * kSegment));
        weights = reinterpret_cast<uint32_t*>(take(kMaxQueries * kSegment));
        query = reinterpret_cast<uint32_t*>(take(rows * channels));
        scales = reinterpret_cast<RowScale*>(take(rows * 2));
        tokens = reinterpret_cast<int32_t*>(take(rows));
        positions = reinterpret_cast<int32_t*>(take(rows));
        const CacheLayout layout(args);
        tiles = take((layout.aligned() ? 2 : 2 * kSegmentTiles) * layout.half_bytes / 4);
        bytes = at - memory;
    }
};

// out [channels]: a head as the model wants it: unit root-mean-square, clipped, rotated; zeros from D on.
void prepare_head(const Attention& args, const float* x, const float* norm_weight, const float* angles, float* out) {
    const int size = args.head_dim, channels = padded_channels(args);
    if (norm_weight) {
        rms_norm_row(out, x, norm_weight, size, args.norm_eps);
    } else {
        memcpy(out, x, size * sizeof(float));
    }
    for (int d = size; d < channels; d++) out[d] = 0;
    if (args.clip > 0) {
        for (int d = 0; d < channels; d += 16) store16(out + d, min16(max16(load16(out + d), splat(-args.clip)), splat(args.clip)));
    }
    if (!angles) return;
    const int half = args.rotated / 2;
    int d = 0;
    for (; d + 16 <= half; d += 16) {
        const f32x16 first = load16(out + d), second = load16(out + half + d), cosine = load16(angles + d), sine = load16(angles + half + d);
        store16(out + d, first * cosine - second * sine);
        store16(out + half + d, second * cosine + first * sine);
    }
    for (; d < half; d++) {
        const float first = out[d], second = out[half + d], cosine = angles[d], sine = angles[half + d];
        out[d] = first * cosine - second * sine;
        out[half + d] = second * cosine + first * sine;
    }
}

const float* angles_of(const Attention& args, int64_t token) { return args.angles ? args.angles + token * args.rotated : nullptr; }

template <CacheKind kind>
void write_head(const Attention& args, const Step& step, const CacheLayout& layout, int64_t token, int kv_head, float* scratch) {
    const int64_t slot = step.groups[args.group].slots[token], page = slot / args.page_size, offset = slot % args.page_size;
    const int size = args.head_dim;
    const float* norm = args.norm_weight ? args.norm_weight + (int64_t)(args.num_heads + kv_head) * size : nullptr;
    float *key = scratch, *value = scratch + layout.channels;
    prepare_head(args, args.k + token * args.k_stride + (int64_t)kv_head * size, norm, angles_of(args, token), key);
    prepare_head(args, args.v + token * args.v_stride + (int64_t)kv_head * size, nullptr, nullptr, value);
    write_token<kind>(const_cast<char*>(layout.tile(page, kv_head, offset)), layout.half_bytes, offset % kTile, key, value, layout.channels);
}

// One in so many pieces is claimed by whoever is free; the others are dealt out in turn, which tells each member what comes next.
constexpr int kClaimedShare = 4;

// A piece of the plan.
struct Part {
    const Unit* unit;
    int kv_head;
};

// One unit of the plan for one KV head.
template <CacheKind kind>
class Piece {
    using M = Dot<kind>;

   public:
    Piece(const Attention& args, const Step& step, const Plan& plan, const CacheLayout& layout, const Scratch& scratch)
        : args_(args), step_(step), plan_(plan), layout_(layout), scratch_(scratch), channels_(layout.channels), group_(args.num_heads / args.num_kv_heads) {
        logits_ = args.softcap > 0 ? Logits{args.scale / args.softcap, args.softcap * kLog2e} : Logits{args.scale * kLog2e, 0};
    }

    // `next` is what this member will do afterwards, or null.
    void run(Part part, const Part* next) {
        const Unit& unit = *part.unit;
        unit_ = &unit;
        kv_head_ = part.kv_head;
        list_rows();
        if (!plan_.written_first && unit.num_members == 1) write_own();
        prepare_queries();
        const Target& first = member(0);
        const bool merged = unit.first_segment == first.first_segment;
        if (merged) clear_state();
        for (int segment = unit.first_segment; segment < unit.last_segment; segment++) {
            find_tiles(first.row, segment, see(segment));
            find_next_keys(first, segment + 1, next);
            for (int r = 0, group = 0; r < num_rows_; r += rows_in(group++)) attend(segment, r, rows_in(group), merged);
        }
        if (first.entries == 0) {
            finish(first, scratch_.largest, scratch_.sum, scratch_.values);
            return;
        }
        if (merged) leave_state();
        for (int i = 0; i < unit.num_members; i++) arrive(plan_.members[unit.first_member + i]);
    }

   private:
    const Target& member(int i) const { return plan_.targets[plan_.members[unit_->first_member + i]]; }

    // Rows are dealt evenly to blocks of at most kMaxQueries.
    int rows_in(int block) const {
        const int blocks = (num_rows_ + kMaxQueries - 1) / kMaxQueries;
        return num_rows_ / blocks + (block < num_rows_ % blocks);
    }

    void list_rows() {
        num_rows_ = 0;
        for (int i = 0; i < unit_->num_members; i++) {
            const Target& target = member(i);
            for (int t = 0; t < target.count; t++) {
                for (int h = 0; h < group_; h++) {
                    scratch_.tokens[num_rows_] = target.token + t;
                    scratch_.positions[num_rows_++] = target.position + t;
                }
            }
        }
    }

    void write_own() {
        const Target& target = member(0);
        for (int t = 0; t < target.count; t++) {
            const int segment = (target.position + t) / kSegment;
            if (segment < unit_->first_segment || segment >= unit_->last_segment) continue;
            write_head<kind>(args_, step_, layout_, target.token + t, kv_head_, scratch_.head);
        }
    }

    void prepare_queries() {
        const int words = channels_ / M::e * M::kParts;
        for (int first = 0, block = 0; first < num_rows_; first += rows_in(block++)) {
            const int rows = rows_in(block);
            for (int r = first; r < first + rows; r++) {
                const int64_t token = scratch_.tokens[r], head = kv_head_ * group_ + r % group_;
                const float* norm = args_.norm_weight ? args_.norm_weight + head * args_.head_dim : nullptr;
                prepare_head(args_, args_.q + token * args_.q_stride + head * args_.head_dim, norm, angles_of(args_, token), scratch_.head);
                scratch_.scales[r] = M::pack_query(scratch_.head, channels_, scratch_.query + (int64_t)first * words + (r - first), rows);
            }
        }
    }

    void clear_state() {
        for (int r = 0; r < num_rows_; r++) {
            scratch_.largest[r] = kNothing;
            scratch_.sum[r] = 0;
        }
        memset(scratch_.values, 0, (int64_t)num_rows_ * channels_ * sizeof(float));
    }

    // Positions of the segment, counted from its start, that row r sees.
    Span visible(int segment, int r) const {
        const int start = segment * kSegment, position = scratch_.positions[r];
        Span span;
        span.first = args_.window > 0 ? larger(0, position - args_.window + 1 - start) : 0;
        span.last = smaller(kSegment, position + 1 - start);
        return span;
    }

    // Positions that any row sees; rows of one target stand in order, those of several see the whole segment.
    Span see(int segment) const {
        const Span first = visible(segment, 0), last = visible(segment, num_rows_ - 1);
        return {first.first, larger(first.first, last.last)};
    }

    static Span tiles_of(Span positions) {
        if (positions.first >= positions.last) return {0, 0};
        return {positions.first / kTile, (positions.last + kTile - 1) / kTile};
    }

    void find_tiles(int row, int segment, Span seen) {
        const int32_t* pages = step_.groups[args_.group].page_table + row * step_.groups[args_.group].page_stride;
        const Span span = tiles_of(seen);
        for (int t = span.first; t < span.last; t++) {
            const int start = segment * kSegment + t * kTile;
            const int first = larger(0, seen.first - t * kTile), last = smaller(kTile, seen.last - t * kTile);
            const char* tile;
            if (layout_.aligned()) {
                tile = layout_.tile(pages[start / args_.page_size], kv_head_, start % args_.page_size);
            } else {
                char* gathered = scratch_.tiles + t * 2 * layout_.half_bytes;
                for (int i = first; i < last; i++) {
                    const int position = start + i, offset = position % args_.page_size;
                    const char* from = layout_.tile(pages[position / args_.page_size], kv_head_, offset);
                    copy_token<kind>(gathered, i, from, offset % kTile, layout_.half_bytes, channels_);
                }
                tile = gathered;
            }
            const char* values = tile + layout_.half_bytes;
            if (kind != CacheKind::int8 && (first > 0 || last < kTile)) {
                char* clean = layout_.aligned() ? scratch_.tiles + (t == span.first ? 0 : layout_.half_bytes) : const_cast<char*>(values);
                copy_values<kind>(clean, values, first, last, layout_.half_bytes, channels_);
                values = clean;
            }
            tiles_.keys[t] = tile;
            tiles_.values[t] = values;
            tiles_.key_scales[t] = reinterpret_cast<const float*>(tile + layout_.half_bytes) - kTile;
            tiles_.value_scales[t] = reinterpret_cast<const float*>(tile + 2 * layout_.half_bytes) - kTile;
        }
    }

    // Where reading goes on: in the next segment, or in the next piece.
    void find_next_keys(const Target& target, int segment, const Part* next) {
        memcpy(tiles_.next_keys, tiles_.keys, sizeof tiles_.keys);
        if (!layout_.aligned()) return;
        if (segment < unit_->last_segment) return find_keys(target, segment, kv_head_);
        if (next) find_keys(plan_.targets[plan_.members[next->unit->first_member]], next->unit->first_segment, next->kv_head);
    }

    void find_keys(const Target& target, int segment, int kv_head) {
        const int32_t* pages = step_.groups[args_.group].page_table + target.row * step_.groups[args_.group].page_stride;
        const int oldest = args_.window > 0 ? larger(0, target.position - args_.window + 1) : 0, end = target.position + target.count;
        for (int t = 0; t < kSegmentTiles; t++) {
            const int start = segment * kSegment + t * kTile;
            if (start + kTile <= oldest || start >= end) continue;
            tiles_.next_keys[t] = layout_.tile(pages[start / args_.page_size], kv_head, start % args_.page_size);
        }
    }

    // Rows first .. first + rows over one segment: merged into their state, or left in their slot.
    void attend(int segment, int first, int rows, bool merged) {
        Span seen[kMaxQueries];
        for (int r = 0; r < rows; r++) seen[r] = visible(segment, first + r);
        const Span span = tiles_of({seen[0].first, larger(seen[0].first, seen[rows - 1].last)});
        if (merged && span.first >= span.last) return;
        const uint32_t* query = scratch_.query + (int64_t)first * (channels_ / M::e * M::kParts);
        const State state = {scratch_.segment_largest, scratch_.segment_sum, scratch_.segment_values};
        const SegmentScratch own = {scratch_.scores, scratch_.weights};
        attend_rows(rows, query, scratch_.scales + first, span, seen, own, state);
        if (merged) {
            merge({scratch_.largest + first, scratch_.sum + first, scratch_.values + (int64_t)first * channels_}, state, rows, channels_);
        } else {
            leave(state, first, rows, segment);
        }
    }

    template <int R = kMaxQueries>
    void attend_rows(int rows, const uint32_t* query, const RowScale* scales, Span span, const Span* seen, const SegmentScratch& own, const State& out) {
        if (rows == R) {
            attend_segment<M, kind, R>(query, scales, tiles_, span, seen, logits_, channels_, own, out);
        } else if constexpr (R > 1) {
            attend_rows<R - 1>(rows, query, scales, span, seen, own, out);
        }
    }

    void store_state(int64_t slot, float largest, float sum, const float* values) const {
        float* state = plan_.state(slot);
        state[0] = largest;
        state[1] = sum;
        memcpy(state + 16, values, channels_ * sizeof(float));
    }

    void leave(const State& state, int first, int rows, int segment) const {
        for (int i = 0, before = 0; i < unit_->num_members; before += member(i++).count * group_) {
            const Target& target = member(i);
            const int64_t slot = plan_.slot(target, kv_head_, 1 + segment - target.merged_end);
            for (int r = larger(first, before); r < smaller(first + rows, before + target.count * group_); r++) {
                const int at = r - first;
                store_state(slot + r - before, state.largest[at], state.sum[at], state.values + (int64_t)at * channels_);
            }
        }
    }

    void leave_state() const {
        for (int i = 0, r = 0; i < unit_->num_members; i++) {
            const int64_t slot = plan_.slot(member(i), kv_head_, 0);
            for (int own = 0; own < member(i).count * group_; own++, r++) {
                store_state(slot + own, scratch_.largest[r], scratch_.sum[r], scratch_.values + (int64_t)r * channels_);
            }
        }
    }

    // The last of a target's units to come here merges what all have left, in order of position.
    void arrive(int32_t id) const {
        const Target& target = plan_.targets[id];
        int32_t* pending = plan_.pending + (int64_t)id * args_.num_kv_heads + kv_head_;
        if (__atomic_sub_fetch(pending, 1, __ATOMIC_ACQ_REL) > 0) return;
        *pending = target.units;
        for (int r = 0; r < target.count * group_; r++) {
            scratch_.largest[r] = kNothing;
            scratch_.sum[r] = 0;
            float* values = scratch_.values + (int64_t)r * channels_;
            memset(values, 0, channels_ * sizeof(float));
            for (int entry = 0; entry < target.entries; entry++) {
                float* state = plan_.state(plan_.slot(target, kv_head_, entry) + r);
                merge({scratch_.largest + r, scratch_.sum + r, values}, {state, state + 1, state + 16}, 1, channels_);
            }
        }
        finish(target, scratch_.largest, scratch_.sum, scratch_.values);
    }

    void finish(const Target& target, const float* largest, const float* sum, const float* values) const {
        for (int r = 0; r < target.count * group_; r++, values += channels_) {
            const int head = kv_head_ * group_ + r % group_;
            float factor = 1 / sum[r];
            if (args_.sinks) {
                const float sink = args_.sinks[head] * kLog2e, most = largest[r] > sink ? largest[r] : sink;
                f32x16 shift = {};
                shift[0] = largest[r] - most;
                shift[1] = sink - most;
                const f32x16 share = exp2_16(shift);
                factor = share[0] / (sum[r] * share[0] + share[1]);
            }
            float* out = args_.out + (int64_t)(target.token + r / group_) * args_.out_stride + (int64_t)head * args_.head_dim;
            int d = 0;
            for (; d + 16 <= args_.head_dim; d += 16) store16(out + d, load16(values + d) * factor);
            if (d < args_.head_dim) store_part(out + d, load16(values + d) * factor, args_.head_dim - d);
        }
    }

    const Attention& args_;
    const Step& step_;
    const Plan& plan_;
    const CacheLayout& layout_;
    const Scratch& scratch_;
    const int channels_, group_;
    Logits logits_;
    const Unit* unit_ = nullptr;
    int kv_head_ = 0, num_rows_ = 0;
    SegmentTiles tiles_ = {};
};

template <CacheKind kind>
void attend_step(const Attention& args, const Step& step, const Worker& worker) {
    const Plan& plan = *reinterpret_cast<const Plan*>(args.plan);
    const CacheLayout layout(args);
    const Scratch scratch(args, worker.scratch);
    if (plan.written_first) {
        for (int64_t token = worker.begin(step.num_tokens); token < worker.end(step.num_tokens); token++) {
            for (int head = 0; head < args.num_kv_heads; head++) write_head<kind>(args, step, layout, token, head, scratch.head);
        }
        worker.barrier();
    }
    Piece<kind> piece(args, step, plan, layout, scratch);
    const int64_t pieces = (int64_t)plan.num_units * args.num_kv_heads, dealt = worker.size == 1 ? pieces : pieces - pieces / kClaimedShare;
    const auto part = [&](int64_t i) { return Part{plan.units + i / args.num_kv_heads, (int)(i % args.num_kv_heads)}; };
    for (int64_t i = worker.rank; i < dealt; i += worker.size) {
        const Part next = part(i + worker.size < dealt ? i + worker.size : i);
        piece.run(part(i), i + worker.size < dealt ? &next : nullptr);
    }
    if (dealt == pieces) return;
    for (int64_t i = dealt + worker.claim(); i < pieces; i = dealt + worker.claim()) piece.run(part(i), nullptr);
}

void attention(const Attention& args, const Step& step, const Worker& worker) {
    if (step.num_tokens == 0) return;
    switch (args.kind) {
        case CacheKind::f32: return attend_step<CacheKind::f32>(args, step, worker);
        case CacheKind::bf16: return attend_step<CacheKind::bf16>(args, step, worker);
        case CacheKind::int8: return attend_step<CacheKind::int8>(args, step, worker);
    }
}

Needs attention_needs(const Attention& args, int64_t) { return {Scratch(args, nullptr).bytes, 0}; }

int64_t cache_bytes(const Attention& args) { return args.num_pages * CacheLayout(args).page_bytes(); }

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {
    .attention = attention,
    .attention_needs = attention_needs,
    .plan = plan_attention,
    .plan_bytes = plan_bytes,
    .cache_bytes = cache_bytes,
};

}  // namespace octavo::OCTAVO_LEVEL
