// octavo._native: the library's door to Python. One line per function; addresses, integers and floats only.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "bindings/bindings.h"
#include "bindings/tape.h"
#include "core/checks.h"
#include "core/cpu.h"
#include "core/dispatch.h"
#include "core/threads.h"

namespace nb = nanobind;
using namespace octavo;

namespace {

using Unlocked = nb::call_guard<nb::gil_scoped_release>;

nb::dict cpu_report() {
    const CpuFeatures& features = cpu_features();
    const CacheSizes caches = cache_sizes();
    const std::vector<int> cpus = allowed_cpus();
    int num_cores = 0;
    one_per_core_first(cpus, &num_cores);
    nb::dict out;
    out["architecture"] = features.architecture;
    out["model"] = features.model;
    out["features"] = features.names;
    out["level"] = cpu_level(features);
    out["allowed_cpus"] = cpus;
    out["physical_cores"] = num_cores;
    out["quota_cores"] = cgroup_quota("");
    out["usable_cores"] = usable_cores();
    out["l1d_bytes"] = caches.l1d_bytes;
    out["l2_bytes"] = caches.l2_bytes;
    out["l3_bytes"] = caches.l3_bytes;
    return out;
}

void choose_level(const std::string& name) {
    if (use_kernel_level(name)) return;
    std::string known;
    for (const std::string& level : kernel_levels()) known += (known.empty() ? "" : ", ") + level;
    throw nb::value_error(("kernel level '" + name + "' does not run here; use one of " + known).c_str());
}

std::unique_ptr<Threads> make_team(int size, bool pin) {
    if (size < 0 || size > 1024) {
        throw nb::value_error(("size=" + std::to_string(size) + " is not a number of threads; use 1 to 1024, or 0 for one per usable core").c_str());
    }
    return std::make_unique<Threads>(size, pin);
}

int64_t at_least(int64_t least, int64_t value, const char* name) {
    if (value >= least) return value;
    throw nb::value_error((std::string(name) + "=" + std::to_string(value) + " is too small; use " + std::to_string(least) + " or more").c_str());
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The native library: what this CPU can do, a thread team, kernels compiled per instruction-set level.";
    m.def("cpu_report", &cpu_report, "What this machine is and how much of it this process may use; sizes in bytes.");
    m.def("cgroup_quota", &cgroup_quota, nb::arg("root") = "", "Cores granted by control groups, or None; root: a folder with planted /proc and /sys.");
    m.def("kernel_levels", &kernel_levels, "Compiled levels that this CPU can run, lowest first.");
    m.def("kernel_level", &kernel_level, "The level in use.");
    m.def("use_kernel_level", &choose_level, nb::arg("name"), "Use one of kernel_levels() in the whole process; ValueError for any other.");
    nb::class_<Threads>(m, "ThreadTeam", "Threads that run native work together; asleep when there is none.")
        .def(nb::new_(&make_team), nb::arg("size") = 0, nb::arg("pin") = false)
        .def_prop_ro("size", &Threads::size, "Members, the calling thread included.")
        .def_prop_ro("cpus", &Threads::cpus, "Where each member is bound; empty when not pinned.")
        .def("calls_per_rank", [](Threads& t) { return calls_per_rank(here(t)); }, Unlocked(), "How often each member ran in one job.")
        .def("barrier_faults", [](Threads& t, int64_t rounds) { return barrier_faults(here(t), at_least(1, rounds, "rounds")); },
             nb::arg("rounds"), Unlocked(), "Rounds in which a barrier let a member through too early.")
        .def("barrier_ns", [](Threads& t, int64_t rounds) { return barrier_ns(here(t), at_least(1, rounds, "rounds")); },
             nb::arg("rounds"), Unlocked(), "Mean nanoseconds of one barrier.")
        .def("tape_faults", [](Threads& t, int64_t records, int64_t pieces) { return tape_faults(here(t), at_least(1, records, "records"), at_least(0, pieces, "pieces")); },
             nb::arg("records"), nb::arg("pieces"), Unlocked(), "What goes wrong when a tape of `records` records with `pieces` pieces to claim runs.")
        .def("parallel_sum", [](Threads& t, uintptr_t address, int64_t n) { return parallel_sum(here(t), reinterpret_cast<const float*>(address), at_least(0, n, "n")); },
             nb::arg("address"), nb::arg("n"), Unlocked(), "Sum of n float32 at an address; the same bits for every team size and level.");
    bind_tape(m);
}
