// The eight tile registers of a thread, and what a kernel does with them. A policy has these members; all numbers of tiles are
// constants, because instructions name their tiles:
//
//     configure(TileShapes)                 all tiles take their shapes and become zero
//     release()                             none is left for the operating system to save
//     zero<t>(), load<t>(from, stride), store<t>(to, stride)
//     dot<c, a, b>()                        c [M][N] += a [M][K][w] · b [K][N][w], w = 2 bfloat16, or 4 int8 (a) and uint8 (b)
#pragma once

#include <stdint.h>

#include "kernels/linear.h"

namespace octavo::OCTAVO_LEVEL {

constexpr int kTileRows = 16, kTileBytes = 64, kTiles = 8;

// The operand of ldtilecfg. A tile of no rows is not used.
struct TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    OCTAVO_INLINE void set(int tile, int tile_rows) {
        rows[tile] = (uint8_t)tile_rows;
        row_bytes[tile] = tile_rows ? kTileBytes : 0;
    }
};
static_assert(sizeof(TileShapes) == 64);

#ifdef __AMX_TILE__

// Assembly, because the compiler's own macros take literal numbers only.
template <WeightKind kind>
struct HardwareTiles {
    OCTAVO_INLINE void configure(const TileShapes& shapes) { __asm__ volatile("ldtilecfg %0" ::"m"(shapes)); }
    OCTAVO_INLINE void release() { __asm__ volatile("tilerelease"); }

    template <int t>
    OCTAVO_INLINE void zero() {
        __asm__ volatile("tilezero %%tmm%c0" ::"i"(t));
    }
    template <int t>
    OCTAVO_INLINE void load(const void* from, int64_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t) : "memory");
    }
    template <int t>
    OCTAVO_INLINE void store(void* to, int64_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(t) : "memory");
    }
    template <int c, int a, int b>
    OCTAVO_INLINE void dot() {
        if constexpr (kind == WeightKind::bf16) {
            __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
        } else {
            __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
        }
    }
};

#endif

}  // namespace octavo::OCTAVO_LEVEL
