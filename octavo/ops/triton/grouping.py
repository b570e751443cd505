"""Sorting, on the device, what goes to one of several weights: a counting sort, and tiles that know their weight.

`plan` brings items with the same number together, in their order, and cuts each number's run into tiles:

    items    0 1 2 3 4 5 6        numbers  2 0 2 - 0 2 2        tiles of 2
    order    1 4 | 0 2 5 6        starts   0 2 2                (0, 0) (2, 2) (2, 4)

Its grid and every size depend on shapes alone, so that a recorded step can go through it: there are as many tiles as
there could be, and those beyond `num_tiles` have nothing to do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # items that a program sorts among themselves
ALONE = 128  # items that one program sorts by itself
NUMBERS = 64  # that it looks at together


@dataclass(frozen=True, slots=True)
class Plan:
    """order [items]: items by number. ends [numbers]: where each number's run ends.

    Tile i < num_tiles [1] belongs to number tile_number[i] and begins at tile_start[i] of the order; `tiles` is how
    many there are at most. All int32. Items of a negative number are in no tile.
    """

    order: Tensor
    ends: Tensor
    tile_number: Tensor
    tile_start: Tensor
    num_tiles: Tensor
    tiles: int


def plan(numbers: Tensor, count: int, tile: int) -> Plan:
    """The plan of items with these numbers [items], each below `count`, in tiles of `tile` items."""
    numbers = numbers.reshape(-1)
    items, width = len(numbers), triton.next_power_of_2(max(count, 2))
    tiles = items // tile + min(count, items)
    alone = items <= ALONE
    block = max(16, triton.next_power_of_2(items)) if alone else BLOCK
    blocks = triton.cdiv(items, block)
    room = torch.empty(items + width + 2 * tiles + 1, dtype=torch.int32, device=numbers.device)
    order, ends, tile_number, tile_start, num_tiles = room.split((items, width, tiles, tiles, 1))
    counts = order if alone else torch.empty(blocks * width, dtype=torch.int32, device=numbers.device)
    if items == 0:
        num_tiles.zero_()
        return Plan(order, ends, tile_number, tile_start, num_tiles, tiles)
    if not alone:
        grid = (blocks, width // min(width, NUMBERS))
        _count[grid](numbers, counts, items, width, NUMBERS=min(width, NUMBERS), BLOCK=block, num_warps=4)
    _place[(blocks,)](
        numbers,
        counts,
        order,
        ends,
        tile_number,
        tile_start,
        num_tiles,
        items,
        blocks,
        width,
        NUMBERS=min(width, NUMBERS),
        ALONE=alone,
        TILE=tile,
        BLOCK=block,
        num_warps=8,
    )
    return Plan(order, ends, tile_number, tile_start, num_tiles, tiles)


@triton.jit
def _counted(number, each):
    """How often each number occurs."""
    return tl.sum((number[:, None] == each[None, :]).to(tl.int32), 0)


@triton.jit(do_not_specialize=["items"])
def _count(numbers, counts, items, width, NUMBERS: tl.constexpr, BLOCK: tl.constexpr):
    """How often some numbers occur in a block of items."""
    block = tl.program_id(0)
    each = tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    item = block * BLOCK + tl.arange(0, BLOCK)
    number = tl.load(numbers + item, mask=item < items, other=-1).to(tl.int32)
    tl.store(counts + block * width + each, _counted(number, each))


@triton.jit(do_not_specialize=["items", "blocks"])
def _place(
    numbers, counts, order, ends, tile_number, tile_start, num_tiles, items, blocks, width,
    NUMBERS: tl.constexpr, ALONE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Put a block's items where they belong: behind smaller numbers, and behind their own in earlier blocks."""
    block = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    item = block * BLOCK + lane
    number = tl.load(numbers + item, mask=item < items, other=-1).to(tl.int32)
    earlier = (number[:, None] == number[None, :]) & (lane[:, None] > lane[None, :])
    place = tl.sum(earlier.to(tl.int32), 1)
    smaller = tl.full((), 0, tl.int32)  # items of smaller numbers, and their tiles
    tiles_before = tl.full((), 0, tl.int32)
    for first in range(0, width, NUMBERS):
        each = first + tl.arange(0, NUMBERS)
        before = tl.zeros((NUMBERS,), tl.int32)
        if ALONE:
            total = _counted(number, each)
        else:
            total = tl.zeros((NUMBERS,), tl.int32)
            for other in range(blocks):
                found = tl.load(counts + other * width + each)
                before += tl.where(other < block, found, 0)
                total += found
        start = smaller + tl.cumsum(total, 0) - total
        place += tl.sum(tl.where(number[:, None] == each[None, :], (start + before)[None, :], 0), 1)
        tiles = (total + TILE - 1) // TILE
        tile = tiles_before + tl.cumsum(tiles, 0) - tiles
        if block == 0:
            tl.store(ends + each, start + total)
            for i in range(tl.max(tiles, 0)):
                tl.store(tile_number + tile + i, each, mask=i < tiles)
                tl.store(tile_start + tile + i, start + i * TILE, mask=i < tiles)
        smaller += tl.sum(total, 0)
        tiles_before += tl.sum(tiles, 0)
    tl.store(order + place, item, mask=number >= 0)
    if block == 0:
        tl.store(num_tiles, tiles_before)
