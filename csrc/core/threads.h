// A persistent team of threads that run one function together (SPMD) and meet at barriers.
//
//     rank 0 (the caller)   ──run(f)──▶ f(0) ──barrier── f(0) ──▶ returns
//     rank 1 … size - 1     asleep ───▶ f(1) ──barrier── f(1) ──▶ asleep
//
// A member that waits spins for about 5 µs, then yields to about 50 µs, then sleeps in the kernel: short waits stay short, an idle
// engine uses no CPU, and a team on fewer cores than members does not starve itself (it never spins).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

namespace octavo {

class Threads {
   public:
    // size 0: usable_cores(). pin: rank r > 0 is bound to cpus()[r]; rank 0 is the caller's thread and is left as it is, because
    // threads that it starts later would inherit its binding.
    Threads(int size, bool pin);
    ~Threads();
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

    int size() const { return size_; }
    const std::vector<int>& cpus() const { return cpus_; }  // where the members are bound; empty when not pinned

    // True in a child process made by fork(): the members did not come along, and run() would wait for ever.
    bool is_orphaned() const;

    // Calls function(rank, size) once on every member and returns when all are done. Callers from several threads take turns.
    template <class Function>
    void run(Function&& function) {
        using F = std::remove_reference_t<Function>;
        static_assert(std::is_nothrow_invocable_v<F&, int, int>, "an exception must not leave a member");
        run_erased([](void* f, int rank, int size) noexcept { (*static_cast<F*>(f))(rank, size); }, const_cast<std::remove_const_t<F>*>(&function));
    }

    // Inside run() only, by all members alike: what any of them wrote before is visible to all after.
    void barrier() noexcept;

   private:
    using Job = void (*)(void*, int, int) noexcept;
    struct Shared;
    void run_erased(Job job, void* argument);
    void member(int rank) noexcept;

    int size_;
    long owner_;
    std::vector<int> cpus_;
    std::mutex turn_;
    std::unique_ptr<Shared> shared_;
};

}  // namespace octavo
