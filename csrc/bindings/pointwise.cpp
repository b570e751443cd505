#include "kernels/pointwise.h"

#include "bindings/bindings.h"

namespace octavo {
namespace {

void check_rows(OwnedTape& tape, Rows rows, std::initializer_list<const void*> operands, int64_t columns) {
    tape.limit(rows, rows == Rows::tokens ? tape.max_tokens : tape.max_logits, operands);
    check(columns >= 1, "rows of " + std::to_string(columns) + " columns are empty");
}

}  // namespace

void bind_pointwise(nb::module_& m, TapeClass& tape) {
    nb::class_<Matrix> matrix(m, "Matrix");
    matrix.def(nb::init<>());
    matrix.def("__init__", [](Matrix* self, uintptr_t data, int64_t stride) { new (self) Matrix{reinterpret_cast<float*>(data), stride}; },
               nb::arg("data"), nb::arg("stride"));
    address(matrix, "data", &Matrix::data);
    matrix.def_rw("stride", &Matrix::stride);

    nb::class_<Embed> embed(m, "Embed");
    embed.def(nb::init<>());
    address(embed, "table", &Embed::table);
    number(embed, "kind", &Embed::kind, 3);
    embed.def_rw("by_position", &Embed::by_position).def_rw("columns", &Embed::columns).def_rw("out", &Embed::out).def_rw("scale", &Embed::scale);

    nb::class_<NormArgs> norm(m, "Norm");
    norm.def(nb::init<>());
    address(norm, "weight", &NormArgs::weight);
    address(norm, "bias", &NormArgs::bias);
    number(norm, "kind", &NormArgs::kind, 2);
    number(norm, "rows", &NormArgs::rows, 2);
    norm.def_rw("x", &NormArgs::x).def_rw("out", &NormArgs::out).def_rw("residual", &NormArgs::residual);
    norm.def_rw("heads", &NormArgs::heads).def_rw("columns", &NormArgs::columns).def_rw("eps", &NormArgs::eps);

    nb::class_<Add> add(m, "Add");
    add.def(nb::init<>()).def_rw("x", &Add::x).def_rw("y", &Add::y).def_rw("out", &Add::out).def_rw("columns", &Add::columns);
    number(add, "rows", &Add::rows, 2);

    nb::class_<MapArgs> map(m, "Map");
    number(map, "map", &MapArgs::map, 7);
    number(map, "activation", &MapArgs::activation, kNumActivations);
    number(map, "rows", &MapArgs::rows, 2);
    map.def(nb::init<>()).def_rw("x", &MapArgs::x).def_rw("out", &MapArgs::out).def_rw("value", &MapArgs::value).def_rw("columns", &MapArgs::columns);

    nb::class_<Rotate> rotate(m, "Rotate");
    address(rotate, "angles", &Rotate::angles);
    rotate.def(nb::init<>()).def_rw("x", &Rotate::x).def_rw("out", &Rotate::out);
    rotate.def_rw("heads", &Rotate::heads).def_rw("head_dim", &Rotate::head_dim).def_rw("rotated", &Rotate::rotated);

    tape.def("embed", [](OwnedTape& t, const Embed& args) {
        check_rows(t, Rows::tokens, {args.table, args.out.data}, args.columns);
        (args.by_position ? t.reads_positions : t.reads_tokens) = true;
        t.tape.append("embed", present(kernels().pointwise->embed, "embed"), args);
    });
    tape.def("norm", [](OwnedTape& t, const NormArgs& args) {
        check_rows(t, args.rows, {args.x.data, args.out.data}, args.columns);
        check(args.heads >= 1, "heads=" + std::to_string(args.heads) + " is not a number of heads");
        t.tape.append("norm", present(kernels().pointwise->norm, "norm"), args);
    });
    tape.def("add", [](OwnedTape& t, const Add& args) {
        check_rows(t, args.rows, {args.x.data, args.y.data, args.out.data}, args.columns);
        t.tape.append("add", present(kernels().pointwise->add, "add"), args);
    });
    tape.def("map", [](OwnedTape& t, const MapArgs& args) {
        check_rows(t, args.rows, {args.x.data, args.out.data}, args.columns);
        t.tape.append("map", present(kernels().pointwise->map, "map"), args);
    });
    tape.def("rotate", [](OwnedTape& t, const Rotate& args) {
        check_rows(t, Rows::tokens, {args.x.data, args.out.data, args.angles}, args.head_dim);
        check(args.heads >= 1 && args.rotated >= 0 && args.rotated <= args.head_dim && args.rotated % 2 == 0,
              "rotated=" + std::to_string(args.rotated) + " must be even and at most head_dim");
        t.tape.append("rotate", present(kernels().pointwise->rotate, "rotate"), args);
    });
}

}  // namespace octavo
