#include "bindings/bindings.h"
#include "kernels/linear.h"

namespace octavo {

void bind_linear(nb::module_& m, TapeClass& tape) {
    nb::class_<PackedWeight> weight(m, "PackedWeight");
    weight.def(nb::init<>());
    address(weight, "panels", &PackedWeight::panels);
    number(weight, "kind", &PackedWeight::kind);
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
    number(linear, "activation", &Linear::activation);
    number(linear, "rows", &Linear::rows);
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
        present(kernels().linear->format(args.weight.kind), "kernel for this kind of weight");
        t.tape.append("linear", kernels().linear->linear, args, kernels().linear->linear_needs(args, max_rows));
    }, nb::arg("args"), nb::arg("max_rows"));
    tape.def("embed_packed", [](OwnedTape& t, const EmbedPacked& args) {
        present(kernels().linear->format(args.weight.kind), "kernel for this kind of weight");
        t.tape.append("embed_packed", kernels().linear->embed_packed, args);
    }, nb::arg("args"));
}

}  // namespace octavo
