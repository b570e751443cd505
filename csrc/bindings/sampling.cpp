#include "kernels/sampling.h"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <new>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"

namespace octavo {
namespace {

// Work is counted in logits read once, of which a core manages about 14,000 in a microsecond; less than this is done sooner than
// the others are awake.
constexpr int64_t kAlone = 400'000;
constexpr int64_t kWeigh = 8;  // an exponential for every logit
constexpr int64_t kMask = 3;

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Slots of the calling thread, kept from step to step: fresh pages would cost more than the draw.
class Slots {
   public:
    ~Slots() { ::operator delete(memory_, std::align_val_t(64)); }
    char* get(int64_t count, int64_t slot_bytes) {
        if (count * slot_bytes > bytes_) {
            ::operator delete(memory_, std::align_val_t(64));
            memory_ = nullptr;
            bytes_ = 0;
            memory_ = static_cast<char*>(::operator new(count * slot_bytes, std::align_val_t(64)));
            bytes_ = count * slot_bytes;
        }
        for (int64_t i = 0; i < count; i++) std::memset(memory_ + i * slot_bytes, 0, 8);
        return memory_;
    }

   private:
    char* memory_ = nullptr;
    int64_t bytes_ = 0;
};

// Runs job(worker) on the team, or on the caller alone when there is little work.
template <class Job>
void run(Threads& team, int64_t work, int64_t slot_bytes, const Job& job) {
    static thread_local Slots slots;
    here(team);
    const int members = work < kAlone ? 1 : team.size();
    char* shared = slot_bytes ? slots.get(members, slot_bytes) : nullptr;
    int32_t ticket = 0;
    const auto meet = [](void* team) { static_cast<Threads*>(team)->barrier(); };
    const nb::gil_scoped_release unlocked;
    if (members == 1) return job(Worker{0, 1, &team, meet, nullptr, shared, &ticket});
    team.run([&](int rank, int size) noexcept { job(Worker{rank, size, &team, meet, nullptr, shared, &ticket}); });
}

int64_t cells(const LogitsView& logits) { return logits.num_rows * logits.vocab_size; }

using EditTuple = std::tuple<int, int64_t, int64_t, uintptr_t, uintptr_t, float, float, float>;

std::vector<Edit> edits_of(const std::vector<EditTuple>& tuples) {
    std::vector<Edit> out;
    for (const auto& [kind, row, count, ids, values, presence, frequency, repetition] : tuples) {
        out.push_back({static_cast<EditKind>(kind), row, count, pointer<const int32_t>(ids), pointer<const float>(values), presence, frequency, repetition});
    }
    return out;
}

void likeliest(const LogitsView& logits, Threads& team, uintptr_t ids, uintptr_t tops) {
    const SamplingKernels& kernel = *kernels().sampling;
    run(team, cells(logits), 0, [&](const Worker& worker) {
        kernel.scan(logits, worker);
        worker.barrier();
        kernel.likeliest(logits, pointer<int64_t>(ids), pointer<float>(tops), worker);
    });
}

void edit(const LogitsView& logits, Threads& team, uintptr_t mask, int64_t stride, const std::vector<EditTuple>& tuples, uintptr_t ids, uintptr_t tops) {
    const SamplingKernels& kernel = *kernels().sampling;
    const std::vector<Edit> edits = edits_of(tuples);
    int64_t work = mask ? kMask * cells(logits) : 0;
    for (const Edit& edit : edits) work += kWeigh * edit.count;
    run(team, work, 0, [&](const Worker& worker) {
        if (mask) {
            kernel.mask(logits, pointer<const uint32_t>(mask), stride, worker);
            worker.barrier();
        }
        kernel.edit(logits, edits.data(), static_cast<int64_t>(edits.size()), worker);
        worker.barrier();
        kernel.likeliest(logits, pointer<int64_t>(ids), pointer<float>(tops), worker);
    });
}

void draw(const LogitsView& logits, Threads& team, const Draws& draws) {
    const SamplingKernels& kernel = *kernels().sampling;
    int64_t work = 0;
    for (int64_t i = 0; i < draws.count; i++) work += logits.vocab_size * kWeigh / (draws.min_p[i] > 0 || draws.top_k[i] > 0 ? 32 : 1);
    run(team, work, kernel.slot_bytes(logits.vocab_size), [&](const Worker& worker) { kernel.draw(logits, draws, worker); });
}

void tell(const LogitsView& logits, Threads& team, const Logprobs& asked) {
    const SamplingKernels& kernel = *kernels().sampling;
    run(team, kWeigh * asked.count * logits.vocab_size, kernel.slot_bytes(logits.vocab_size), [&](const Worker& worker) { kernel.logprobs(logits, asked, worker); });
}

}  // namespace

void bind_sampling(nb::module_& m) {
    m.attr("STRETCH") = kStretch;

    nb::class_<Draws> draws(m, "Draws");
    draws.def(nb::init<>()).def_rw("count", &Draws::count);
    address(draws, "rows", &Draws::rows);
    address(draws, "temperature", &Draws::temperature);
    address(draws, "top_k", &Draws::top_k);
    address(draws, "top_p", &Draws::top_p);
    address(draws, "min_p", &Draws::min_p);
    address(draws, "seeds", &Draws::seeds);
    address(draws, "positions", &Draws::positions);
    address(draws, "ids", &Draws::ids);

    nb::class_<Logprobs> logprobs(m, "Logprobs");
    logprobs.def(nb::init<>()).def_rw("count", &Logprobs::count).def_rw("alternatives", &Logprobs::alternatives);
    address(logprobs, "rows", &Logprobs::rows);
    address(logprobs, "tokens", &Logprobs::tokens);
    address(logprobs, "ids", &Logprobs::ids);
    address(logprobs, "values", &Logprobs::values);
    address(logprobs, "ranks", &Logprobs::ranks);

    nb::class_<LogitsView> logits(m, "LogitsView");
    logits.def("__init__", [](LogitsView* self, uintptr_t data, int64_t stride, int64_t num_rows, int64_t vocab_size, uintptr_t maxima) {
        new (self) LogitsView{pointer<float>(data), stride, num_rows, vocab_size, pointer<float>(maxima)};
    }, nb::arg("data"), nb::arg("stride"), nb::arg("num_rows"), nb::arg("vocab_size"), nb::arg("maxima"));
    logits.def("likeliest", &likeliest, nb::arg("team"), nb::arg("ids"), nb::arg("tops"));
    logits.def("edit", &edit, nb::arg("team"), nb::arg("mask"), nb::arg("mask_stride"), nb::arg("edits"), nb::arg("ids"), nb::arg("tops"));
    logits.def("draw", &draw, nb::arg("team"), nb::arg("draws"));
    logits.def("logprobs", &tell, nb::arg("team"), nb::arg("asked"));
}

}  // namespace octavo
