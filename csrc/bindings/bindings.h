// The Python classes of the kernels' arguments: addresses are integers, and every field is set by name.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/dispatch.h"
#include "kernels/linear.h"
#include "tape/tape.h"

namespace octavo {

namespace nb = nanobind;

// A tape that keeps its team alive, and what its records expect of a step.
struct OwnedTape {
    nb::object team;
    Tape tape;
    int64_t max_tokens = std::numeric_limits<int64_t>::max(), max_logits = max_tokens;
    bool reads_tokens = false, reads_positions = false;
    std::vector<int> groups;  // that attention reads

    OwnedTape(nb::object owner, Threads& threads) : team(std::move(owner)), tape(threads) {}
    // A record serves steps of up to `most` rows; of none if an operand has no memory.
    void limit(Rows rows, int64_t most, std::initializer_list<const void*> operands) {
        for (const void* operand : operands) {
            if (!operand) most = 0;
        }
        int64_t& limit = rows == Rows::tokens ? max_tokens : max_logits;
        limit = std::min(limit, most);
    }
};

using TapeClass = nb::class_<OwnedTape>;

template <class C, class T>
void address(nb::class_<C>& cls, const char* name, T* C::*member) {
    cls.def_prop_rw(
        name, [member](const C& self) { return reinterpret_cast<uintptr_t>(self.*member); },
        [member](C& self, uintptr_t value) { self.*member = reinterpret_cast<T*>(value); });
}

inline void check(bool holds, const std::string& message) {
    if (!holds) throw nb::value_error(message.c_str());
}

// An enumeration is its number, 0 .. count - 1.
template <class C, class E>
void number(nb::class_<C>& cls, const char* name, E C::*member, int count) {
    cls.def_prop_rw(
        name, [member](const C& self) { return static_cast<int>(self.*member); },
        [=](C& self, int value) {
            check(value >= 0 && value < count, std::string(name) + "=" + std::to_string(value) + " is not one of 0 to " + std::to_string(count - 1));
            self.*member = static_cast<E>(value);
        });
}

// The team, unless it is the parent process's.
inline Threads& here(Threads& team) {
    if (!team.is_orphaned()) return team;
    throw std::runtime_error("this thread team belongs to the parent process; make a new one after fork()");
}

template <class Member>
Member present(Member kernel, const char* what) {
    if (kernel) return kernel;
    throw nb::value_error((std::string("kernel level ") + kernel_level() + " has no " + what).c_str());
}

// Bytes of one panel; ValueError for other kinds and for shapes that cannot be packed.
int64_t float_panel_bytes(const PackedWeight& weight);
int64_t code_panel_bytes(const PackedWeight& weight);
int64_t block_panel_bytes(const PackedWeight& weight);

// ValueError unless kernels can trust it.
void check_weight(const PackedWeight& weight);

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
