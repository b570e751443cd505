#include "bindings/bindings.h"
#include "kernels/linear.h"

namespace octavo {
namespace {

std::string shape(const PackedWeight& weight) {
    return "a weight of " + std::to_string(weight.out_features) + " by " + std::to_string(weight.in_features);
}

int64_t panel_bytes(const PackedWeight& weight) {
    if (weight.kind <= WeightKind::f16) return float_panel_bytes(weight);
    return weight.kind < WeightKind::q8_0 ? code_panel_bytes(weight) : block_panel_bytes(weight);
}

void check_stride(const char* name, int64_t stride, int64_t columns, int64_t max_rows) {
    check(max_rows <= 1 || stride >= columns, std::string(name) + "=" + std::to_string(stride) + " is less than the " + std::to_string(columns) + " of a row");
}

void check_linear(const Linear& args, int64_t max_rows) {
    const PackedWeight& weight = args.weight;
    check_weight(weight);
    check(max_rows >= 0, "max_rows=" + std::to_string(max_rows) + " is negative");
    check(weight.interleaved || args.activation == Activation::none, "an activation needs an interleaved weight");
    check(!weight.interleaved || !args.residual, "an interleaved weight takes no residual");
    const int64_t columns = weight.interleaved ? weight.out_features / 2 : weight.out_features;
    check_stride("x_stride", args.x_stride, weight.in_features, max_rows);
    check_stride("out_stride", args.out_stride, columns, max_rows);
    if (args.residual) check_stride("residual_stride", args.residual_stride, columns, max_rows);
}

}  // namespace

void check_weight(const PackedWeight& weight) {
    present(kernels().linear->format(weight.kind), "kernel for this kind of weight");
    check(weight.out_features >= 1 && weight.in_features >= 1, shape(weight) + " has nothing to multiply");
    check(!weight.interleaved || weight.out_features % 2 == 0, shape(weight) + " has no two halves to interleave");
    check(weight.panels && reinterpret_cast<uintptr_t>(weight.panels) % 64 == 0, "panels must be the address of memory aligned to 64 bytes");
    const int64_t bytes = panel_bytes(weight);
    check(weight.panel_bytes == bytes, "panel_bytes=" + std::to_string(weight.panel_bytes) + " must be " + std::to_string(bytes));
}

void bind_linear(nb::module_& m, TapeClass& tape) {
    nb::class_<PackedWeight> weight(m, "PackedWeight");
    weight.def(nb::init<>());
    address(weight, "panels", &PackedWeight::panels);
    number(weight, "kind", &PackedWeight::kind, kNumWeightKinds);
    weight.def_rw("panel_bytes", &PackedWeight::panel_bytes)
        .def_rw("out_features", &PackedWeight::out_features)
        .def_rw("in_features", &PackedWeight::in_features)
        .def_rw("group", &PackedWeight::group)
        .def_rw("flags", &PackedWeight::flags)
        .def_rw("interleaved", &PackedWeight::interleaved)
        .def_prop_ro("num_panels", [](const PackedWeight& w) { return w.num_panels(); });

    nb::class_<Linear> linear(m, "Linear");
    linear.def(nb::init<>()).def_rw("weight", &Linear::weight);
    address(linear, "x", &Linear::x);
    address(linear, "out", &Linear::out);
    address(linear, "bias", &Linear::bias);
    address(linear, "residual", &Linear::residual);
    address(linear, "norm_weight", &Linear::norm_weight);
    number(linear, "activation", &Linear::activation, kNumActivations);
    number(linear, "rows", &Linear::rows, 2);
    linear.def_rw("x_stride", &Linear::x_stride)
        .def_rw("out_stride", &Linear::out_stride)
        .def_rw("residual_stride", &Linear::residual_stride)
        .def_rw("norm_eps", &Linear::norm_eps);

    nb::class_<EmbedPacked> embed(m, "EmbedPacked");
    embed.def(nb::init<>()).def_rw("weight", &EmbedPacked::weight);
    address(embed, "out", &EmbedPacked::out);
    embed.def_rw("out_stride", &EmbedPacked::out_stride).def_rw("scale", &EmbedPacked::scale);

    m.def("has_format", [](int kind) { return kernels().linear->format(static_cast<WeightKind>(kind)) != nullptr; }, nb::arg("kind"),
          "Whether the level in use multiplies with this kind of packed weight.");

    tape.def("linear", [](OwnedTape& t, const Linear& args, int64_t max_rows) {
        check_linear(args, max_rows);
        t.limit(args.rows, max_rows, {args.x, args.out});
        t.tape.append("linear", kernels().linear->linear, args, kernels().linear->linear_needs(args, max_rows));
    }, nb::arg("args"), nb::arg("max_rows"));
    tape.def("embed_packed", [](OwnedTape& t, const EmbedPacked& args) {
        check_weight(args.weight);
        check(!args.weight.interleaved, "an embedding is not interleaved");
        t.limit(Rows::tokens, t.max_tokens, {args.out});
        t.reads_tokens = true;
        t.tape.append("embed_packed", kernels().linear->embed_packed, args);
    }, nb::arg("args"));
}

}  // namespace octavo
