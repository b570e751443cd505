#include "kernels/moe.h"

#include "bindings/bindings.h"

namespace octavo {

void bind_moe(nb::module_& m, TapeClass& tape) {
    nb::class_<Route> route(m, "Route");
    route.def(nb::init<>()).def_rw("logits", &Route::logits);
    address(route, "ids", &Route::ids);
    address(route, "weights", &Route::weights);
    route.def_rw("num_experts", &Route::num_experts).def_rw("top_k", &Route::top_k).def_rw("renormalize", &Route::renormalize);

    nb::class_<Experts> experts(m, "Experts");
    experts.def(nb::init<>()).def_rw("x", &Experts::x).def_rw("out", &Experts::out).def_rw("residual", &Experts::residual);
    address(experts, "ids", &Experts::ids);
    address(experts, "weights", &Experts::weights);
    address(experts, "gate_up_panels", &Experts::gate_up_panels);
    address(experts, "down_panels", &Experts::down_panels);
    number(experts, "activation", &Experts::activation);
    experts.def_rw("gate_up", &Experts::gate_up)
        .def_rw("down", &Experts::down)
        .def_rw("num_experts", &Experts::num_experts)
        .def_rw("top_k", &Experts::top_k);

    tape.def("route", [](OwnedTape& t, const Route& args) { t.tape.append("route", present(kernels().moe->route, "route"), args); });
    tape.def("experts", [](OwnedTape& t, const Experts& args, int64_t max_tokens) {
        t.tape.append("experts", present(kernels().moe->experts, "experts"), args, kernels().moe->experts_needs(args, max_tokens));
    }, nb::arg("args"), nb::arg("max_tokens"));
}

}  // namespace octavo
