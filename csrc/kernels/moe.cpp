// Mixture of experts. Pairs (token, choice) are sorted by expert, so that an expert's weights are read once for all its tokens:
//
//     sort ─▶ gather and prepare rows ─┐ gate · up by (expert, panel) ─┐ prepare ─┐ down by panel, expert after expert ─▶ out
//
// A token's sum runs over its experts in order of their numbers, so it does not depend on the other tokens.
#include "kernels/moe.h"

#include "core/simd.h"
#include "kernels/activation.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

constexpr int kClaimedShare = 8;  // one piece of work in so many is claimed by whoever is free

int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

void route(const Route& args, const Step& step, const Worker& worker) {
    const int experts = args.num_experts, top_k = args.top_k;
    for (int64_t t = worker.begin(step.num_tokens); t < worker.end(step.num_tokens); t++) {
        const float* logits = args.logits.data + t * args.logits.stride;
        int32_t* ids = args.ids + t * top_k;
        float* weights = args.weights + t * top_k;
        float top = logits[0];
        for (int e = 1; e < experts; e++) top = logits[e] > top ? logits[e] : top;
        f32x16 sums = {};
        for (int e = 0; e < experts; e += 16) {
            const int n = experts - e < 16 ? experts - e : 16;
            float lanes[16] = {};
            store16(lanes, exp16(load_part(logits + e, n) - top));
            sums += load_part(lanes, n);
        }
        const float sum = fold16(sums);
        float chosen = 0;
        for (int k = 0; k < top_k; k++) {
            int best = -1;
            for (int e = 0; e < experts; e++) {
                bool taken = false;
                for (int j = 0; j < k; j++) taken |= ids[j] == e;
                if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
            }
            ids[k] = best;
            weights[k] = exp1(logits[best] - top) / sum;
            chosen += weights[k];
        }
        if (args.renormalize) {
            for (int k = 0; k < top_k; k++) weights[k] /= chosen;
        }
    }
}

// The pairs of a step sorted by expert, stably; every member makes its own copy.
struct Sorted {
    int32_t* start;  // [E + 1]: expert e has pairs order[start[e] .. start[e + 1])
    int32_t* block;  // [E + 1]: and prepared blocks block[e] .. block[e + 1)
    int32_t* active; // [E]: the experts that have pairs, ascending
    int32_t* order;  // [pairs]: token * top_k + choice
    int32_t num_active;
};

int64_t sorted_bytes(int64_t experts, int64_t pairs) { return align64((3 * experts + 2 + pairs) * (int64_t)sizeof(int32_t)); }

Sorted sort_pairs(const Experts& args, int64_t pairs, int block_rows, char* memory) {
    const int experts = args.num_experts;
    Sorted s;
    s.start = reinterpret_cast<int32_t*>(memory);
    s.block = s.start + experts + 1;
    s.active = s.block + experts + 1;
    s.order = s.active + experts;
    for (int e = 0; e <= experts; e++) s.start[e] = 0;
    for (int64_t p = 0; p < pairs; p++) s.start[args.ids[p] + 1]++;
    s.block[0] = 0;
    s.num_active = 0;
    for (int e = 0; e < experts; e++) {
        const int32_t rows = s.start[e + 1];
        if (rows) s.active[s.num_active++] = e;
        s.block[e + 1] = s.block[e] + (rows + block_rows - 1) / block_rows;
        s.start[e + 1] = s.start[e] + rows;
    }
    for (int64_t p = 0; p < pairs; p++) s.order[s.start[args.ids[p]]++] = (int32_t)p;
    for (int e = experts; e > 0; e--) s.start[e] = s.start[e - 1];
    s.start[0] = 0;
    return s;
}

// Where everything is in a record's memory.
struct Layout {
    const Format *up, *down;
    int64_t inner;                   // I'
    int64_t up_block, down_block;    // bytes of a full prepared block
    int64_t sorted, rows, tile;      // bytes in a member's own memory, in this order, then the format's
    int64_t up_prepared, hidden;     // bytes of the team's memory, in this order, then down's prepared blocks
    int64_t down_prepared;
};

int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

Layout lay_out(const Experts& args, int64_t tokens) {
    Layout l;
    l.up = linear_kernels.format(args.gate_up.kind);
    l.down = linear_kernels.format(args.down.kind);
    const int64_t pairs = tokens * args.top_k;
    const int64_t experts = pairs < args.num_experts ? pairs : args.num_experts;
    l.inner = args.gate_up.out_features / 2;
    l.up_block = l.up->block_bytes(args.gate_up, l.up->block_rows);
    l.down_block = l.down->block_bytes(args.down, l.down->block_rows);
    l.sorted = sorted_bytes(args.num_experts, pairs);
    l.rows = align64(l.up->block_rows * (int64_t)args.gate_up.in_features * 4);
    l.tile = kRowChunk * kPanel * 4;
    l.up_prepared = align64((pairs / l.up->block_rows + experts) * l.up_block);
    l.hidden = align64(pairs * l.inner * 4);
    l.down_prepared = align64((pairs / l.down->block_rows + experts) * l.down_block);
    return l;
}

// Calls piece(i) for this member's part of all i < n.
template <class Piece>
void share(const Worker& worker, int64_t n, Piece&& piece) {
    for (int64_t i = worker.begin(n); i < worker.end(n); i++) piece(i);
}

// The expert whose blocks contain `block`.
int expert_of(const Sorted& s, int32_t block) {
    int low = 0, high = s.num_active - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (s.block[s.active[middle]] <= block) low = middle;
        else high = middle - 1;
    }
    return s.active[low];
}

void multiply_rows(const Format& format, const PackedWeight& weight, const char* panel, const char* blocks, int64_t block_bytes, int64_t first, int rows,
                   float* tile, char* scratch) {
    format.multiply(weight, panel, blocks + first / format.block_rows * block_bytes, rows, tile, scratch);
}

void gate_and_up(const Experts& args, const Layout& l, const Sorted& s, int expert, int64_t panel, const char* prepared, float* hidden, float* tile, char* scratch) {
    const int rows = s.start[expert + 1] - s.start[expert];
    const int64_t column = panel * 16, width = l.inner - column < 16 ? l.inner - column : 16;
    const char* data = args.gate_up_panels[expert] + panel * args.gate_up.panel_bytes;
    const char* blocks = prepared + s.block[expert] * l.up_block;
    for (int first = 0; first < rows; first += kRowChunk) {
        const int chunk = rows - first < kRowChunk ? rows - first : kRowChunk;
        multiply_rows(*l.up, args.gate_up, data, blocks, l.up_block, first, chunk, tile, scratch);
        for (int r = 0; r < chunk; r++) {
            const f32x16 y = activate16(args.activation, load16(tile + r * kPanel)) * load16(tile + r * kPanel + 16);
            store_part(hidden + (s.start[expert] + first + r) * l.inner + column, y, width);
        }
    }
}

void down(const Experts& args, const Layout& l, const Sorted& s, int64_t panel, int64_t tokens, const char* prepared, float* tile, char* scratch) {
    const int64_t column = panel * kPanel, left = args.down.out_features - column, width = left < kPanel ? left : kPanel;
    for (int64_t t = 0; t < tokens; t++) {
        float* out = args.out.data + t * args.out.stride + column;
        if (!args.residual.data) memset(out, 0, width * sizeof(float));
        else if (args.residual.data != args.out.data) memcpy(out, args.residual.data + t * args.residual.stride + column, width * sizeof(float));
    }
    for (int i = 0; i < s.num_active; i++) {
        const int expert = s.active[i], rows = s.start[expert + 1] - s.start[expert];
        const char* data = args.down_panels[expert] + panel * args.down.panel_bytes;
        const char* blocks = prepared + s.block[expert] * l.down_block;
        for (int first = 0; first < rows; first += kRowChunk) {
            const int chunk = rows - first < kRowChunk ? rows - first : kRowChunk;
            multiply_rows(*l.down, args.down, data, blocks, l.down_block, first, chunk, tile, scratch);
            for (int r = 0; r < chunk; r++) {
                const int32_t pair = s.order[s.start[expert] + first + r];
                float* out = args.out.data + pair / args.top_k * args.out.stride + column;
                for (int64_t c = 0; c < width; c++) out[c] += args.weights[pair] * tile[r * kPanel + c];
            }
        }
    }
}

void experts(const Experts& args, const Step& step, const Worker& worker) {
    const int64_t tokens = step.num_tokens, pairs = tokens * args.top_k;
    if (tokens == 0) return;
    const Layout l = lay_out(args, tokens);
    float* gathered = reinterpret_cast<float*>(worker.scratch + l.sorted);
    float* tile = reinterpret_cast<float*>(worker.scratch + l.sorted + l.rows);
    char* scratch = worker.scratch + l.sorted + l.rows + l.tile;
    char *up_prepared = worker.shared, *down_prepared = worker.shared + l.up_prepared + l.hidden;
    float* hidden = reinterpret_cast<float*>(worker.shared + l.up_prepared);

    Sorted s = sort_pairs(args, pairs, l.up->block_rows, worker.scratch);
    share(worker, s.block[args.num_experts], [&](int64_t block) {
        const int expert = expert_of(s, (int32_t)block);
        const int first = (int)(block - s.block[expert]) * l.up->block_rows, all = s.start[expert + 1] - s.start[expert];
        const int rows = all - first < l.up->block_rows ? all - first : l.up->block_rows;
        const int64_t inputs = args.gate_up.in_features;
        for (int r = 0; r < rows; r++) {
            const int32_t token = s.order[s.start[expert] + first + r] / args.top_k;
            memcpy(gathered + r * inputs, args.x.data + token * args.x.stride, inputs * sizeof(float));
        }
        l.up->prepare(args.gate_up, gathered, inputs, rows, up_prepared + block * l.up_block);
    });
    worker.barrier();

    const int64_t up_panels = args.gate_up.num_panels();
    share(worker, s.num_active * up_panels, [&](int64_t piece) {
        gate_and_up(args, l, s, s.active[piece / up_panels], piece % up_panels, up_prepared, hidden, tile, scratch);
    });
    worker.barrier();

    if (l.down->block_rows != l.up->block_rows) s = sort_pairs(args, pairs, l.down->block_rows, worker.scratch);
    share(worker, s.block[args.num_experts], [&](int64_t block) {
        const int expert = expert_of(s, (int32_t)block);
        const int first = (int)(block - s.block[expert]) * l.down->block_rows, all = s.start[expert + 1] - s.start[expert];
        const int rows = all - first < l.down->block_rows ? all - first : l.down->block_rows;
        l.down->prepare(args.down, hidden + (s.start[expert] + first) * l.inner, l.inner, rows, down_prepared + block * l.down_block);
    });
    worker.barrier();

    const int64_t panels = args.down.num_panels(), given = worker.size == 1 ? panels : panels - panels / kClaimedShare;
    share(worker, given, [&](int64_t panel) { down(args, l, s, panel, tokens, down_prepared, tile, scratch); });
    if (given == panels) return;
    for (int64_t panel = given + worker.claim(); panel < panels; panel = given + worker.claim()) down(args, l, s, panel, tokens, down_prepared, tile, scratch);
}

Needs experts_needs(const Experts& args, int64_t max_tokens) {
    const Layout l = lay_out(args, max_tokens);
    const int chunk = (int)(max_tokens < kRowChunk ? max_tokens : kRowChunk);
    Needs needs;
    needs.scratch = l.sorted + l.rows + l.tile + align64(most(l.up->scratch_bytes(args.gate_up, chunk), l.down->scratch_bytes(args.down, chunk)));
    needs.shared = l.up_prepared + l.hidden + l.down_prepared;
    return needs;
}

}  // namespace

extern const MoeKernels moe_kernels;
const MoeKernels moe_kernels = {
    .route = route,
    .experts = experts,
    .experts_needs = experts_needs,
};

}  // namespace octavo::OCTAVO_LEVEL
