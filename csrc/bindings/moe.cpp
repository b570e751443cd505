#include "kernels/moe.h"

#include "bindings/bindings.h"

namespace octavo {
namespace {

void check_choice(int num_experts, int top_k) {
    check(top_k >= 1 && top_k <= num_experts, "top_k=" + std::to_string(top_k) + " of " + std::to_string(num_experts) + " experts cannot be chosen");
}

void check_experts(const Experts& args, int64_t max_tokens) {
    check_choice(args.num_experts, args.top_k);
    check(max_tokens >= 0, "max_tokens=" + std::to_string(max_tokens) + " is negative");
    check(args.gate_up_panels && args.down_panels, "gate_up_panels and down_panels need memory");
    PackedWeight gate_up = args.gate_up, down = args.down;
    for (int expert = 0; expert < args.num_experts; expert++) {
        gate_up.panels = args.gate_up_panels[expert];
        down.panels = args.down_panels[expert];
        check_weight(gate_up);
        check_weight(down);
    }
    check(gate_up.interleaved && !down.interleaved && down.in_features * 2 == gate_up.out_features,
          "gate_up must be interleaved, and half of its " + std::to_string(gate_up.out_features) + " outputs be the " + std::to_string(down.in_features) +
              " inputs of down");
}

}  // namespace

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
    number(experts, "activation", &Experts::activation, kNumActivations);
    experts.def_rw("gate_up", &Experts::gate_up)
        .def_rw("down", &Experts::down)
        .def_rw("num_experts", &Experts::num_experts)
        .def_rw("top_k", &Experts::top_k);

    tape.def("route", [](OwnedTape& t, const Route& args) {
        check_choice(args.num_experts, args.top_k);
        t.limit(Rows::tokens, t.max_tokens, {args.logits.data, args.ids, args.weights});
        t.tape.append("route", present(kernels().moe->route, "route"), args);
    });
    tape.def("experts", [](OwnedTape& t, const Experts& args, int64_t max_tokens) {
        check_experts(args, max_tokens);
        t.limit(Rows::tokens, max_tokens, {args.x.data, args.out.data, args.ids, args.weights});
        t.tape.append("experts", present(kernels().moe->experts, "experts"), args, kernels().moe->experts_needs(args, max_tokens));
    }, nb::arg("args"), nb::arg("max_tokens"));
}

}  // namespace octavo
