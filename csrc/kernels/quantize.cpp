#include "kernels/quantize.h"

#include "core/simd.h"
#include "kernels/dot_int8.h"
#include "kernels/half.h"
#include "kernels/linear_int.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

int64_t panel_bytes(const PackedWeight& weight) {
    if (weight.kind == WeightKind::int8) return num_quads(weight) * 128 + kPanel * (int64_t)sizeof(float);
    return GroupLayout(weight).bytes();
}

// One feature's row in the parts; rows 0 when the panel's column is padding.
CodeRows find_row(const PackedWeight& weight, const CodeRows* parts, int64_t num_parts, int64_t groups, int64_t panel, int column) {
    int64_t feature = panel * kPanel + column;
    const int64_t half = weight.out_features / 2;
    if (weight.interleaved) {
        feature = panel * 16 + column % 16;
        feature = feature < half ? feature + column / 16 * half : weight.out_features;
    }
    for (int64_t p = 0; p < num_parts; p++) {
        const CodeRows& part = parts[p];
        if (feature < part.rows) {
            return {part.codes + feature * weight.in_features, part.scales + feature * groups, part.zeros ? part.zeros + feature * groups : nullptr, 1};
        }
        feature -= part.rows;
    }
    return {};
}

void pack_int8_column(const PackedWeight& weight, const CodeRows& row, int column, char* panel) {
    const int64_t quads = num_quads(weight);
    reinterpret_cast<float*>(panel + quads * 128)[column] = row.rows ? row.scales[0] : 0.0f;
    uint8_t* out = reinterpret_cast<uint8_t*>(panel) + column * 4;
    for (int64_t q = 0; q < quads; q++, out += 128) {
        uint32_t four = 0;
        const int64_t left = weight.in_features - q * 4;
        if (row.rows) memcpy(&four, row.codes + q * 4, left < 4 ? left : 4);
        four ^= 0x80808080;
        memcpy(out, &four, 4);
    }
}

void pack_int4_column(const GroupLayout& layout, const PackedWeight& weight, const CodeRows& row, int column, char* panel) {
    const int shift = column / 16 * 4;
    for (int64_t g = 0; g < layout.groups; g++) {
        const uint16_t scale = row.rows ? to_f16(row.scales[g]) : 0;
        memcpy(panel + layout.scales(g) + column * 2, &scale, 2);
        if (layout.has_zeros) panel[layout.zeros(g) + column] = (char)(row.rows && row.zeros ? row.zeros[g] : 8);
        if (!row.rows) continue;
        char* line = panel + layout.codes(g) + column % 16 * 4;
        for (int q = 0; q < layout.quads_of(g); q++, line += 64) {
            const int64_t i = g * weight.group + q * 4, left = weight.in_features - i;
            uint32_t four = 0, both;
            memcpy(&four, row.codes + i, left < 4 ? left : 4);
            memcpy(&both, line, 4);
            both |= (four & 0x0f0f0f0f) << shift;
            memcpy(line, &both, 4);
        }
    }
}

void pack(const PackedWeight& weight, const CodeRows* parts, int64_t num_parts, int rank, int size) {
    const int64_t panels = weight.num_panels();
    for (int64_t p = panels * rank / size; p < panels * (rank + 1) / size; p++) {
        char* panel = const_cast<char*>(weight.panels) + p * weight.panel_bytes;
        if (weight.kind == WeightKind::int8) {
            for (int column = 0; column < kPanel; column++) {
                pack_int8_column(weight, find_row(weight, parts, num_parts, 1, p, column), column, panel);
            }
            continue;
        }
        const GroupLayout layout(weight);
        memset(panel, 0, weight.panel_bytes);
        for (int column = 0; column < kPanel; column++) {
            pack_int4_column(layout, weight, find_row(weight, parts, num_parts, layout.groups, p, column), column, panel);
        }
    }
}

void widen_f16(const uint16_t* from, float* out) {
#ifdef __F16C__
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
    _mm256_storeu_ps(out + 8, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8))));
#else
    for (int i = 0; i < 16; i++) out[i] = from_f16(from[i]);
#endif
}

// Values [first, first + n) of a row, and zeros up to a multiple of 16.
void load_values(const FloatRows& from, int64_t row, int64_t first, int64_t n, float* out) {
    const int64_t index = row * from.columns + first;
    for (int64_t i = 0; i < n; i += 16) {
        const int64_t part = n - i < 16 ? n - i : 16;
        if (from.kind == WeightKind::f32) {
            store16(out + i, load_part(static_cast<const float*>(from.values) + index + i, part));
            continue;
        }
        uint16_t half[16];
        const uint16_t* at = static_cast<const uint16_t*>(from.values) + index + i;
        if (part == 16) {
            memcpy(half, at, sizeof half);
        } else {
            memset(half, 0, sizeof half);
            memcpy(half, at, part * 2);
        }
        if (from.kind == WeightKind::f16) {
            widen_f16(half, out + i);
        } else {
            u16x16 narrow;
            memcpy(&narrow, half, sizeof narrow);
            store16(out + i, (f32x16)(__builtin_convertvector(narrow, i32x16) << 16));
        }
    }
}

void quantize_int8(const FloatRows& from, int8_t* codes, float* scales, int rank, int size) {
    constexpr int64_t kStretch = 256;
    float values[kStretch];
    for (int64_t row = from.rows * rank / size; row < from.rows * (rank + 1) / size; row++) {
        int32_t most = 0;
        for (int64_t at = 0; at < from.columns; at += kStretch) {
            const int64_t n = from.columns - at < kStretch ? from.columns - at : kStretch;
            load_values(from, row, at, n, values);
            const int32_t bits = max_bits(values, n);
            most = bits > most ? bits : most;
        }
        const Quantizer q = quantizer(most);
        scales[row] = q.scale;
        i32x16 unused = {};
        for (int64_t at = 0; at < from.columns; at += kStretch) {
            const int64_t n = from.columns - at < kStretch ? from.columns - at : kStretch;
            load_values(from, row, at, n, values);
            for (int64_t i = 0; i < n; i += 16) {
                const i8x16 out = quantize16(load16(values + i), q.inverse, unused);
                memcpy(codes + row * from.columns + at + i, &out, n - i < 16 ? n - i : 16);
            }
        }
    }
}

// Which code the extreme value would have: the grid reaches from -8 to 7, and clipping may cost less than a coarser grid. Keep in step
// with octavo/quant/online.py.
constexpr float kExtremes[] = {7.0f, 7.5f, 8.0f, 8.5f, 9.0f, 9.5f, 10.0f, 11.0f};

f32x16 nearest_codes(f32x16 x, float inverse) {
    const f32x16 rounded = x * inverse + 12582912.0f - 12582912.0f;
    return min16(max16(rounded, splat(-8.0f)), splat(7.0f));
}

struct Scale {
    float value, inverse;
    explicit Scale(float wanted) : value(from_f16(to_f16(wanted))), inverse(1.0f / value) {}
    bool is_usable() const { return inverse - inverse == 0.0f && value - value == 0.0f; }
};

// fold16 without the loop that GCC makes of it, which would take longer than the sums themselves.
float fold_unrolled(f32x16 v) {
    float lanes[16];
    store16(lanes, v);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) lanes[i] += lanes[i + 8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) lanes[i] += lanes[i + 4];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

float squared_error(const float* values, int64_t n, const Scale& scale) {
    f32x16 sum = {};
    for (int64_t i = 0; i < n; i += 16) {
        const f32x16 x = load16(values + i), off = x - nearest_codes(x, scale.inverse) * scale.value;
        sum += off * off;
    }
    return fold_unrolled(sum);
}

// The scale that fits best the codes which another scale gives.
float refit(const float* values, int64_t n, const Scale& scale) {
    f32x16 above = {}, below = {};
    for (int64_t i = 0; i < n; i += 16) {
        const f32x16 x = load16(values + i), code = nearest_codes(x, scale.inverse);
        above += x * code;
        below += code * code;
    }
    return fold_unrolled(above) / fold_unrolled(below);
}

// The first of values whose magnitude is `most`.
float first_extreme(const float* values, float most) {
    while (*values != most && *values != -most) values++;
    return *values;
}

// values [n] and zeros up to a multiple of 16; returns the scale and writes codes.
float quantize_group(const float* values, int64_t n, uint8_t* codes) {
    const int32_t bits = max_bits(values, n);
    if (bits >= 0x7f800000) {
        memset(codes, 8, n);
        return __builtin_nanf("");
    }
    float most;
    memcpy(&most, &bits, sizeof most);
    const float extreme = first_extreme(values, most);
    Scale best(-extreme / 8.0f);
    if (!best.is_usable()) {
        memset(codes, 8, n);
        return best.value == 0.0f ? 0.0f : __builtin_nanf("");
    }
    float least = squared_error(values, n, best);
    const auto consider = [&](float wanted) {
        const Scale scale(wanted);
        if (!scale.is_usable()) return;
        const float error = squared_error(values, n, scale);
        if (error < least) {
            least = error;
            best = scale;
        }
    };
    for (const float codes_to_extreme : kExtremes) consider(-extreme / codes_to_extreme);
    consider(refit(values, n, best));
    for (int64_t i = 0; i < n; i += 16) {
        const i8x16 out = __builtin_convertvector(__builtin_convertvector(nearest_codes(load16(values + i), best.inverse), i32x16) + 8, i8x16);
        memcpy(codes + i, &out, n - i < 16 ? n - i : 16);
    }
    return best.value;
}

void quantize_int4(const FloatRows& from, int group, uint8_t* codes, float* scales, int rank, int size) {
    float values[128];
    const int64_t groups = (from.columns + group - 1) / group;
    for (int64_t row = from.rows * rank / size; row < from.rows * (rank + 1) / size; row++) {
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = g * group, n = from.columns - at < group ? from.columns - at : group;
            load_values(from, row, at, n, values);
            scales[row * groups + g] = quantize_group(values, n, codes + row * from.columns + at);
        }
    }
}

}  // namespace

extern const QuantizeKernels quantize_kernels;
const QuantizeKernels quantize_kernels = {
    .panel_bytes = panel_bytes,
    .pack = pack,
    .quantize_int8 = quantize_int8,
    .quantize_int4 = quantize_int4,
};

}  // namespace octavo::OCTAVO_LEVEL
