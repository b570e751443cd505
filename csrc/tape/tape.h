// A recorded step: a flat list of kernel calls that the whole team walks together, with a barrier after each.
//
//     rank 0   record 0 ─┐ record 1 ─┐ record 2 ─┐ …
//     rank 1   record 0 ─┘ record 1 ─┘ record 2 ─┘ …      nothing is allocated, queued or looked up while it runs
//
// Operands are addresses that stay valid as long as the tape; what changes from step to step is read from the Step. Callers from
// several threads take turns.
#pragma once

#include <cstdint>
#include <cstring>
#include <mutex>
#include <type_traits>
#include <vector>

#include "core/threads.h"
#include "kernels/worker.h"

namespace octavo {

class Tape {
   public:
    template <class Args>
    using Kernel = void (*)(const Args&, const Step&, const Worker&);

    explicit Tape(Threads& team) : team_(team) {}
    ~Tape();
    Tape(const Tape&) = delete;
    Tape& operator=(const Tape&) = delete;

    template <class Args>
    void append(const char* name, Kernel<Args> kernel, const Args& args, Needs needs = {}) {
        static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= sizeof(Record::args), "a record has a fixed size");
        Record record;
        record.call = [](Any kernel, const void* args, const Step& step, const Worker& worker) {
            reinterpret_cast<Kernel<Args>>(kernel)(*static_cast<const Args*>(args), step, worker);
        };
        record.kernel = reinterpret_cast<Any>(kernel);
        std::memcpy(record.args, &args, sizeof args);
        record.name = name;
        record.needs = needs;
        add(record);
    }

    int64_t size() const { return static_cast<int64_t>(records_.size()); }
    const char* name(int64_t record) const { return records_[record].name; }

    // Runs records first .. last - 1 for a step.
    void run(const Step& step, int64_t first, int64_t last);

    // From now on each run notes when every member started and finished each record.
    void profile(bool on);
    // The last run's notes: [record - first][rank][started, finished], nanoseconds since that run's start.
    std::vector<int64_t> times() const;

   private:
    using Any = void (*)();
    struct Record {
        void (*call)(Any, const void*, const Step&, const Worker&);
        Any kernel;
        const char* name;
        Needs needs;
        alignas(8) char args[360];
    };
    void add(const Record& record);
    void reserve();

    Threads& team_;
    mutable std::mutex turn_;  // taken by whatever changes or runs the tape
    std::vector<Record> records_;
    std::vector<int32_t> tickets_;
    std::vector<int64_t> times_;
    Needs needs_, held_;
    char* memory_ = nullptr;
    bool profile_ = false;
};

}  // namespace octavo
