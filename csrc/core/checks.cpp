#include "core/checks.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "core/dispatch.h"
#include "tape/tape.h"

namespace octavo {
namespace {

struct Ledger {
    std::atomic<int64_t> faults{0}, finished{0};
    std::vector<std::atomic<int32_t>> claims;
};

struct Probe {
    Ledger* ledger;
    int64_t number, pieces;
    Needs needs;
};

bool all_are(const char* memory, int64_t begin, int64_t end, int byte) {
    return std::all_of(memory + begin, memory + end, [=](char c) { return c == static_cast<char>(byte); });
}

void probe(const Probe& args, const Step&, const Worker& worker) {
    Ledger& ledger = *args.ledger;
    const auto expect = [&](bool holds) { ledger.faults += !holds; };
    const int64_t finished = ledger.finished;
    expect(finished >= args.number * worker.size && finished < (args.number + 1) * worker.size);
    expect(reinterpret_cast<uintptr_t>(worker.scratch) % 64 == 0 && reinterpret_cast<uintptr_t>(worker.shared) % 64 == 0);

    const int64_t begin = worker.begin(args.needs.shared), end = worker.end(args.needs.shared);
    std::memset(worker.scratch, worker.rank, args.needs.scratch);
    std::memset(worker.shared + begin, worker.rank, end - begin);
    worker.barrier();
    expect(all_are(worker.scratch, 0, args.needs.scratch, worker.rank));
    expect(all_are(worker.shared, begin, end, worker.rank));

    for (int64_t piece = worker.claim(); piece < args.pieces; piece = worker.claim()) ledger.claims[args.number * args.pieces + piece]++;
    ledger.finished++;
}

}  // namespace

std::vector<int> calls_per_rank(Threads& team) {
    std::vector<int> calls(team.size());
    team.run([&](int rank, int) noexcept { calls[rank]++; });
    return calls;
}

int64_t barrier_faults(Threads& team, int64_t rounds) {
    struct alignas(64) Mark {
        std::atomic<int64_t> round{0};
    };
    std::vector<Mark> marks(team.size());
    std::atomic<int64_t> faults{0};
    team.run([&](int rank, int size) noexcept {
        for (int64_t round = 1; round <= rounds; round++) {
            marks[rank].round.store(round, std::memory_order_relaxed);
            team.barrier();
            for (int other = 0; other < size; other++) {
                if (marks[other].round.load(std::memory_order_relaxed) != round) faults++;
            }
            team.barrier();
        }
    });
    return faults;
}

double barrier_ns(Threads& team, int64_t rounds) {
    const auto start = std::chrono::steady_clock::now();
    team.run([&](int, int) noexcept {
        for (int64_t round = 0; round < rounds; round++) team.barrier();
    });
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / double(rounds);
}

int64_t tape_faults(Threads& team, int64_t records, int64_t pieces) {
    Ledger ledger;
    ledger.claims = std::vector<std::atomic<int32_t>>(records * pieces);
    Tape tape(team);
    for (int64_t i = 0; i < records; i++) {
        const Needs needs{1 + i * 97 % 1000, 3 + i * 61 % 1000};
        tape.append("probe", probe, Probe{&ledger, i, pieces, needs}, needs);
    }
    tape.run(Step(), 0, records);
    for (const auto& claims : ledger.claims) ledger.faults += claims != 1;
    return ledger.faults + (ledger.finished != records * team.size());
}

double parallel_sum(Threads& team, const float* x, int64_t n) {
    constexpr int64_t kBlock = 65536;
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    std::vector<float> sums(blocks);
    const Kernels& kernel = kernels();
    team.run([&](int rank, int size) noexcept {
        const int64_t end = blocks * (rank + 1) / size;
        for (int64_t block = blocks * rank / size; block < end; block++) {
            sums[block] = kernel.sum_f32(x + block * kBlock, std::min(kBlock, n - block * kBlock));
        }
    });
    double total = 0;
    for (float sum : sums) total += sum;
    return total;
}

}  // namespace octavo
