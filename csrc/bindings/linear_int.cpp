#include "kernels/quantize.h"

#include <nanobind/stl/vector.h>

#include <vector>

#include "bindings/bindings.h"

namespace octavo {
namespace {

void check_group(int group) { check(group == 32 || group == 64 || group == 128, "group=" + std::to_string(group) + " is not 32, 64 or 128"); }

bool has_codes(WeightKind kind) { return kind == WeightKind::int8 || kind == WeightKind::int4 || kind == WeightKind::int4_bf16; }

}  // namespace

int64_t code_panel_bytes(const PackedWeight& weight) {
    check(has_codes(weight.kind), "kind=" + std::to_string(static_cast<int>(weight.kind)) + " is not one of whole numbers");
    check(weight.out_features >= 1 && weight.in_features >= 1,
          "a weight of " + std::to_string(weight.out_features) + " by " + std::to_string(weight.in_features) + " cannot be packed");
    check(!weight.interleaved || weight.out_features % 2 == 0,
          "out_features=" + std::to_string(weight.out_features) + " must be even: gate and up are its halves");
    if (weight.kind != WeightKind::int8) check_group(weight.group);
    return kernels().quantize->panel_bytes(weight);
}

namespace {

using Part = std::vector<uintptr_t>;  // addresses of codes, scales and zero points (0: none), then the number of rows

void pack(nb::handle team, const PackedWeight& weight, const std::vector<Part>& parts) {
    check(weight.panel_bytes == code_panel_bytes(weight), "panel_bytes=" + std::to_string(weight.panel_bytes) + " is not code_panel_bytes(weight)");
    check(weight.panels && reinterpret_cast<uintptr_t>(weight.panels) % 64 == 0, "panels must be the address of memory aligned to 64 bytes");
    std::vector<CodeRows> rows;
    int64_t total = 0;
    for (const Part& part : parts) {
        check(part.size() == 4, "a part is (codes, scales, zero points or 0, rows)");
        rows.push_back({reinterpret_cast<const uint8_t*>(part[0]), reinterpret_cast<const float*>(part[1]), reinterpret_cast<const uint8_t*>(part[2]),
                        static_cast<int64_t>(part[3])});
        check(!part[2] || weight.flags & kHasZeroPoints, "flags=" + std::to_string(weight.flags) + " says that there are no zero points, but a part has some");
        total += rows.back().rows;
    }
    check(total == weight.out_features, "the parts have " + std::to_string(total) + " rows; the weight has " + std::to_string(weight.out_features));
    for (const CodeRows& part : rows) {
        check(part.rows >= 0 && ((part.codes && part.scales) || !part.rows), "a part has a negative number of rows, no codes or no scales");
    }
    Threads& threads = here(nb::cast<Threads&>(team));
    const auto kernel = kernels().quantize->pack;
    const nb::gil_scoped_release unlocked;
    threads.run([&](int rank, int size) noexcept { kernel(weight, rows.data(), static_cast<int64_t>(rows.size()), rank, size); });
}

FloatRows float_rows(uintptr_t values, int kind, int64_t rows, int64_t columns) {
    check(kind >= 0 && kind <= 2, "kind=" + std::to_string(kind) + " is not f32 (0), bf16 (1) or f16 (2)");
    check(values || !rows, "values need an address");
    check(rows >= 0 && columns >= 1, "rows=" + std::to_string(rows) + ", columns=" + std::to_string(columns) + " is no matrix");
    return {reinterpret_cast<const void*>(values), static_cast<WeightKind>(kind), rows, columns};
}

}  // namespace

void bind_linear_int(nb::module_& m) {
    m.def("code_panel_bytes", &code_panel_bytes, nb::arg("weight"), "Bytes of one panel of an int8 or int4 weight; ValueError for other kinds.");
    m.def("pack_codes", &pack, nb::arg("team"), nb::arg("weight"), nb::arg("parts"),
          "Write the panels of an int8 or int4 weight from parts (codes, float32 scales, zero points or 0, rows).");
    m.def("quantize_int8", [](nb::handle team, uintptr_t values, int kind, int64_t rows, int64_t columns, uintptr_t codes, uintptr_t scales) {
        const FloatRows from = float_rows(values, kind, rows, columns);
        Threads& threads = here(nb::cast<Threads&>(team));
        const auto kernel = kernels().quantize->quantize_int8;
        const nb::gil_scoped_release unlocked;
        threads.run([&](int rank, int size) noexcept { kernel(from, reinterpret_cast<int8_t*>(codes), reinterpret_cast<float*>(scales), rank, size); });
    }, nb::arg("team"), nb::arg("values"), nb::arg("kind"), nb::arg("rows"), nb::arg("columns"), nb::arg("codes"), nb::arg("scales"),
          "codes [rows, columns] int8 and scales [rows] float32 of f32 (0), bf16 (1) or f16 (2) values.");
    m.def("quantize_int4", [](nb::handle team, uintptr_t values, int kind, int64_t rows, int64_t columns, int group, uintptr_t codes, uintptr_t scales) {
        const FloatRows from = float_rows(values, kind, rows, columns);
        check_group(group);
        Threads& threads = here(nb::cast<Threads&>(team));
        const auto kernel = kernels().quantize->quantize_int4;
        const nb::gil_scoped_release unlocked;
        threads.run([&](int rank, int size) noexcept {
            kernel(from, group, reinterpret_cast<uint8_t*>(codes), reinterpret_cast<float*>(scales), rank, size);
        });
    }, nb::arg("team"), nb::arg("values"), nb::arg("kind"), nb::arg("rows"), nb::arg("columns"), nb::arg("group"), nb::arg("codes"), nb::arg("scales"),
          "codes [rows, columns] uint8 around 8 and scales [rows, ceil(columns / group)] float32 of f32 (0), bf16 (1) or f16 (2) values.");
    m.def("unpack_row", [](const PackedWeight& weight, int64_t panel, int column, uintptr_t out) {
        check(weight.panels && panel >= 0 && panel < weight.num_panels() && column >= 0 && column < kPanel, "no such column of a panel");
        present(kernels().linear->format(weight.kind), "kernel for this kind of weight")
            ->unpack(weight, weight.panels + panel * weight.panel_bytes, column, reinterpret_cast<float*>(out));
    }, nb::arg("weight"), nb::arg("panel"), nb::arg("column"), nb::arg("out"),
          "Write the float32 values [in_features] of one column, 0..31, of a panel.");
}

}  // namespace octavo
