// Where keys and values lie in a layer's KV tensor.
//
//     tensor ─▶ [page][KV head][tile of 16 tokens] ─▶ [ keys [D / e][16 tokens][e] | values [16 / e][D][e] ]
//
// e elements fill a 32-bit word: 1 float32, 2 bfloat16, 4 int8. So 16 keys, or 16 channels of a value, are one 64-byte vector, and
// the e products of a word are what one vdpbf16ps or vpdpbusd adds up. D is padded to a multiple of 16 with zeros, the last tile of a
// page with tokens that nobody reads. int8 adds 16 float32 scales behind the keys and 16 behind the values, one per token; keys are
// stored as k + 128 (unsigned), values as they are.
//
// What no step wrote may be anything, NaN included.
#pragma once

#include "core/simd.h"
#include "kernels/attention.h"

namespace octavo::OCTAVO_LEVEL {

constexpr int kTile = 16;

template <CacheKind kind>
constexpr int kElements = kind == CacheKind::f32 ? 1 : kind == CacheKind::bf16 ? 2 : 4;

struct CacheLayout {
    const char* cache;
    int64_t half_bytes;  // keys, or values, of one tile
    int32_t channels;    // D, padded
    int32_t num_kv_heads, page_size, page_tiles;

    explicit CacheLayout(const Attention& args) {
        cache = args.cache;
        channels = (args.head_dim + 15) / 16 * 16;
        const int elements = args.kind == CacheKind::f32 ? 1 : args.kind == CacheKind::bf16 ? 2 : 4;
        half_bytes = (int64_t)channels * kTile * 4 / elements + (args.kind == CacheKind::int8 ? kTile * 4 : 0);
        num_kv_heads = args.num_kv_heads;
        page_size = args.page_size;
        page_tiles = (page_size + kTile - 1) / kTile;
    }
    // A logical tile of 16 positions is a tile of the cache.
    bool aligned() const { return page_size % kTile == 0; }
    int64_t page_bytes() const { return num_kv_heads * page_tiles * 2 * half_bytes; }
    const char* tile(int64_t page, int head, int64_t offset) const {
        return cache + page * page_bytes() + (head * page_tiles + offset / kTile) * 2 * half_bytes;
    }
};

inline float largest_magnitude(const float* x, int channels) {
    f32x16 most = {};
    for (int d = 0; d < channels; d += 16) {
        const f32x16 v = load16(x + d);
        most = max16(most, max16(v, -v));
    }
    return max_lane(most);
}

// Eight bits of x / scale, |x| <= 127 scale; NaN becomes 0.
inline int32_t quantize(float x, float inverse) {
    const float scaled = x * inverse;
    return (int32_t)__builtin_rintf(scaled > -127.0f ? (scaled < 127.0f ? scaled : 127.0f) : -127.0f);
}

// Stores key and value [channels] as token `lane` of a tile. No other byte is touched: a neighbor's may be written at the same time.
template <CacheKind kind>
inline void write_token(char* tile, int64_t half_bytes, int lane, const float* key, const float* value, int channels) {
    char* values = tile + half_bytes;
    if constexpr (kind == CacheKind::f32) {
        float* k = reinterpret_cast<float*>(tile) + lane;
        for (int d = 0; d < channels; d++) k[d * kTile] = key[d];
        memcpy(values + lane * channels * sizeof(float), value, channels * sizeof(float));
    } else if constexpr (kind == CacheKind::bf16) {
        uint32_t* k = reinterpret_cast<uint32_t*>(tile) + lane;
        for (int d = 0; d < channels; d += 2) k[d / 2 * kTile] = to_bf16(key[d]) | (uint32_t)to_bf16(key[d + 1]) << 16;
        uint16_t* v = reinterpret_cast<uint16_t*>(values) + lane / 2 * 2 * channels + lane % 2;
        for (int d = 0; d < channels; d++) v[2 * d] = to_bf16(value[d]);
    } else {
        const float key_most = largest_magnitude(key, channels), value_most = largest_magnitude(value, channels);
        const float key_inverse = key_most > 0 ? 127.0f / key_most : 0.0f, value_inverse = value_most > 0 ? 127.0f / value_most : 0.0f;
        uint8_t* k = reinterpret_cast<uint8_t*>(tile) + lane * 4;
        for (int d = 0; d < channels; d++) k[d / 4 * kTile * 4 + d % 4] = (uint8_t)(quantize(key[d], key_inverse) + 128);
        int8_t* v = reinterpret_cast<int8_t*>(values) + lane / 4 * 4 * channels + lane % 4;
        for (int d = 0; d < channels; d++) v[4 * d] = (int8_t)quantize(value[d], value_inverse);
        reinterpret_cast<float*>(values)[lane - kTile] = key_most / 127.0f;
        reinterpret_cast<float*>(values + half_bytes)[lane - kTile] = value_most / 127.0f;
    }
}

// One token of a tile becomes token `to` of another.
template <CacheKind kind>
inline void copy_token(char* to_tile, int to, const char* from_tile, int from, int64_t half_bytes, int channels) {
    constexpr int e = kElements<kind>, size = 4 / e;
    for (int w = 0; w < channels / e; w++) memcpy(to_tile + (w * kTile + to) * 4, from_tile + (w * kTile + from) * 4, 4);
    char* to_value = to_tile + half_bytes + (to / e * channels * e + to % e) * size;
    const char* from_value = from_tile + half_bytes + (from / e * channels * e + from % e) * size;
    for (int d = 0; d < channels; d++) memcpy(to_value + d * 4, from_value + d * 4, size);
    if constexpr (kind == CacheKind::int8) {
        memcpy(to_tile + half_bytes + (to - kTile) * 4, from_tile + half_bytes + (from - kTile) * 4, 4);
        memcpy(to_tile + 2 * half_bytes + (to - kTile) * 4, from_tile + 2 * half_bytes + (from - kTile) * 4, 4);
    }
}

// Values of a tile with those of tokens outside [first, last) set to zero, because 0 · NaN is not 0.
template <CacheKind kind>
inline void copy_values(char* to, const char* from, int first, int last, int64_t half_bytes, int channels) {
    constexpr int e = kElements<kind>;
    memcpy(to, from, half_bytes);
    for (int token = 0; token < kTile; token++) {
        if (token >= first && token < last) continue;
        char* value = to + (token / e * channels * e + token % e) * (4 / e);
        for (int d = 0; d < channels; d++) memset(value + d * 4, 0, 4 / e);
    }
}

}  // namespace octavo::OCTAVO_LEVEL
