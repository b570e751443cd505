#include "tape/tape.h"

#include <algorithm>
#include <chrono>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace octavo {
namespace {

constexpr int64_t kLine = 64;

// Under AddressSanitizer a record has the memory that it asked for and no more, full of NaN.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kWatched = true;
void lend(char* memory, int64_t bytes, int64_t held) {
    ASAN_UNPOISON_MEMORY_REGION(memory, held);
    std::memset(memory, 0xff, bytes);
    ASAN_POISON_MEMORY_REGION(memory + bytes, held - bytes);
}
#else
constexpr bool kWatched = false;
void lend(char*, int64_t, int64_t) {}
#endif
constexpr int64_t kMargin = kWatched ? kLine : 0;

int64_t in_lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

void meet(void* team) { static_cast<Threads*>(team)->barrier(); }

}  // namespace

Tape::~Tape() { ::operator delete(memory_, std::align_val_t(kLine)); }

void Tape::add(const Record& record) {
    const std::lock_guard<std::mutex> turn(turn_);
    records_.push_back(record);
    tickets_.push_back(0);
    needs_.scratch = std::max(needs_.scratch, in_lines(record.needs.scratch) + kMargin);
    needs_.shared = std::max(needs_.shared, in_lines(record.needs.shared) + kMargin);
}

// Scratch memory grows when records are added, never in a step.
void Tape::reserve() {
    if (memory_ && held_.scratch == needs_.scratch && held_.shared == needs_.shared) return;
    ::operator delete(memory_, std::align_val_t(kLine));
    memory_ = nullptr;
    memory_ = static_cast<char*>(::operator new(needs_.shared + needs_.scratch * team_.size() + kLine, std::align_val_t(kLine)));
    held_ = needs_;
}

void Tape::profile(bool on) {
    const std::lock_guard<std::mutex> turn(turn_);
    profile_ = on;
}

std::vector<int64_t> Tape::times() const {
    const std::lock_guard<std::mutex> turn(turn_);
    return times_;
}

void Tape::run(const Step& step, int64_t first, int64_t last) {
    const std::lock_guard<std::mutex> turn(turn_);
    reserve();
    std::fill(tickets_.begin() + first, tickets_.begin() + last, 0);
    times_.assign(profile_ ? (last - first) * team_.size() * 2 : 0, 0);
    const auto start = std::chrono::steady_clock::now();
    const auto now = [start] { return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count(); };
    team_.run([&](int rank, int size) noexcept {
        Worker worker{rank, size, &team_, meet, memory_ + needs_.shared + rank * needs_.scratch, memory_, nullptr};
        for (int64_t i = first; i < last; i++) {
            const Record& record = records_[i];
            worker.ticket = &tickets_[i];
            if constexpr (kWatched) {
                lend(worker.scratch, record.needs.scratch, needs_.scratch);
                if (rank == 0) lend(worker.shared, record.needs.shared, needs_.shared);
                team_.barrier();
            }
            int64_t* times = profile_ ? &times_[((i - first) * size + rank) * 2] : nullptr;
            if (times) times[0] = now();
            record.call(record.kernel, record.args, step, worker);
            if (times) times[1] = now();
            if (i + 1 < last) team_.barrier();  // run() itself ends with one
        }
    });
}

}  // namespace octavo
