// Packs rows of GGUF's blocks into panels; the layout stands in kernels/block_codes.h.
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/block_codes.h"

namespace octavo {
namespace {

constexpr int kMaxInputs = 256;

// One block of the file: codes in order of inputs, and the header's fields.
struct Block {
    uint8_t codes[kMaxInputs];
    uint16_t d, m;
    uint8_t scales[16], mins[8];
};

uint16_t half_at(const uint8_t* at) { return static_cast<uint16_t>(at[0] | at[1] << 8); }

void read_nibbles(const uint8_t* from, int pairs, uint8_t* codes) {
    for (int i = 0; i < pairs; i++) {
        codes[i] = from[i] & 15;
        codes[i + pairs] = from[i] >> 4;
    }
}

constexpr uint64_t kOnes = 0x0101010101010101;

uint64_t word_at(const uint8_t* at) {
    uint64_t word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

void or_word(uint8_t* at, uint64_t bits) {
    bits |= word_at(at);
    std::memcpy(at, &bits, sizeof bits);
}

// Bit i of from belongs to code i.
void read_fifth_bits(const uint8_t* from, uint8_t* codes) {
    for (int i = 0; i < 4; i++) {
        const uint64_t apart = from[i] * kOnes & 0x8040201008040201;  // byte k has bit k, where it is set
        or_word(codes + 8 * i, (apart + 127 * kOnes) >> 3 & 16 * kOnes);
    }
}

// Six-bit scales and mins of q4_k and q5_k: 0..3 whole in bytes 0..7, 4..7 in bytes 8..11 with the top bits of bytes 0..7.
void read_sub_scales(const uint8_t* from, Block& out) {
    for (int i = 0; i < 4; i++) {
        out.scales[i] = from[i] & 63;
        out.mins[i] = from[i + 4] & 63;
        out.scales[i + 4] = (from[i + 8] & 15) | from[i] >> 6 << 4;
        out.mins[i + 4] = from[i + 8] >> 4 | from[i + 4] >> 6 << 4;
    }
}

template <WeightKind kind>
void read_block(const uint8_t* at, Block& out) {
    out.d = half_at(kind == WeightKind::q6_k ? at + 208 : at);
    if (block_shape(kind).has_mins) out.m = half_at(at + 2);
    if constexpr (kind == WeightKind::q8_0) {
        for (int i = 0; i < 32; i++) out.codes[i] = at[2 + i] ^ 128;
    } else if constexpr (kind == WeightKind::q4_0 || kind == WeightKind::iq4_nl) {
        read_nibbles(at + 2, 16, out.codes);
    } else if constexpr (kind == WeightKind::q4_1) {
        read_nibbles(at + 4, 16, out.codes);
    } else if constexpr (kind == WeightKind::q5_0) {
        read_nibbles(at + 6, 16, out.codes);
        read_fifth_bits(at + 2, out.codes);
    } else if constexpr (kind == WeightKind::q5_1) {
        read_nibbles(at + 8, 16, out.codes);
        read_fifth_bits(at + 4, out.codes);
    } else if constexpr (kind == WeightKind::q6_k) {
        std::memcpy(out.scales, at + 192, 16);
        for (int group = 0; group < 2; group++) {
            const uint8_t *low = at + 64 * group, *high = at + 128 + 32 * group;
            uint8_t* codes = out.codes + 128 * group;
            for (int i = 0; i < 32; i++) {
                codes[i] = (low[i] & 15) | (high[i] & 3) << 4;
                codes[i + 32] = (low[i + 32] & 15) | (high[i] >> 2 & 3) << 4;
                codes[i + 64] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
                codes[i + 96] = low[i + 32] >> 4 | (high[i] >> 6) << 4;
            }
        }
    } else {
        read_sub_scales(at + 4, out);
        const uint8_t* nibbles = at + (kind == WeightKind::q4_k ? 16 : 48);
        for (int group = 0; group < 4; group++) read_nibbles(nibbles + 32 * group, 32, out.codes + 64 * group);
        if constexpr (kind == WeightKind::q5_k) {
            for (int i = 0; i < 256; i += 8) or_word(out.codes + i, (word_at(at + 16 + i % 32) >> i / 32 & kOnes) << 4);
        }
    }
}

using Line = uint8_t[kLine];

void write_six_bits(const Line* lines, uint8_t* out) {
    const uint8_t *a = lines[0], *b = lines[1], *c = lines[2], *d = lines[3];
    for (int i = 0; i < kLine; i++) {
        out[i] = static_cast<uint8_t>(a[i] | (d[i] & 3) << 6);
        out[i + kLine] = static_cast<uint8_t>(b[i] | (d[i] & 12) << 4);
        out[i + 2 * kLine] = static_cast<uint8_t>(c[i] | (d[i] & 48) << 2);
    }
}

template <WeightKind kind>
uint8_t* write_header(const Block* blocks, uint8_t* out) {
    constexpr BlockShape shape = block_shape(kind);
    uint16_t halves[2][kPanel];
    for (int c = 0; c < kPanel; c++) {
        halves[0][c] = blocks[c].d;
        if constexpr (shape.has_mins) halves[1][c] = blocks[c].m;
    }
    std::memcpy(out, halves, shape.has_mins ? 128 : 64);
    [[maybe_unused]] uint8_t* at = out + (shape.has_mins ? 128 : 64);
    if constexpr (shape.has_sub_mins()) {
        Line scales[4], mins[4];
        for (int c = 0; c < kPanel; c++) {
            for (int s = 0; s < 8; s++) {
                scales[s / 2][s % 2 * kPanel + c] = blocks[c].scales[s];
                mins[s / 2][s % 2 * kPanel + c] = blocks[c].mins[s];
            }
        }
        write_six_bits(scales, at);
        write_six_bits(mins, at + kSixBits);
    }
    return out + shape.header_bytes;
}

template <WeightKind kind>
uint8_t* write_step(const Block* blocks, int step, uint8_t* out) {
    constexpr BlockShape shape = block_shape(kind);
    if constexpr (kind == WeightKind::q6_k) {
        for (int c = 0; c < kPanel; c++) {
            for (int p = 0; p < 2; p++) out[p * kPanel + c] = blocks[c].scales[2 * step + p];
        }
    }
    Line lines[kStepLines];
    for (int c = 0; c < kPanel; c++) {
        for (int q = 0; q < 8; q++) std::memcpy(lines[2 * q + c / 16] + c % 16 * 4, blocks[c].codes + step * kStep + 4 * q, 4);
    }
    uint8_t* at = out + shape.scale_bytes;
    if constexpr (shape.bits == 8) {
        std::memcpy(at, lines, sizeof lines);
    } else if constexpr (shape.bits == 6) {
        for (int g = 0; g < 4; g++) write_six_bits(lines + 4 * g, at + g * kSixBits);
    } else {
        if constexpr (shape.bits == 5) {
            for (int g = 0; g < 2; g++, at += kLine) {
                for (int i = 0; i < kLine; i += 8) {
                    uint64_t bits = 0;
                    for (int t = 0; t < 8; t++) bits |= (word_at(lines[8 * g + t] + i) >> 4 & kOnes) << t;
                    std::memcpy(at + i, &bits, sizeof bits);
                }
            }
        }
        for (int q = 0; q < 8; q++, at += kLine) {
            for (int i = 0; i < kLine; i++) at[i] = static_cast<uint8_t>((lines[2 * q][i] & 15) | lines[2 * q + 1][i] << 4);
        }
    }
    return out + shape.step_bytes();
}

struct BlockRows {
    const uint8_t* blocks;
    int64_t stride;  // bytes from row to row
    int64_t rows;
};

// The row of the stacked parts that stands in a column of a panel; null: padding.
const uint8_t* find_row(const PackedWeight& weight, const std::vector<BlockRows>& parts, int64_t panel, int column) {
    int64_t row = panel * kPanel + column, limit = weight.out_features;
    if (weight.interleaved) {
        row = panel * 16 + column % 16;
        limit = weight.out_features / 2;
    }
    if (row >= limit) return nullptr;
    if (weight.interleaved && column >= 16) row += limit;
    for (const BlockRows& part : parts) {
        if (row < part.rows) return part.blocks + row * part.stride;
        row -= part.rows;
    }
    return nullptr;
}

template <WeightKind kind>
void pack_panel(const PackedWeight& weight, const std::vector<BlockRows>& parts, int64_t panel) {
    constexpr BlockShape shape = block_shape(kind);
    const uint8_t* rows[kPanel];
    for (int c = 0; c < kPanel; c++) rows[c] = find_row(weight, parts, panel, c);
    Block blocks[kPanel];
    std::memset(blocks, 0, sizeof blocks);
    uint8_t* out = reinterpret_cast<uint8_t*>(const_cast<char*>(weight.panels)) + panel * weight.panel_bytes;
    for (int64_t i = 0; i < weight.in_features / shape.inputs; i++) {
        for (int c = 0; c < kPanel; c++) {
            if (rows[c]) read_block<kind>(rows[c] + i * shape.file_bytes, blocks[c]);
        }
        out = write_header<kind>(blocks, out);
        for (int s = 0; s < shape.steps(); s++) out = write_step<kind>(blocks, s, out);
    }
}

using PackPanel = void (*)(const PackedWeight& weight, const std::vector<BlockRows>& parts, int64_t panel);

PackPanel find_pack_panel(WeightKind kind) {
    switch (kind) {
        case WeightKind::q8_0: return pack_panel<WeightKind::q8_0>;
        case WeightKind::q4_0: return pack_panel<WeightKind::q4_0>;
        case WeightKind::q4_1: return pack_panel<WeightKind::q4_1>;
        case WeightKind::q5_0: return pack_panel<WeightKind::q5_0>;
        case WeightKind::q5_1: return pack_panel<WeightKind::q5_1>;
        case WeightKind::q4_k: return pack_panel<WeightKind::q4_k>;
        case WeightKind::q5_k: return pack_panel<WeightKind::q5_k>;
        case WeightKind::q6_k: return pack_panel<WeightKind::q6_k>;
        case WeightKind::iq4_nl: return pack_panel<WeightKind::iq4_nl>;
        default: return nullptr;
    }
}

}  // namespace

int64_t block_panel_bytes(const PackedWeight& weight) {
    const BlockShape shape = block_shape(weight.kind);
    if (shape.inputs == 0) {
        throw nb::value_error(("kind " + std::to_string(static_cast<int>(weight.kind)) + " is no block format; use 6 (q8_0) to 14 (iq4_nl)").c_str());
    }
    if (weight.in_features <= 0 || weight.in_features % shape.inputs) {
        throw nb::value_error(("in_features=" + std::to_string(weight.in_features) + " is not a multiple of the block's " + std::to_string(shape.inputs)).c_str());
    }
    return static_cast<int64_t>(weight.in_features) / shape.inputs * shape.span_bytes();
}

namespace {

using Part = std::tuple<uintptr_t, int64_t, int64_t>;

void pack_blocks(nb::object owner, const PackedWeight& weight, const std::vector<Part>& given) {
    const int64_t bytes = block_panel_bytes(weight);
    const BlockShape shape = block_shape(weight.kind);
    const int64_t row_bytes = static_cast<int64_t>(weight.in_features) / shape.inputs * shape.file_bytes;
    std::vector<BlockRows> parts;
    int64_t rows = 0;
    for (const auto& [address, stride, num_rows] : given) {
        check(num_rows >= 0 && stride >= row_bytes && (address || !num_rows),
              "a part has a negative number of rows, no address, or a stride below the bytes of a row");
        parts.push_back({reinterpret_cast<const uint8_t*>(address), stride, num_rows});
        rows += num_rows;
    }
    if (rows != weight.out_features || (weight.interleaved && rows % 2)) {
        throw nb::value_error(("parts have " + std::to_string(rows) + " rows; out_features=" + std::to_string(weight.out_features) +
                               (weight.interleaved ? ", which must be even" : "")).c_str());
    }
    if (!weight.panels || weight.panel_bytes != bytes) {
        throw nb::value_error(("panels need memory, and panel_bytes=" + std::to_string(weight.panel_bytes) + " must be " + std::to_string(bytes)).c_str());
    }
    const PackPanel pack = find_pack_panel(weight.kind);
    Threads& team = here(nb::cast<Threads&>(owner));
    const nb::gil_scoped_release unlocked;
    team.run([&](int rank, int size) noexcept {
        const int64_t panels = weight.num_panels();
        for (int64_t p = panels * rank / size; p < panels * (rank + 1) / size; p++) pack(weight, parts, p);
    });
}

}  // namespace

void bind_linear_block(nb::module_& m) {
    m.def("block_panel_bytes", &block_panel_bytes, nb::arg("weight"), "Bytes of one panel of a weight in GGUF's blocks; ValueError for other kinds.");
    m.def("pack_blocks", &pack_blocks, nb::arg("team"), nb::arg("weight"), nb::arg("parts"),
          "Fill a weight's panels from rows of GGUF blocks: parts (address, bytes from row to row, rows), stacked.");
}

}  // namespace octavo
