#include "core/limits.h"

#include <atomic>
#include <chrono>

#include "core/dispatch.h"

namespace octavo {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kRounds = 100000;  // tens to hundreds of cycles each

using Clock = std::chrono::steady_clock;

double ns_since(Clock::time_point start) { return std::chrono::duration<double, std::nano>(Clock::now() - start).count(); }

}  // namespace

double read_bandwidth(Threads& team, const char* data, int64_t bytes) {
    const LimitKernels& kernel = *kernels().limits;
    const int64_t pages = bytes / kPage;
    std::atomic<uint64_t> sink{0};  // what is read must be wanted
    const auto start = Clock::now();
    team.run([&](int rank, int size) noexcept {
        const int64_t first = pages * rank / size, last = pages * (rank + 1) / size;
        sink.fetch_xor(kernel.read(data + first * kPage, (last - first) * kPage), std::memory_order_relaxed);
    });
    return double(pages * kPage) / ns_since(start);
}

double register_peak(Threads& team, Product kind) {
    const LimitKernels& kernel = *kernels().limits;
    std::atomic<int64_t> operations{0};
    const auto start = Clock::now();
    team.run([&](int, int) noexcept { operations.fetch_add(kernel.multiply(kind, kRounds), std::memory_order_relaxed); });
    return double(operations.load()) / ns_since(start);
}

}  // namespace octavo
