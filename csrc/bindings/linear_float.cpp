// Packs row-major float weights into panels; the layouts stand in kernels/linear_float.cpp and linear_bf16.cpp.
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/half.h"
#include "kernels/linear.h"
#include "kernels/transpose.h"

namespace octavo {
namespace {

constexpr int64_t kChunk = 256;  // inputs packed at a time: long enough for a row to be read in bursts, 32 of them stay in the caches

struct Bf16 {
    uint16_t bits;
};
struct F16 {
    uint16_t bits;
};

float widen(float value) { return value; }
float widen(Bf16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }
float widen(F16 value) { return from_f16(value.bits); }

template <class To>
To narrow(float value) {
    if constexpr (std::is_same_v<To, float>) {
        return value;
    } else if constexpr (std::is_same_v<To, F16>) {
        return {to_f16(value)};
    } else {
        const uint32_t bits = float_bits(value);
        const uint32_t rounded = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
        return {static_cast<uint16_t>(rounded >> 16)};
    }
}

struct Source {
    const char* rows;
    WeightKind kind;
    int64_t stride;  // elements from row to row
    int64_t num_rows;
};

int64_t element_bytes(WeightKind kind) {
    switch (kind) {
        case WeightKind::f32: return 4;
        case WeightKind::bf16:
        case WeightKind::f16: return 2;
        default: throw nb::value_error(("kind " + std::to_string(static_cast<int>(kind)) + " is no float format; use 0 (f32), 1 (bf16) or 2 (f16)").c_str());
    }
}

}  // namespace

int64_t float_panel_bytes(const PackedWeight& weight) {
    const int64_t inputs = weight.kind == WeightKind::bf16 ? (weight.in_features + 1) / 2 * 2 : weight.in_features;
    return inputs * kPanel * element_bytes(weight.kind);
}

namespace {

// The row of the stacked sources that stands in a column of a panel; -1: padding.
int64_t row_of(const PackedWeight& weight, int64_t panel, int column) {
    if (!weight.interleaved) {
        const int64_t row = panel * kPanel + column;
        return row < weight.out_features ? row : -1;
    }
    const int64_t half = weight.out_features / 2, row = panel * 16 + column % 16;
    return row >= half ? -1 : column < 16 ? row : half + row;
}

template <class To, class From>
void convert(const char* from, int64_t n, To* to) {
    if constexpr (std::is_same_v<To, From>) {
        std::memcpy(to, from, n * sizeof(To));
    } else {
        for (int64_t i = 0; i < n; i++) {
            From value;
            std::memcpy(&value, from + i * sizeof(From), sizeof value);
            to[i] = narrow<To>(widen(value));
        }
    }
}

template <class To>
void convert_row(const Source& source, int64_t row, int64_t first, int64_t n, To* to) {
    const char* from = source.rows + (row * source.stride + first) * (source.kind == WeightKind::f32 ? 4 : 2);
    if (source.kind == WeightKind::f32) return convert<To, float>(from, n, to);
    if (source.kind == WeightKind::bf16) return convert<To, Bf16>(from, n, to);
    convert<To, F16>(from, n, to);
}

// `inputs` of the panel's 32 columns, one column after the other, kChunk apart.
template <class To>
void gather(const PackedWeight& weight, const std::vector<Source>& sources, int64_t panel, int64_t first, int64_t inputs, To* columns) {
    std::memset(columns, 0, kPanel * kChunk * sizeof(To));
    for (int column = 0; column < kPanel; column++) {
        int64_t row = row_of(weight, panel, column);
        if (row < 0) continue;
        size_t part = 0;
        while (row >= sources[part].num_rows) row -= sources[part++].num_rows;
        convert_row(sources[part], row, first, inputs, columns + column * kChunk);
    }
}

void pack_f32(const PackedWeight& weight, const std::vector<Source>& sources, int64_t panel, char* out) {
    alignas(64) float columns[kPanel * kChunk];
    for (int64_t first = 0; first < weight.in_features; first += kChunk) {
        const int64_t n = std::min<int64_t>(kChunk, weight.in_features - first);
        gather(weight, sources, panel, first, n, columns);
        transpose_words(columns, kChunk, kPanel, n, reinterpret_cast<float*>(out) + first * kPanel, kPanel);
    }
}

void pack_bf16(const PackedWeight& weight, const std::vector<Source>& sources, int64_t panel, char* out) {
    alignas(64) Bf16 columns[kPanel * kChunk];
    for (int64_t first = 0; first < weight.in_features; first += kChunk) {
        const int64_t n = std::min<int64_t>(kChunk, weight.in_features - first);
        gather(weight, sources, panel, first, n, columns);
        transpose_words(reinterpret_cast<const float*>(columns), kChunk / 2, kPanel, (n + 1) / 2, reinterpret_cast<float*>(out) + first / 2 * kPanel, kPanel);
    }
}

void pack_f16(const PackedWeight& weight, const std::vector<Source>& sources, int64_t panel, char* out) {
    alignas(64) F16 columns[kPanel * kChunk];
    alignas(64) uint16_t pairs[kPanel * 2];
    alignas(64) float words[kPanel * kChunk / 2];
    for (int64_t first = 0; first < weight.in_features; first += kChunk) {
        const int64_t n = std::min<int64_t>(kChunk, weight.in_features - first);
        gather(weight, sources, panel, first, n, columns);
        transpose_words(reinterpret_cast<const float*>(columns), kChunk / 2, kPanel, (n + 1) / 2, words, kPanel);
        for (int64_t i = 0; i < n; i++) {
            std::memcpy(pairs, words + i / 2 * kPanel, sizeof pairs);
            uint16_t line[kPanel];
            for (int column = 0; column < kPanel; column++) line[column] = pairs[column * 2 + i % 2];
            std::memcpy(out + (first + i) * sizeof line, line, sizeof line);
        }
    }
}

using Part = std::tuple<uintptr_t, int, int64_t, int64_t>;

void pack_float(nb::object owner, const PackedWeight& weight, const std::vector<Part>& parts) {
    std::vector<Source> sources;
    int64_t rows = 0;
    for (const auto& [address, kind, stride, num_rows] : parts) {
        sources.push_back({reinterpret_cast<const char*>(address), static_cast<WeightKind>(kind), stride, num_rows});
        element_bytes(sources.back().kind);
        check(num_rows >= 0 && stride >= weight.in_features && (address || !num_rows),
              "a part has a negative number of rows, no address, or a stride below in_features");
        rows += num_rows;
    }
    if (rows != weight.out_features || (weight.interleaved && rows % 2)) {
        throw nb::value_error(("parts have " + std::to_string(rows) + " rows; out_features=" + std::to_string(weight.out_features) +
                               (weight.interleaved ? ", which must be even" : "")).c_str());
    }
    if (!weight.panels || weight.panel_bytes != float_panel_bytes(weight)) {
        throw nb::value_error(("panels need memory, and panel_bytes=" + std::to_string(weight.panel_bytes) + " must be " + std::to_string(float_panel_bytes(weight))).c_str());
    }
    const auto pack = weight.kind == WeightKind::bf16 ? pack_bf16 : weight.kind == WeightKind::f16 ? pack_f16 : pack_f32;
    Threads& team = here(nb::cast<Threads&>(owner));
    const nb::gil_scoped_release unlocked;
    team.run([&](int rank, int size) noexcept {
        const int64_t panels = weight.num_panels();
        for (int64_t p = panels * rank / size; p < panels * (rank + 1) / size; p++) {
            pack(weight, sources, p, const_cast<char*>(weight.panels) + p * weight.panel_bytes);
        }
    });
}

}  // namespace

void bind_linear_float(nb::module_& m) {
    m.def("panel_bytes", &float_panel_bytes, nb::arg("weight"), "Bytes of one panel of a float weight; ValueError for other kinds.");
    m.def("pack_float", &pack_float, nb::arg("team"), nb::arg("weight"), nb::arg("parts"), "Fill a weight's panels from row-major parts stacked by rows.");
}

}  // namespace octavo
