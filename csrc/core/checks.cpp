#include "core/checks.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "core/dispatch.h"

namespace octavo {

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
