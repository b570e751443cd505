"""The tiles of paged attention for each kind of GPU, and why they are what they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton

from octavo.errors import StartupError
from octavo.platforms.cuda import FLOAT8_SINCE


@dataclass(frozen=True)
class Tile:
    """Queries × heads (`rows`) by keys of one product. `resident` programs of it fit on a multiprocessor."""

    rows: int
    keys: int
    warps: int
    stages: int
    resident: int


@dataclass(frozen=True)
class Tuning:
    """The tiles of decodes and of chunks. A context is cut into pieces of at least `narrow_piece` or `wide_piece` keys
    so that the step makes about `waves` programs for each place on the device.
    """

    narrow: Tile
    wide: Tile
    narrow_piece: int = 128
    wide_piece: int = 512
    waves: int = 2


# Shared memory: a loop of s stages holds s - 1 tiles of K and of V (s where wgmma reads them), each keys · D elements.
#
# Narrow tiles wait for memory. An H200 moves 4.3 TB/s, 33 GB/s for each multiprocessor; at about 1 µs of latency under
# load 33 KB must be on their way at any time, and several times that outlasts what happens between two loads. 64 keys
# of 128 bfloat16 with their values are 32 KB: two of them in each of three programs are 192 KB of the 227. 16 rows are
# the least a product takes; the heads that share a KV head, mostly 4 or 8, share each read.
#
# Wide tiles wait for the tensor cores: 64 rows for each group of four warps is what wgmma takes; accumulators
# [128, 128] float32 are 64 registers of each of 256 threads, scores [128, 64] another 32. For 256 channels the
# accumulators are 128 registers, so keys come 32 at a time.
#
# float32 is computed exactly, outside of the tensor cores, in tiles that fit the registers.
#
# (shared memory per program in KiB, D rounded up, bytes of an element of the cache): narrow, wide
LARGE, MEDIUM, SMALL = 227, 163, 99
TABLE: dict[tuple[int, int, int], tuple[Tile, Tile]] = {
    # sm_90 and later data center GPUs
    (LARGE, 64, 2): (Tile(16, 128, 4, 3, 3), Tile(128, 64, 8, 4, 2)),
    (LARGE, 128, 2): (Tile(16, 64, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    (LARGE, 256, 2): (Tile(16, 32, 4, 3, 3), Tile(128, 32, 8, 3, 1)),
    (LARGE, 64, 1): (Tile(16, 128, 4, 4, 3), Tile(128, 64, 8, 3, 1)),
    (LARGE, 128, 1): (Tile(16, 64, 4, 5, 3), Tile(128, 64, 8, 3, 1)),
    (LARGE, 256, 1): (Tile(16, 32, 4, 4, 3), Tile(128, 32, 8, 2, 1)),
    # sm_80
    (MEDIUM, 64, 2): (Tile(16, 128, 4, 3, 2), Tile(128, 64, 8, 3, 1)),
    (MEDIUM, 128, 2): (Tile(16, 64, 4, 3, 2), Tile(128, 32, 8, 4, 1)),
    (MEDIUM, 256, 2): (Tile(16, 32, 4, 3, 2), Tile(64, 32, 8, 2, 1)),
    # sm_86, sm_89 and other GPUs with 99 KiB
    (SMALL, 64, 2): (Tile(16, 64, 4, 3, 2), Tile(64, 64, 4, 3, 1)),
    (SMALL, 128, 2): (Tile(16, 32, 4, 3, 2), Tile(64, 32, 4, 3, 1)),
    (SMALL, 256, 2): (Tile(16, 16, 4, 3, 2), Tile(64, 16, 4, 2, 1)),
    (SMALL, 64, 1): (Tile(16, 64, 4, 3, 2), Tile(64, 64, 4, 3, 1)),
    (SMALL, 128, 1): (Tile(16, 64, 4, 3, 2), Tile(64, 32, 4, 3, 1)),
    (SMALL, 256, 1): (Tile(16, 32, 4, 3, 2), Tile(64, 16, 4, 2, 1)),
}
FLOAT32 = {
    64: (Tile(16, 32, 4, 2, 4), Tile(32, 32, 8, 2, 2)),
    128: (Tile(16, 32, 8, 2, 3), Tile(32, 16, 8, 2, 3)),
    256: (Tile(16, 32, 8, 2, 2), Tile(16, 32, 8, 2, 2)),
}
INTERPRETED = Tuning(Tile(16, 16, 1, 1, 1), Tile(32, 32, 1, 1, 1), narrow_piece=32, wide_piece=64)
MOST_SHARED = 128  # query heads of one KV head
FLOAT8 = 10 * FLOAT8_SINCE[0] + FLOAT8_SINCE[1]  # as Machine.capability


@dataclass(frozen=True)
class Machine:
    """The compute capability, major · 10 + minor, and number of multiprocessors; 0 is Triton's interpreter."""

    capability: int
    num_processors: int

    @property
    def shared_kib(self) -> int:
        """Shared memory one program may have."""
        if self.capability in (80, 87):
            return MEDIUM
        return LARGE if 90 <= self.capability < 120 else SMALL


@cache
def machine(device: torch.device) -> Machine:
    """What runs kernels on `device`; a CPU interprets them."""
    if device.type == "cpu":
        return Machine(0, 4)
    properties = torch.cuda.get_device_properties(device)
    return Machine(properties.major * 10 + properties.minor, properties.multi_processor_count)


@cache
def tuning(machine: Machine, head_dim: int, share: int, element_bytes: int) -> Tuning:
    """The tiles for heads of `head_dim` channels, `share` query heads per KV head, and a cache of such elements."""
    if machine.capability == 0:
        chosen = INTERPRETED
    else:
        wide_dim = max(64, block_dim(head_dim))
        if element_bytes == 1 and machine.capability < FLOAT8:
            raise StartupError(
                f"a KV cache of float8 needs a GPU of compute capability {FLOAT8 / 10}; this one has "
                f"{machine.capability / 10}",
                "kv_cache_dtype",
            )
        tiles = FLOAT32[wide_dim] if element_bytes == 4 else TABLE[machine.shared_kib, wide_dim, element_bytes]
        chosen = Tuning(*tiles)
    least = triton.next_power_of_2(share)
    narrow = replace(chosen.narrow, rows=max(chosen.narrow.rows, least))
    return replace(chosen, narrow=narrow, wide=replace(chosen.wide, rows=max(chosen.wide.rows, least)))


def block_dim(head_dim: int) -> int:
    """D rounded up to what a product takes."""
    return max(16, triton.next_power_of_2(head_dim))
