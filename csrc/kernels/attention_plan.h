// How a step's attention is cut into pieces that a team can share. One plan serves all layers of a cache group.
//
// A target is a few query tokens of one row whose results are written together: a decoding row, or a stretch of a prompt. A unit is
// one target, or several that begin with the same pages, over a range of segments of the context. A piece, which is what a member
// claims, is a unit for one KV head.
//
//     target 0   |--------- unit 1 ---------|   segments of a fixed length, counted from position 0
//     target 1   |=== unit 0 ===|- unit 2 -|
//     target 2   |=== unit 0 ===|--- unit 3 ---|      unit 0: a prefix that targets 1 and 2 share
//
// Where a target has several units, each leaves its states in the plan's slots: the first unit one state for all its segments, the
// others one state per segment. Whoever finishes last merges them in order, as a single unit would have done.
#pragma once

#include <stdint.h>

#include "kernels/attention.h"

namespace octavo::OCTAVO_LEVEL {

constexpr int kTargetRows = 96;  // query heads of a target, for one KV head, unless a single token has more

struct Target {
    int32_t row, token, count;  // tokens token .. token + count - 1 of the step
    int32_t position;           // of the first
    int32_t first_segment;      // that a window leaves visible
    int32_t own_segment;        // first one that it does not share with others
    int32_t merged_end;         // first segment behind those of the first unit
    int32_t units;              // that contribute
    int32_t entries;            // states per query head, 0 when one unit does all
    int64_t slot;               // of the first; they stand at [KV head][entry][query head]
};

struct Unit {
    int32_t first_member, num_members;    // targets: Plan::members[first_member ..]
    int32_t first_segment, last_segment;  // of the context
    int64_t cost;
};

struct Plan {
    int32_t num_targets, num_units;
    int32_t written_first;  // keys and values are written, by all, before anybody attends; else each unit writes its own
    int32_t num_kv_heads, group;
    int64_t slot_bytes;
    Target* targets;
    Unit* units;
    int32_t* members;
    int32_t* pending;  // [targets][KV heads]: units that have not finished
    char* slots;

    int64_t slot(const Target& target, int kv_head, int entry) const {
        return target.slot + ((int64_t)kv_head * target.entries + entry) * target.count * group;
    }
    // A state's largest score, its sum and, from float 16 on, its values.
    float* state(int64_t slot) const { return reinterpret_cast<float*>(slots + slot * slot_bytes); }
};

void plan_attention(const PlanAttention& args, const Step& step, const Worker& worker);
int64_t plan_bytes(const PlanAttention& args);

}  // namespace octavo::OCTAVO_LEVEL
