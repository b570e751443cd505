// The Python classes of the kernels' arguments: addresses are integers, and every field is set by name.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <string>

#include "core/dispatch.h"
#include "tape/tape.h"

namespace octavo {

namespace nb = nanobind;

// A tape that keeps its team alive.
struct OwnedTape {
    nb::object team;
    Tape tape;
    OwnedTape(nb::object owner, Threads& threads) : team(std::move(owner)), tape(threads) {}
};

using TapeClass = nb::class_<OwnedTape>;

template <class C, class T>
void address(nb::class_<C>& cls, const char* name, T* C::*member) {
    cls.def_prop_rw(
        name, [member](const C& self) { return reinterpret_cast<uintptr_t>(self.*member); },
        [member](C& self, uintptr_t value) { self.*member = reinterpret_cast<T*>(value); });
}

// An enumeration is its number.
template <class C, class E>
void number(nb::class_<C>& cls, const char* name, E C::*member) {
    cls.def_prop_rw(
        name, [member](const C& self) { return static_cast<int>(self.*member); }, [member](C& self, int value) { self.*member = static_cast<E>(value); });
}

template <class Member>
Member present(Member kernel, const char* what) {
    if (kernel) return kernel;
    throw nb::value_error((std::string("kernel level ") + kernel_level() + " has no " + what).c_str());
}

// Each family's argument classes, and how the tape records them.
void bind_linear(nb::module_& m, TapeClass& tape);
void bind_linear_int(nb::module_& m);
void bind_linear_float(nb::module_& m);
void bind_linear_block(nb::module_& m);
void bind_amx(nb::module_& m);
void bind_attention(nb::module_& m, TapeClass& tape);
void bind_pointwise(nb::module_& m, TapeClass& tape);
void bind_moe(nb::module_& m, TapeClass& tape);
void bind_sampling(nb::module_& m);
void bind_limits(nb::module_& m);

}  // namespace octavo
