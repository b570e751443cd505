#include "kernels/attention_plan.h"

#include "kernels/attention_tile.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

constexpr int kExtraUnits = 1024;    // that splits and shared prefixes may add
constexpr int kPiecesPerMember = 4;  // a team is balanced when no piece is more than a fourth of a member's share
constexpr int kFewRows = 24;         // targets are not cut into fewer query heads than this
constexpr int kSharedRows = 48;      // targets with more query heads gain nothing by sharing
constexpr int64_t kStreamCost = 10;  // reading a key from memory costs as much as multiplying it by so many query heads

int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }
int smaller(int a, int b) { return a < b ? a : b; }
int larger(int a, int b) { return a > b ? a : b; }

struct Bounds {
    int64_t targets, units, members, slots, slot_bytes;

    explicit Bounds(const PlanAttention& args) {
        targets = args.max_tokens;
        units = targets + kExtraUnits;
        members = 2 * units;
        slots = (int64_t)args.num_heads * (4 * args.max_rows + 256);
        slot_bytes = 64 + (args.head_dim + 15) / 16 * 64;
    }
};

class Planner {
   public:
    Planner(const PlanAttention& args, const Step& step, int team)
        : args_(args), step_(step), bounds_(args), plan_(*reinterpret_cast<Plan*>(args.plan)), team_(team), group_(args.num_heads / args.num_kv_heads) {
        char* at = args.plan + align64(sizeof(Plan));
        plan_ = {};
        plan_.num_kv_heads = args.num_kv_heads;
        plan_.group = group_;
        plan_.slot_bytes = bounds_.slot_bytes;
        plan_.targets = take<Target>(at, bounds_.targets);
        plan_.units = take<Unit>(at, bounds_.units);
        plan_.members = take<int32_t>(at, bounds_.members);
        plan_.pending = take<int32_t>(at, bounds_.targets * args.num_kv_heads);
        sharers_ = take<int32_t>(at, bounds_.targets);
        depths_ = take<int32_t>(at, bounds_.targets);
        plan_.slots = at;
    }

    static int64_t bytes(const PlanAttention& args) {
        const Bounds bounds(args);
        return align64(sizeof(Plan)) + align64(bounds.targets * sizeof(Target)) + align64(bounds.units * sizeof(Unit)) +
               align64(bounds.members * 4) + align64(bounds.targets * args.num_kv_heads * 4) + 2 * align64(bounds.targets * 4) +
               bounds.slots * bounds.slot_bytes;
    }

    void run() {
        add_targets();
        int64_t total = 0;
        for (int t = 0; t < plan_.num_targets; t++) total += cost(rows(t), end_segment(t) - plan_.targets[t].first_segment);
        share_ = total * args_.num_kv_heads / (kPiecesPerMember * team_) + 1;
        if (args_.share_prefixes) share_prefixes();
        for (int t = 0; t < plan_.num_targets; t++) add_own_units(t);
        sort_units();
        for (int t = 0; t < plan_.num_targets; t++) {
            for (int k = 0; k < args_.num_kv_heads; k++) plan_.pending[t * args_.num_kv_heads + k] = plan_.targets[t].units;
        }
    }

   private:
    template <class T>
    static T* take(char*& at, int64_t count) {
        T* out = reinterpret_cast<T*>(at);
        at += align64(count * sizeof(T));
        return out;
    }

    int tokens(int row) const { return step_.starts[row + 1] - step_.starts[row]; }
    int rows(int t) const { return plan_.targets[t].count * group_; }
    int end_segment(int t) const { return (plan_.targets[t].position + plan_.targets[t].count - 1) / kSegment + 1; }
    const int32_t* pages(int t) const {
        const StepGroup& group = step_.groups[args_.group];
        return group.page_table + plan_.targets[t].row * group.page_stride;
    }
    static int64_t cost(int rows, int segments) { return segments * (rows + kStreamCost); }

    // As many tokens as fill kTargetRows; fewer when a short step would leave members without work.
    int target_tokens() const {
        int count = larger(1, kTargetRows / group_);
        for (; team_ > 1 && count * group_ > kFewRows; count /= 2) {
            int64_t targets = 0;
            for (int s = 0; s < step_.num_rows; s++) targets += (tokens(s) + count - 1) / count;
            if (targets * args_.num_kv_heads >= kPiecesPerMember * team_) break;
        }
        return larger(1, count);
    }

    void add_targets() {
        const int most = target_tokens();
        for (int s = 0; s < step_.num_rows; s++) {
            const int count = tokens(s);
            if (count > most) plan_.written_first = 1;
            for (int done = 0; done < count; done += most) {
                Target& target = plan_.targets[plan_.num_targets++];
                target = {};
                target.row = s;
                target.token = step_.starts[s] + done;
                target.count = smaller(most, count - done);
                target.position = step_.lengths[s] - count + done;
                target.first_segment = args_.window > 0 ? larger(0, target.position - args_.window + 1) / kSegment : 0;
                target.own_segment = target.merged_end = target.first_segment;
            }
        }
    }

    // Into how many units to cut so much work.
    int parts(int rows, int segments) const {
        const int64_t wanted = team_ == 1 ? 1 : (cost(rows, segments) + share_ - 1) / share_;
        const int64_t room = bounds_.units - plan_.num_units - plan_.num_targets;
        const int64_t most = room < segments ? room : segments;
        return (int)(wanted > most ? larger(1, (int)most) : wanted);
    }

    bool take_slots(Target& target, int end, int merged_end) {
        const int entries = 1 + end - merged_end;
        const int64_t wanted = (int64_t)entries * target.count * args_.num_heads;
        if (num_slots_ + wanted > bounds_.slots) return false;
        target.slot = num_slots_;
        target.entries = entries;
        target.merged_end = merged_end;
        num_slots_ += wanted;
        return true;
    }

    void add_unit(const int32_t* members, int count, int first_segment, int last_segment) {
        Unit& unit = plan_.units[plan_.num_units++];
        unit = {num_members_, count, first_segment, last_segment, 0};
        int all_rows = 0;
        for (int i = 0; i < count; i++) {
            plan_.members[num_members_++] = members[i];
            plan_.targets[members[i]].units++;
            all_rows += rows(members[i]);
        }
        unit.cost = cost(all_rows, last_segment - first_segment);
    }

    void add_own_units(int32_t t) {
        Target& target = plan_.targets[t];
        const int first = target.own_segment, end = end_segment(t);
        int cut = parts(rows(t), end - first);
        if (target.entries == 0 && cut > 1 && !take_slots(target, end, first + (end - first) / cut)) cut = 1;
        for (int part = 0; part < cut; part++) add_unit(&t, 1, first + part * (end - first) / cut, first + (part + 1) * (end - first) / cut);
    }

    // ---- Prefixes

    // Segments that all of a target's queries see wholly, and that it may read together with others.
    int shareable(int t) const {
        const Target& target = plan_.targets[t];
        if (target.count != tokens(target.row) || rows(t) > kSharedRows) return 0;
        if (args_.window > 0 && step_.lengths[target.row] > args_.window) return 0;
        return target.position / kSegment;
    }

    int common(int a, int b) const {
        const int most = smaller(shareable(a), shareable(b));
        const int limit = (most * kSegment + args_.page_size - 1) / args_.page_size;
        const int32_t *x = pages(a), *y = pages(b);
        int same = 0;
        while (same < limit && x[same] == y[same]) same++;
        return smaller(most, (int)((int64_t)same * args_.page_size / kSegment));
    }

    // Each target in turn looks for others that begin like it; they share the depth that saves most reading.
    void share_prefixes() {
        for (int t = 0; t < plan_.num_targets; t++) {
            if (plan_.targets[t].entries > 0 || shareable(t) == 0) continue;
            int count = 0;
            sharers_[count] = t;
            depths_[count++] = shareable(t);
            for (int u = t + 1; u < plan_.num_targets; u++) {
                if (plan_.targets[u].entries > 0 || pages(u)[0] != pages(t)[0]) continue;
                const int depth = common(t, u);
                if (depth == 0) continue;
                sharers_[count] = u;
                depths_[count++] = depth;
            }
            if (count > 1) share(keep_deepest(count));
        }
    }

    // Leaves in sharers_ those that go together, and their common depth in depths_[0]. Returns how many.
    int keep_deepest(int count) {
        int64_t most_saved = 0;
        int best = 0;
        for (int i = 1; i < count; i++) {
            if (depths_[i] == best) continue;
            int64_t others = 0;
            for (int j = 1; j < count; j++) others += depths_[j] >= depths_[i];
            if (others * depths_[i] > most_saved) {
                most_saved = others * depths_[i];
                best = depths_[i];
            }
        }
        int kept = 1;
        for (int i = 1; i < count; i++) {
            if (depths_[i] >= best) sharers_[kept++] = sharers_[i];
        }
        depths_[0] = best;
        return kept;
    }

    void share(int count) {
        const int depth = depths_[0], most_rows = larger(kTargetRows, group_);
        for (int first = 0; first < count;) {
            int last = first, together = 0;
            for (; last < count && together + rows(sharers_[last]) <= most_rows; last++) together += rows(sharers_[last]);
            if (last - first < 2) return;
            const int cut = parts(together, depth);
            if (plan_.num_units + cut + plan_.num_targets > bounds_.units) return;
            if (num_members_ + (int64_t)cut * (last - first) > bounds_.members - bounds_.units) return;
            for (int i = first; i < last; i++) {
                Target& target = plan_.targets[sharers_[i]];
                if (!take_slots(target, end_segment(sharers_[i]), depth / cut)) {
                    last = i;
                } else {
                    target.own_segment = depth;
                }
            }
            if (last == first) return;
            for (int part = 0; part < cut; part++) add_unit(sharers_ + first, last - first, part * depth / cut, (part + 1) * depth / cut);
            first = last;
        }
    }

    // Long units first: a heap, because a step may have thousands.
    void sort_units() {
        const int count = plan_.num_units;
        for (int root = count / 2 - 1; root >= 0; root--) sift(root, count);
        for (int end = count - 1; end > 0; end--) {
            const Unit unit = plan_.units[0];
            plan_.units[0] = plan_.units[end];
            plan_.units[end] = unit;
            sift(0, end);
        }
    }

    void sift(int root, int count) {
        const Unit moved = plan_.units[root];
        for (int child = 2 * root + 1; child < count; child = 2 * root + 1) {
            if (child + 1 < count && plan_.units[child + 1].cost < plan_.units[child].cost) child++;
            if (plan_.units[child].cost >= moved.cost) break;
            plan_.units[root] = plan_.units[child];
            root = child;
        }
        plan_.units[root] = moved;
    }

    const PlanAttention& args_;
    const Step& step_;
    const Bounds bounds_;
    Plan& plan_;
    const int team_, group_;
    int32_t *sharers_, *depths_;
    int32_t num_members_ = 0;
    int64_t num_slots_ = 0, share_ = 1;
};

}  // namespace

void plan_attention(const PlanAttention& args, const Step& step, const Worker& worker) {
    if (worker.rank == 0) Planner(args, step, worker.size).run();
}

int64_t plan_bytes(const PlanAttention& args) { return Planner::bytes(args); }

}  // namespace octavo::OCTAVO_LEVEL
