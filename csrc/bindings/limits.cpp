#include "core/limits.h"

#include "bindings/bindings.h"

namespace octavo {
namespace {

double bandwidth(Threads& team, uintptr_t address, int64_t bytes) {
    if (address % 64 || bytes < 4096) throw nb::value_error("read_bandwidth wants 64-byte aligned memory of at least 4096 bytes");
    here(team);
    const nb::gil_scoped_release unlocked;
    return read_bandwidth(team, reinterpret_cast<const char*>(address), bytes);
}

double peak(Threads& team, int kind) {
    if (kind < 0 || kind >= kNumProducts) throw nb::value_error(("product kind " + std::to_string(kind) + " does not exist; use 0 to 2").c_str());
    here(team);
    const nb::gil_scoped_release unlocked;
    return register_peak(team, static_cast<Product>(kind));
}

}  // namespace

void bind_limits(nb::module_& m) {
    m.def("read_bandwidth", &bandwidth, nb::arg("team"), nb::arg("address"), nb::arg("bytes"));
    m.def("register_peak", &peak, nb::arg("team"), nb::arg("kind"));
}

}  // namespace octavo
