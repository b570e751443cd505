// What a kernel sees of the team it runs in and of the step it belongs to. C headers only: every level includes this file.
//
// A kernel is called once on every member of the team (SPMD) and returns when its own share is done; the tape puts a barrier behind
// it. One that works in phases calls worker.barrier() between them, on all members alike.
#pragma once

#include <stdint.h>

// These headers are seen by every level: a function in them must not become the one copy that the linker keeps for all.
#define OCTAVO_INLINE __attribute__((always_inline)) inline

namespace octavo {

struct Worker {
    int rank, size;
    void* team;
    void (*meet)(void* team);
    char* scratch;    // this member's own, 64-byte aligned; as many bytes as the record asked for
    char* shared;     // one for the team, likewise
    int32_t* ticket;  // 0 when the record starts: the next piece of work to claim

    OCTAVO_INLINE void barrier() const {
        if (size > 1) meet(team);
    }
    OCTAVO_INLINE int32_t claim(int32_t pieces = 1) const { return __atomic_fetch_add(ticket, pieces, __ATOMIC_RELAXED); }
    // This member's part of n pieces: contiguous, in order of rank, sizes differ by at most one.
    OCTAVO_INLINE int64_t begin(int64_t n) const { return n * rank / size; }
    OCTAVO_INLINE int64_t end(int64_t n) const { return n * (rank + 1) / size; }
};

// Bytes of scratch memory a record wants: for each member, and for the team together.
struct Needs {
    int64_t scratch = 0;
    int64_t shared = 0;
};

// One cache group's share of the step.
struct StepGroup {
    const int32_t* page_table = nullptr;  // [S, page_stride]: page of each P positions of a row
    int64_t page_stride = 0;
    const int64_t* slots = nullptr;  // [T]: page * P + offset of each token
};

constexpr int kMaxGroups = 8;

// What changes from one step to the next: row s owns tokens[starts[s] .. starts[s + 1]).
struct Step {
    int64_t num_tokens = 0, num_rows = 0, num_logits = 0;  // T, S, L
    const int32_t* tokens = nullptr;                       // [T]
    const int32_t* positions = nullptr;                    // [T]
    const int32_t* starts = nullptr;                       // [S + 1]
    const int32_t* lengths = nullptr;                      // [S], positions visible to the row after this step
    StepGroup groups[kMaxGroups];
};

// Which of the step's counts a record's rows follow.
enum class Rows : int32_t { tokens = 0, logits = 1 };

OCTAVO_INLINE int64_t count(Rows rows, const Step& step) { return rows == Rows::tokens ? step.num_tokens : step.num_logits; }

}  // namespace octavo
