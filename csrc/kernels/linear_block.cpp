// Products with GGUF's block formats; their panels are described in block_codes.h.
//
// Activations are int8, one scale per span. A step's 16 lines of codes stay in registers while all rows pass by, so that they are
// decoded once per step and not once per row, and the same code serves one row and hundreds. The float32 sums wait in memory:
//
//     per step   part += d · scale · (Σ code · x - offset · Σ x) - dmin · min · Σ x      Σ in int32, exact
//     per span   y += scale of x · part
#include "core/simd.h"
#include "kernels/block_codes.h"
#include "kernels/dot_int8.h"
#include "kernels/half.h"

namespace octavo::OCTAVO_LEVEL {
namespace {

constexpr int kPassRows = 120;   // rows that pass by one step: their sums take 15 KiB
constexpr int kBlock = 4;        // rows of a prepared block
constexpr int64_t kAhead = 2176;  // bytes of panel that are asked for while many rows pass; for few the hardware does it better

// Where there are 32 wide registers everything that is decoded stays in them; elsewhere loops stay loops.
#ifdef __AVX512F__
#define OCTAVO_UNROLL _Pragma("GCC unroll 16")
#define OCTAVO_STEP_INLINE OCTAVO_INLINE
constexpr int kMostTogether = 4;
#else
#define OCTAVO_UNROLL _Pragma("GCC unroll 1")
#define OCTAVO_STEP_INLINE __attribute__((noinline))
constexpr int kMostTogether = 1;
#endif

// A register of bytes: they are decoded without regard to their neighbors, so a line may come in pieces.
typedef uint8_t Bytes __attribute__((vector_size(sizeof(f32_register))));
typedef uint16_t Words __attribute__((vector_size(sizeof(f32_register))));
constexpr int kPiece = sizeof(Bytes);

#if defined(__AVX2__) && !defined(__AVX512F__)
#define OCTAVO_MADDUBS
typedef int32_t StepQuad;  // four int8
#else
typedef Quad StepQuad;
#endif

// What a step needs of a row.
struct RowStep {
    StepQuad x[8];
    int32_t correction[2];  // -offset · Σ x, of each part
    float scale;            // of x, in this span
    float negative_sum;     // -Σ x
};

OCTAVO_INLINE Bytes load_piece(const char* at) {
    Bytes out;
    memcpy(&out, at, sizeof out);
    return out;
}

// Shifts bytes; bits that come in from the neighbor have to be masked off.
template <int right>
OCTAVO_INLINE Bytes shifted(Bytes v) {
    if constexpr (right >= 0) return (Bytes)((Words)v >> right);
    else return (Bytes)((Words)v << -right);
}

OCTAVO_INLINE f32x16 multiply_add16(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    __m256 p[2], q[2], s[2];
    memcpy(p, &a, sizeof a);
    memcpy(q, &b, sizeof b);
    memcpy(s, &c, sizeof c);
    for (int i = 0; i < 2; i++) s[i] = _mm256_fmadd_ps(p[i], q[i], s[i]);
    memcpy(&c, s, sizeof c);
    return c;
#else
    return a * b + c;
#endif
}

OCTAVO_INLINE f32x16 splat_from(const float* value) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_set1_ps(*value);
#else
    return splat(*value);
#endif
}

OCTAVO_INLINE f32x16 load_f16(const char* at) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)at));
#elif defined(__F16C__)
    f32x16 out;
    for (int i = 0; i < 2; i++) {
        const __m256 eight = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(at + 16 * i)));
        memcpy((char*)&out + 32 * i, &eight, sizeof eight);
    }
    return out;
#else
    f32x16 out;
    for (int i = 0; i < 16; i++) {
        uint16_t bits;
        memcpy(&bits, at + 2 * i, sizeof bits);
        out[i] = from_f16(bits);
    }
    return out;
#endif
}

// GCC 12 would convert bytes one by one.
template <class Byte>
OCTAVO_INLINE f32x16 load_bytes(const char* at) {
#if defined(__AVX512F__)
    const __m128i v = _mm_loadu_si128((const __m128i*)at);
    return (f32x16)_mm512_cvtepi32_ps((Byte)-1 < 0 ? _mm512_cvtepi8_epi32(v) : _mm512_cvtepu8_epi32(v));
#elif defined(__AVX2__)
    f32x16 out;
    for (int i = 0; i < 2; i++) {
        const __m128i v = _mm_loadl_epi64((const __m128i*)(at + 8 * i));
        const __m256 eight = _mm256_cvtepi32_ps((Byte)-1 < 0 ? _mm256_cvtepi8_epi32(v) : _mm256_cvtepu8_epi32(v));
        memcpy((char*)&out + 32 * i, &eight, sizeof eight);
    }
    return out;
#else
    f32x16 out;
    for (int i = 0; i < 16; i++) out[i] = (float)(Byte)at[i];
    return out;
#endif
}

OCTAVO_INLINE Bytes non_linear(Bytes codes) {
#if defined(__AVX512BW__)
    return (Bytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)kNonLinear)), (__m512i)codes);
#elif defined(__AVX2__)
    return (Bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)kNonLinear)), (__m256i)codes);
#else
    for (int i = 0; i < kPiece; i++) codes[i] = kNonLinear[codes[i]];
    return codes;
#endif
}

// The decoded lines of a step.
struct StepCodes {
#ifdef __AVX512F__
    Bytes lines[kStepLines];

    OCTAVO_INLINE void set(int i, int, Bytes line) { lines[i] = line; }
    OCTAVO_INLINE Codes get(int i) const {
#ifdef __AVX512VNNI__
        return (Codes)lines[i];
#else
        return split_codes((__m512i)lines[i]);
#endif
    }
#else
    alignas(64) uint8_t lines[kStepLines * kLine];

    OCTAVO_INLINE void set(int i, int piece, Bytes v) { memcpy(lines + i * kLine + piece, &v, sizeof v); }
    OCTAVO_INLINE Codes get(int i) const { return load_codes(lines + i * kLine); }
#endif
};

// Four lines out of three.
template <class Store>
OCTAVO_INLINE void six_bits(const char* at, const Store& store) {
    const Bytes a = load_piece(at), b = load_piece(at + kLine), c = load_piece(at + 2 * kLine);
    store(0, a & 63);
    store(1, b & 63);
    store(2, c & 63);
    store(3, (shifted<6>(a) & 3) | (shifted<4>(b) & 12) | (shifted<2>(c) & 48));
}

template <int line>
OCTAVO_INLINE Bytes fifth_bit(Bytes bits) {
    return shifted<line - 4>(bits) & 16;
}

template <WeightKind kind>
OCTAVO_INLINE void decode_piece(const char* at, int piece, StepCodes& to) {
    constexpr int bits = block_shape(kind).bits;
    at += block_shape(kind).scale_bytes + piece;
    if constexpr (bits == 8) {
OCTAVO_UNROLL
        for (int i = 0; i < kStepLines; i++) to.set(i, piece, load_piece(at + i * kLine));
    } else if constexpr (bits == 6) {
OCTAVO_UNROLL
        for (int g = 0; g < 4; g++) six_bits(at + g * kSixBits, [&](int i, Bytes line) __attribute__((always_inline)) { to.set(4 * g + i, piece, line); });
    } else if constexpr (bits == 5) {
OCTAVO_UNROLL
        for (int g = 0; g < 2; g++) {
            const Bytes high = load_piece(at + g * kLine);
            const char* nibbles = at + 2 * kLine + g * 4 * kLine;
            const Bytes q0 = load_piece(nibbles), q1 = load_piece(nibbles + kLine);
            const Bytes q2 = load_piece(nibbles + 2 * kLine), q3 = load_piece(nibbles + 3 * kLine);
            to.set(8 * g + 0, piece, (q0 & 15) | fifth_bit<0>(high));
            to.set(8 * g + 1, piece, (shifted<4>(q0) & 15) | fifth_bit<1>(high));
            to.set(8 * g + 2, piece, (q1 & 15) | fifth_bit<2>(high));
            to.set(8 * g + 3, piece, (shifted<4>(q1) & 15) | fifth_bit<3>(high));
            to.set(8 * g + 4, piece, (q2 & 15) | fifth_bit<4>(high));
            to.set(8 * g + 5, piece, (shifted<4>(q2) & 15) | fifth_bit<5>(high));
            to.set(8 * g + 6, piece, (q3 & 15) | fifth_bit<6>(high));
            to.set(8 * g + 7, piece, (shifted<4>(q3) & 15) | fifth_bit<7>(high));
        }
    } else {
OCTAVO_UNROLL
        for (int q = 0; q < 8; q++) {
            const Bytes line = load_piece(at + q * kLine), low = line & 15, high = shifted<4>(line) & 15;
            if constexpr (kind == WeightKind::iq4_nl) {
                to.set(2 * q, piece, non_linear(low));
                to.set(2 * q + 1, piece, non_linear(high));
            } else {
                to.set(2 * q, piece, low);
                to.set(2 * q + 1, piece, high);
            }
        }
    }
}

template <WeightKind kind>
OCTAVO_STEP_INLINE void decode(const char* at, StepCodes& to) {
    for (int piece = 0; piece < kLine; piece += kPiece) decode_piece<kind>(at, piece, to);
}

// A step has two scales per feature in q6_k.
template <WeightKind kind>
constexpr int kParts = kind == WeightKind::q6_k ? 2 : 1;

// The header of a span, its bytes unpacked; value = scale · (code - offset) - min.
template <WeightKind kind>
struct Header {
    static constexpr BlockShape shape = block_shape(kind);
    static constexpr int parts = kParts<kind>;
    const char* at;
    alignas(64) char bytes[shape.has_sub_mins() ? 16 * kPanel : 1];

    OCTAVO_INLINE explicit Header(const char* from) : at(from) {
        if constexpr (shape.has_sub_mins()) {
            for (int group = 0; group < 2; group++) {
                for (int piece = 0; piece < kLine; piece += kPiece) {
                    six_bits(at + 128 + group * kSixBits + piece, [&](int i, Bytes line) __attribute__((always_inline)) {
                        memcpy(bytes + (4 * group + i) * kLine + piece, &line, sizeof line);
                    });
                }
            }
        }
    }

    OCTAVO_INLINE f32x16 scale(int step, const char* at_step, int part, int half) const {
        const f32x16 d = load_f16(at + 32 * half);
        if constexpr (kind == WeightKind::q6_k) return d * load_bytes<int8_t>(at_step + part * kPanel + 16 * half);
        else if constexpr (shape.has_sub_mins()) return d * load_bytes<uint8_t>(bytes + step * kPanel + 16 * half);
        else return d;
    }

    OCTAVO_INLINE f32x16 min(int step, int half) const {
        const f32x16 m = load_f16(at + 64 + 32 * half);
        if constexpr (shape.has_sub_mins()) return m * load_bytes<uint8_t>(bytes + (8 + step) * kPanel + 16 * half);
        else return -m;
    }
};

// Scales of one step, in registers.
template <WeightKind kind>
struct StepScales {
    f32x16 scales[kParts<kind>][2], mins[2];

    OCTAVO_INLINE StepScales(const Header<kind>& header, int step, [[maybe_unused]] const char* at_step) {
        for (int h = 0; h < 2; h++) {
            for (int p = 0; p < kParts<kind>; p++) scales[p][h] = header.scale(step, at_step, p, h);
            if constexpr (block_shape(kind).has_mins) mins[h] = header.min(step, h);
        }
    }
};

// Sums of `rows` rows, 32 features each.
template <int rows>
using RowSums = f32x16[rows][2];

// Adds one step to the span's sums.
template <WeightKind kind, int rows>
OCTAVO_INLINE void add_step(const StepCodes& codes, const StepScales<kind>& scales, const RowStep* x, RowSums<rows>& part) {
    constexpr int parts = kParts<kind>, quads = 8 / parts;
    constexpr BlockShape shape = block_shape(kind);
#ifdef OCTAVO_MADDUBS
    // Eight features at a time. Codes of up to 6 bits do not saturate; of larger ones the sign moves to the activation.
    constexpr bool is_wide = shape.offset == 128;
    const __m256i ones = _mm256_set1_epi16(1), middle = _mm256_set1_epi8(-128);
    for (int r = 0; r < rows; r++) {
        for (int f = 0; f < kPanel; f += 8) {
            float* to = reinterpret_cast<float*>(part[r]) + f;
            __m256 sum = _mm256_loadu_ps(to);
            for (int p = 0; p < parts; p++) {
                __m256i dot = _mm256_set1_epi32(shape.offset && !is_wide ? x[r].correction[p] : 0);
                for (int quad = p * quads; quad < (p + 1) * quads; quad++) {
                    __m256i line = _mm256_load_si256((const __m256i*)(codes.lines + (2 * quad + f / 16) * kLine + f % 16 * 4));
                    __m256i values = _mm256_set1_epi32(x[r].x[quad]);
                    if constexpr (is_wide) {
                        line = _mm256_xor_si256(line, middle);
                        values = _mm256_sign_epi8(values, line);
                        line = _mm256_abs_epi8(line);
                    }
                    dot = _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_maddubs_epi16(line, values), ones));
                }
                sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_loadu_ps(reinterpret_cast<const float*>(scales.scales[p]) + f), sum);
            }
            if constexpr (shape.has_mins) {
                sum = _mm256_fmadd_ps(_mm256_broadcast_ss(&x[r].negative_sum), _mm256_loadu_ps(reinterpret_cast<const float*>(scales.mins) + f), sum);
            }
            _mm256_storeu_ps(to, sum);
        }
    }
#else
    Sums sums[rows][parts][2];
    OCTAVO_UNROLL
    for (int r = 0; r < rows; r++) {
        for (int p = 0; p < parts; p++) {
            for (int h = 0; h < 2; h++) sums[r][p][h] = splat_sums(shape.offset ? x[r].correction[p] : 0);
        }
    }
    OCTAVO_UNROLL
    for (int quad = 0; quad < 8; quad++) {
        OCTAVO_UNROLL
        for (int r = 0; r < rows; r++) {
            for (int h = 0; h < 2; h++) sums[r][quad / quads][h] = add_dot(sums[r][quad / quads][h], codes.get(2 * quad + h), x[r].x + quad);
        }
    }
    OCTAVO_UNROLL
    for (int r = 0; r < rows; r++) {
        for (int h = 0; h < 2; h++) {
            for (int p = 0; p < parts; p++) part[r][h] = multiply_add16(to_float(sums[r][p][h]), scales.scales[p][h], part[r][h]);
            if constexpr (shape.has_mins) part[r][h] = multiply_add16(splat_from(&x[r].negative_sum), scales.mins[h], part[r][h]);
        }
    }
#endif
}

template <WeightKind kind>
constexpr int kTogether = kParts<kind> == 2 && kMostTogether > 2 ? 2 : kMostTogether;  // rows whose int32 sums fit in the registers that the codes leave

template <int rows>
OCTAVO_INLINE void load_sums(const float* from, RowSums<rows>& to) {
    OCTAVO_UNROLL
    for (int r = 0; r < rows; r++) {
        for (int h = 0; h < 2; h++) to[r][h] = load16(from + r * kPanel + 16 * h);
    }
}

template <int rows>
OCTAVO_INLINE void store_sums(const RowSums<rows>& from, float* to) {
    OCTAVO_UNROLL
    for (int r = 0; r < rows; r++) {
        for (int h = 0; h < 2; h++) store16(to + r * kPanel + 16 * h, from[r][h]);
    }
}

// y += scale of x · part
template <int rows>
OCTAVO_INLINE void add_span(const RowSums<rows>& part, const RowStep* x, RowSums<rows>& y) {
    OCTAVO_UNROLL
    for (int r = 0; r < rows; r++) {
#ifdef OCTAVO_MADDUBS
        for (int f = 0; f < kPanel; f += 8) {
            float* to = reinterpret_cast<float*>(y[r]) + f;
            const __m256 sum = _mm256_loadu_ps(reinterpret_cast<const float*>(part[r]) + f);
            _mm256_storeu_ps(to, _mm256_fmadd_ps(sum, _mm256_broadcast_ss(&x[r].scale), _mm256_loadu_ps(to)));
        }
#else
        for (int h = 0; h < 2; h++) y[r][h] = multiply_add16(part[r][h], splat_from(&x[r].scale), y[r][h]);
#endif
    }
}

// One step of `rows` rows whose sums wait in memory. part [rows, 32] is not read in a span's first step and not written in its last.
template <WeightKind kind, int rows, bool first, bool last>
OCTAVO_STEP_INLINE void pass_rows(const StepCodes& codes, const StepScales<kind>& scales, const RowStep* x, float* part, float* y) {
    RowSums<rows> sums = {};
    if constexpr (!first) load_sums<rows>(part, sums);
    add_step<kind, rows>(codes, scales, x, sums);
    if constexpr (last) {
        RowSums<rows> total;
        load_sums<rows>(y, total);
        add_span<rows>(sums, x, total);
        store_sums<rows>(total, y);
    } else {
        store_sums<rows>(sums, part);
    }
}

template <WeightKind kind, bool first, bool last>
OCTAVO_INLINE void pass_step(const char* at, const Header<kind>& header, int step, int64_t at_step, const char* blocks, int64_t block_bytes,
                             int rows, float* part, float* y) {
    constexpr int together = kTogether<kind>;
    StepCodes codes;
    decode<kind>(at, codes);
    const StepScales<kind> scales(header, step, at);
    // A few lines with each block of rows: all at once they would wait for each other, and for the rows.
    constexpr int lines = block_shape(kind).step_bytes() / kLine + (block_shape(kind).steps() == 1);
    const int per_block = lines * kBlock / rows + 1;
    at += kAhead;
    for (; rows >= kBlock; rows -= kBlock, blocks += block_bytes, y += kBlock * kPanel, part += kBlock * kPanel) {
        const RowStep* x = reinterpret_cast<const RowStep*>(blocks) + at_step * kBlock;
        for (int i = 0; i < per_block; i++, at += kLine) __builtin_prefetch(at);
        OCTAVO_UNROLL
        for (int r = 0; r < kBlock; r += together) {
            pass_rows<kind, together, first, last>(codes, scales, x + r, part + r * kPanel, y + r * kPanel);
        }
    }
    for (int r = 0; r < rows; r++) {
        pass_rows<kind, 1, first, last>(codes, scales, reinterpret_cast<const RowStep*>(blocks) + at_step * rows + r, part + r * kPanel, y + r * kPanel);
    }
}

// All steps of `rows` rows whose sums stay in registers.
template <WeightKind kind, int rows>
void few_rows(const PackedWeight& weight, const char* panel, const char* block, float* tile) {
    constexpr BlockShape shape = block_shape(kind);
    const RowStep* x = reinterpret_cast<const RowStep*>(block);
    RowSums<rows> y = {};
    for (int64_t i = 0; i < weight.in_features; i += shape.inputs) {
        const Header<kind> header(panel);
        panel += shape.header_bytes;
        RowSums<rows> part = {};
        for (int s = 0; s < shape.steps(); s++, panel += shape.step_bytes(), x += rows) {
            StepCodes codes;
            decode<kind>(panel, codes);
            add_step<kind, rows>(codes, StepScales<kind>(header, s, panel), x, part);
        }
        add_span<rows>(part, x - rows, y);
    }
    store_sums<rows>(y, tile);
}

// As max_bits().
template <int n>
OCTAVO_INLINE int32_t span_bits(const float* x) {
#ifdef __AVX512F__
    __m512i most = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 16) most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), _mm512_set1_epi32(0x7fffffff)));
    return _mm512_reduce_max_epi32(most);
#else
    return max_bits(x, n);
#endif
}

// Of the first and of the last 16 codes of a step.
struct StepSums {
    int32_t part[2];
};

// As quantize_quads().
OCTAVO_INLINE StepSums quantize_step(const float* x, float inverse, StepQuad* out) {
    StepSums sums;
    for (int p = 0; p < 2; p++) {
#ifdef __AVX512VNNI__
        const __mmask16 finite = inverse != 0.0f ? 0xffff : 0;
        const __m512i codes = _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(_mm512_loadu_ps(x + 16 * p), _mm512_set1_ps(inverse)));
        _mm_storeu_si128((__m128i*)(out + 4 * p), _mm512_cvtepi32_epi8(codes));
        sums.part[p] = _mm512_reduce_add_epi32(codes);
#elif defined(OCTAVO_MADDUBS)
        i32x16 by_lane = {};
        const i8x16 codes = quantize16(load16(x + 16 * p), inverse, by_lane);
        memcpy(out + 4 * p, &codes, sizeof codes);
        sums.part[p] = 0;
        for (int i = 0; i < 16; i++) sums.part[p] += by_lane[i];
#else
        sums.part[p] = quantize_quads(x + 16 * p, 16, inverse, out + 4 * p, 1);
#endif
    }
    return sums;
}

template <WeightKind kind>
struct BlockFormat {
    static constexpr BlockShape shape = block_shape(kind);

    static int64_t block_bytes(const PackedWeight& weight, int rows) {
        return (weight.in_features / kStep * rows * (int64_t)sizeof(RowStep) + 63) / 64 * 64;
    }

    static void prepare(const PackedWeight& weight, const float* x, int64_t x_stride, int rows, char* block) {
        for (int r = 0; r < rows; r++) {
            RowStep* out = reinterpret_cast<RowStep*>(block) + r;
            for (int64_t i = 0; i < weight.in_features; i += shape.inputs) {
                const float* from = x + r * x_stride + i;
                const Quantizer q = quantizer(span_bits<shape.inputs>(from));
                for (int s = 0; s < shape.steps(); s++, out += rows) {
                    const StepSums sums = quantize_step(from + s * kStep, q.inverse, out->x);
                    const int32_t sum = sums.part[0] + sums.part[1];
                    out->correction[0] = -shape.offset * (kParts<kind> == 2 ? sums.part[0] : sum);
                    out->correction[1] = -shape.offset * sums.part[1];
                    out->scale = q.scale;
                    out->negative_sum = -(float)sum;
                }
            }
        }
    }

    static void pass(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* y, float* part) {
        const int64_t bytes = block_bytes(weight, kBlock);
        memset(y, 0, rows * kPanel * sizeof(float));
        int64_t step = 0;
        for (int64_t i = 0; i < weight.in_features; i += shape.inputs) {
            const Header<kind> header(panel);
            panel += shape.header_bytes;
            for (int s = 0; s < shape.steps(); s++, step++, panel += shape.step_bytes()) {
                if constexpr (shape.steps() == 1) pass_step<kind, true, true>(panel, header, s, step, blocks, bytes, rows, part, y);
                else if (s == 0) pass_step<kind, true, false>(panel, header, s, step, blocks, bytes, rows, part, y);
                else if (s + 1 < shape.steps()) pass_step<kind, false, false>(panel, header, s, step, blocks, bytes, rows, part, y);
                else pass_step<kind, false, true>(panel, header, s, step, blocks, bytes, rows, part, y);
            }
        }
    }

    static void multiply(const PackedWeight& weight, const char* panel, const char* blocks, int rows, float* tile, char* scratch) {
        if (rows == 1) return few_rows<kind, 1>(weight, panel, blocks, tile);
        if constexpr (kMostTogether == 4) {
            if (rows == 2) return few_rows<kind, 2>(weight, panel, blocks, tile);
            if (rows == 3) return few_rows<kind, 3>(weight, panel, blocks, tile);
            if (rows == 4) return few_rows<kind, 4>(weight, panel, blocks, tile);
        }
        const int64_t bytes = block_bytes(weight, kBlock);
        for (int first = 0; first < rows; first += kPassRows) {
            const int count = rows - first < kPassRows ? rows - first : kPassRows;
            pass(weight, panel, blocks + first / kBlock * bytes, count, tile + first * kPanel, reinterpret_cast<float*>(scratch));
        }
    }

    static int64_t scratch_bytes(const PackedWeight&, int rows) {
        return shape.steps() == 1 ? 0 : (rows < kPassRows ? rows : kPassRows) * kPanel * (int64_t)sizeof(float);
    }

    static void unpack(const PackedWeight& weight, const char* panel, int column, float* out) {
        StepCodes codes;
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(codes.lines);
        for (int64_t i = 0; i < weight.in_features; i += shape.inputs) {
            const Header<kind> header(panel);
            panel += shape.header_bytes;
            for (int s = 0; s < shape.steps(); s++, panel += shape.step_bytes(), out += kStep) {
                decode<kind>(panel, codes);
                const StepScales<kind> scales(header, s, panel);
                const int half = column / 16, lane = column % 16;
                for (int k = 0; k < kStep; k++) {
                    const int code = bytes[(k / 4 * 2 + half) * kLine + lane * 4 + k % 4];
                    const float value = scales.scales[k * kParts<kind> / kStep][half][lane] * (float)(code - shape.offset);
                    out[k] = shape.has_mins ? value - scales.mins[half][lane] : value;
                }
            }
        }
    }

    static constexpr Format format = {kBlock, block_bytes, prepare, multiply, scratch_bytes, unpack};
};

}  // namespace

const Format* block_format(WeightKind kind) {
    switch (kind) {
        case WeightKind::q8_0: return &BlockFormat<WeightKind::q8_0>::format;
        case WeightKind::q4_0: return &BlockFormat<WeightKind::q4_0>::format;
        case WeightKind::q4_1: return &BlockFormat<WeightKind::q4_1>::format;
        case WeightKind::q5_0: return &BlockFormat<WeightKind::q5_0>::format;
        case WeightKind::q5_1: return &BlockFormat<WeightKind::q5_1>::format;
        case WeightKind::q4_k: return &BlockFormat<WeightKind::q4_k>::format;
        case WeightKind::q5_k: return &BlockFormat<WeightKind::q5_k>::format;
        case WeightKind::q6_k: return &BlockFormat<WeightKind::q6_k>::format;
        case WeightKind::iq4_nl: return &BlockFormat<WeightKind::iq4_nl>::format;
        default: return nullptr;
    }
}

}  // namespace octavo::OCTAVO_LEVEL
