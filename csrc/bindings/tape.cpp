#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/bindings.h"
#include "bindings/tape.h"

namespace octavo {
namespace {

StepGroup& group(Step& step, int index) {
    if (index >= 0 && index < kMaxGroups) return step.groups[index];
    throw nb::value_error(("group " + std::to_string(index) + " does not exist; a step has " + std::to_string(kMaxGroups)).c_str());
}

void check_count(const char* name, int64_t count, int64_t most) {
    if (count >= 0 && count <= most) return;
    throw nb::value_error((std::string(name) + "=" + std::to_string(count) + " is not between 0 and the tape's " + std::to_string(most)).c_str());
}

void check_step(const OwnedTape& t, const Step& step) {
    check_count("num_tokens", step.num_tokens, t.max_tokens);
    check_count("num_logits", step.num_logits, t.max_logits);
    if (step.num_tokens == 0) return;
    if (t.reads_tokens && !step.tokens) throw nb::value_error("the tape reads tokens, of which the step has none");
    if (t.reads_positions && !step.positions) throw nb::value_error("the tape reads positions, of which the step has none");
    for (int index : t.groups) {
        const StepGroup& group = step.groups[index];
        if (step.num_rows >= 1 && step.starts && step.lengths && group.page_table && group.slots) continue;
        throw nb::value_error(("the tape attends to group " + std::to_string(index) + ", for which the step has no rows, starts, lengths, pages or slots").c_str());
    }
}

void run(OwnedTape& t, const Step& step, int64_t first, int64_t last) {
    if (last < 0) last = t.tape.size();
    if (first < 0 || first > last || last > t.tape.size()) {
        throw nb::value_error(("records " + std::to_string(first) + " to " + std::to_string(last) + " of " + std::to_string(t.tape.size())).c_str());
    }
    check_step(t, step);
    here(nb::cast<Threads&>(t.team));
    const nb::gil_scoped_release unlocked;
    t.tape.run(step, first, last);
}

}  // namespace

void bind_tape(nb::module_& m) {
    nb::class_<Step> step(m, "Step");
    step.def(nb::init<>());
    step.def_rw("num_tokens", &Step::num_tokens).def_rw("num_rows", &Step::num_rows).def_rw("num_logits", &Step::num_logits);
    address(step, "tokens", &Step::tokens);
    address(step, "positions", &Step::positions);
    address(step, "starts", &Step::starts);
    address(step, "lengths", &Step::lengths);
    step.def("set_group", [](Step& s, int index, uintptr_t page_table, int64_t page_stride, uintptr_t slots) {
        group(s, index) = {reinterpret_cast<const int32_t*>(page_table), page_stride, reinterpret_cast<const int64_t*>(slots)};
    }, nb::arg("index"), nb::arg("page_table"), nb::arg("page_stride"), nb::arg("slots"));

    TapeClass tape(m, "Tape");
    tape.def("__init__", [](OwnedTape* self, nb::object team) { new (self) OwnedTape(team, nb::cast<Threads&>(team)); }, nb::arg("team"));
    tape.def("__len__", [](const OwnedTape& t) { return t.tape.size(); });
    tape.def("name", [](const OwnedTape& t, int64_t i) {
        if (i < 0 || i >= t.tape.size()) throw nb::index_error();
        return std::string(t.tape.name(i));
    });
    tape.def("run", &run, nb::arg("step"), nb::arg("first") = 0, nb::arg("last") = -1);
    tape.def("profile", [](OwnedTape& t, bool on) { t.tape.profile(on); });
    tape.def("times", [](const OwnedTape& t) { return t.tape.times(); });

    bind_linear(m, tape);
    bind_linear_int(m);
    bind_linear_float(m);
    bind_linear_block(m);
    bind_amx(m);
    bind_attention(m, tape);
    bind_pointwise(m, tape);
    bind_moe(m, tape);
    bind_sampling(m);
    bind_limits(m);
}

}  // namespace octavo
