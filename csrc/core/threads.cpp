#include "core/threads.h"

#include <chrono>
#include <csignal>
#include <string>
#include <thread>

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "core/cpu.h"

namespace octavo {
namespace {

constexpr auto kSpin = std::chrono::microseconds(5);
constexpr auto kYield = std::chrono::microseconds(50);
constexpr int kPausesPerLook = 16;

void pause_briefly() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Returns once `word` differs from `old`.
void wait_for_change(const std::atomic<uint32_t>& word, uint32_t old, bool may_spin) noexcept {
    const auto start = std::chrono::steady_clock::now();
    for (auto waited = std::chrono::nanoseconds(0); waited < kYield; waited = std::chrono::steady_clock::now() - start) {
        if (may_spin && waited < kSpin) {
            for (int i = 0; i < kPausesPerLook; i++) {
                if (word.load(std::memory_order_acquire) != old) return;
                pause_briefly();
            }
        } else {
            if (word.load(std::memory_order_acquire) != old) return;
            sched_yield();
        }
    }
    while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

void bind_to(int cpu) {
#if defined(__linux__)
    cpu_set_t* set = CPU_ALLOC(cpu + 1);
    const size_t size = CPU_ALLOC_SIZE(cpu + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S(cpu, size, set);
    pthread_setaffinity_np(pthread_self(), size, set);  // refused: the thread runs unbound, which is only slower
    CPU_FREE(set);
#else
    (void)cpu;
#endif
}

void name_thread(int rank) {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), ("octavo-" + std::to_string(rank)).c_str());
#else
    (void)rank;
#endif
}

}  // namespace

struct Threads::Shared {
    alignas(64) std::atomic<uint32_t> generation{0};  // one more per job
    alignas(64) std::atomic<uint32_t> phase{0};       // one more per barrier
    alignas(64) std::atomic<int> arrived{0};     // members at the current barrier
    alignas(64) Job job = nullptr;               // nullptr: leave
    void* argument = nullptr;
    bool may_spin = true;
    std::vector<std::thread> members;
};

Threads::Threads(int size, bool pin) : size_(size > 0 ? size : usable_cores()), owner_(getpid()), shared_(new Shared) {
    const std::vector<int> allowed = allowed_cpus();
    if (pin) {
        int num_cores = 0;
        const std::vector<int> order = one_per_core_first(allowed, &num_cores);
        for (int rank = 0; rank < size_; rank++) cpus_.push_back(order[rank % order.size()]);
    }
    shared_->may_spin = size_ <= usable_cores();

    // Members inherit this mask: signals belong to the thread that runs Python.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        for (int rank = 1; rank < size_; rank++) shared_->members.emplace_back([this, rank] { member(rank); });
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        shared_->generation.fetch_add(1, std::memory_order_release);
        shared_->generation.notify_all();
        for (std::thread& thread : shared_->members) thread.join();
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Threads::~Threads() {
    if (is_orphaned()) {
        (void)shared_.release();  // handles of threads that do not exist here can be neither joined nor destroyed
        return;
    }
    shared_->job = nullptr;
    shared_->generation.fetch_add(1, std::memory_order_release);
    shared_->generation.notify_all();
    for (std::thread& thread : shared_->members) thread.join();
}

bool Threads::is_orphaned() const { return getpid() != owner_; }

void Threads::run_erased(Job job, void* argument) {
    const std::lock_guard<std::mutex> turn(turn_);
    shared_->job = job;
    shared_->argument = argument;
    shared_->generation.fetch_add(1, std::memory_order_release);
    shared_->generation.notify_all();
    job(argument, 0, size_);
    barrier();
}

void Threads::member(int rank) noexcept {
    name_thread(rank);
    if (!cpus_.empty()) bind_to(cpus_[rank]);
    for (uint32_t seen = 0;;) {
        wait_for_change(shared_->generation, seen, shared_->may_spin);
        seen++;  // jobs cannot be missed: run() returns only after every member has met the last barrier of the job
        if (!shared_->job) return;
        shared_->job(shared_->argument, rank, size_);
        barrier();
    }
}

void Threads::barrier() noexcept {
    if (size_ == 1) return;
    const uint32_t phase = shared_->phase.load(std::memory_order_relaxed);
    if (shared_->arrived.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
        shared_->arrived.store(0, std::memory_order_relaxed);
        shared_->phase.store(phase + 1, std::memory_order_release);
        shared_->phase.notify_all();
        return;
    }
    wait_for_change(shared_->phase, phase, shared_->may_spin);
}

}  // namespace octavo
