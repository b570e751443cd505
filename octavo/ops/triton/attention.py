"""Paged attention of a step that mixes prompt chunks and decodes: planned on the device, split along the context, merged.

Three kernels. `plan` cuts the step into *items*, once per step and cache group; `attend` runs one program per item and KV
head; `merge` adds up the rows that were cut along their context. What `plan` writes are values in device memory, so that
no launch depends on a length: the grids follow from T, S and the number of multiprocessors alone, and a recorded graph
serves any lengths.

An item is a piece of the context of a tile of queries. A tile is a few consecutive tokens of one row, with all the query
heads that read one KV head packed beside them into the M of the products (token-major):

    row s, tokens ──▶ ├── tile 0 ──┼── tile 1 ──┼─ tile 2 ─┤        wide tiles for chunks, narrow ones for decodes
    tile 1 sees keys  ├ piece 0 ┼ piece 1 ┼ piece 2 ┤               whole blocks of BLOCK_N keys, counted from position 0

A row whose pieces are several gets *lines* in scratch memory, one per piece and token: accumulator [N, D] float32, running
maximum (base 2) and sum. `merge` reads a token's lines in the order of the context. Nothing is added atomically.

Scores are kept in base 2: log2(e) is part of the scale, and exp2 is what the hardware has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = 1.4426950408889634
ITEM_FIELDS = 8  # kind, first token, tokens, position of the first, row, first block, end block, first line (-1: whole)
LINE_FIELDS = 3  # first line of a token, distance to its next, how many; none when the token is computed whole
NARROW, WIDE = 1, 2


@dataclass(frozen=True)
class Tile:
    """Queries × heads (`rows`) by keys of one product, and how it is run. `resident`: programs a multiprocessor holds."""

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
    narrow_piece: int = 256
    wide_piece: int = 512
    waves: int = 2


# Bytes below are of shared memory: a pipeline of s stages holds s - 1 tiles of K and of V, 2 · keys · D · element each,
# plus the queries where the products read them from there (wide tiles on sm_90).
#
# Narrow tiles wait for memory. An H200 moves 4.3 TB/s = 33 GB/s per multiprocessor; with about 1 µs of latency under load
# 33 KB must be in flight on each, and twice that hides the barriers between the two products. 64 keys of D = 128 bfloat16
# are 32 KB with their values: two such buffers per program and three programs per multiprocessor are 192 KB of its 227.
# 16 rows are the least a product takes; the heads of one KV head (4 or 8 as a rule) share each key that is read.
#
# Wide tiles wait for the tensor cores: 128 rows are one wgmma of 64 per group of four warps, accumulators of [128, 128]
# float32 are 64 registers of each of 256 threads, scores [128, 64] another 32, and K and V are read once per 128 rows.
# 16-bit D = 256 needs twice the accumulators: 128 registers, so the keys come 32 at a time.
#
# float32 is computed exactly, on the ordinary arithmetic units, in tiles that fit their registers.
#
# (shared memory per program in KiB, D rounded up, bytes of an element of the cache): narrow, wide
LARGE, MEDIUM, SMALL = 227, 163, 99
TABLE: dict[tuple[int, int, int], tuple[Tile, Tile]] = {
    # sm_90 and later data center GPUs
    (LARGE, 64, 2): (Tile(16, 128, 4, 3, 3), Tile(128, 128, 8, 3, 1)),
    (LARGE, 128, 2): (Tile(16, 64, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    (LARGE, 256, 2): (Tile(16, 32, 4, 3, 3), Tile(128, 32, 8, 3, 1)),
    (LARGE, 64, 1): (Tile(16, 128, 4, 4, 3), Tile(128, 64, 8, 3, 1)),
    (LARGE, 128, 1): (Tile(16, 128, 4, 3, 3), Tile(128, 64, 8, 3, 1)),
    (LARGE, 256, 1): (Tile(16, 64, 4, 3, 3), Tile(128, 32, 8, 3, 1)),
    # sm_80
    (MEDIUM, 64, 2): (Tile(16, 128, 4, 3, 2), Tile(128, 64, 8, 3, 1)),
    (MEDIUM, 128, 2): (Tile(16, 64, 4, 3, 2), Tile(128, 64, 8, 3, 1)),
    (MEDIUM, 256, 2): (Tile(16, 32, 4, 3, 2), Tile(64, 32, 8, 2, 1)),
    # sm_86, sm_89 and other GPUs with 99 KiB
    (SMALL, 64, 2): (Tile(16, 64, 4, 3, 2), Tile(64, 64, 4, 3, 1)),
    (SMALL, 128, 2): (Tile(16, 32, 4, 3, 2), Tile(64, 32, 4, 3, 1)),
    (SMALL, 256, 2): (Tile(16, 16, 4, 3, 2), Tile(64, 16, 4, 2, 1)),
    (SMALL, 64, 1): (Tile(16, 64, 4, 3, 2), Tile(64, 64, 4, 3, 1)),
    (SMALL, 128, 1): (Tile(16, 64, 4, 3, 2), Tile(64, 32, 4, 3, 1)),
    (SMALL, 256, 1): (Tile(16, 32, 4, 3, 2), Tile(64, 16, 4, 2, 1)),
}
FLOAT32 = {64: (Tile(16, 32, 4, 2, 2), Tile(32, 32, 4, 2, 2)), 128: (Tile(16, 32, 4, 2, 2), Tile(32, 32, 4, 2, 1))}
FLOAT32_LARGEST = (Tile(16, 16, 4, 2, 1), Tile(16, 16, 4, 2, 1))
INTERPRETED = Tuning(Tile(16, 16, 1, 1, 1), Tile(32, 32, 1, 1, 1), narrow_piece=32, wide_piece=64)
MOST_SHARED = 128  # query heads of one KV head
FIXED_PIECE = 1024  # positions of a piece when results may not depend on the batch, doubled until a row has at most
FIXED_PIECES = 16
MERGES = 8192  # programs of a merge that find nothing to do, but for two of them, cost about 4 µs


@dataclass(frozen=True)
class Machine:
    """The GPU's compute capability, major · 10 + minor, and its multiprocessors; capability 0 is Triton's interpreter."""

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
        if element_bytes == 4:
            tiles = FLOAT32.get(wide_dim, FLOAT32_LARGEST)
        else:
            tiles = TABLE[machine.shared_kib, wide_dim, element_bytes]
        chosen = Tuning(*tiles)
    least = triton.next_power_of_2(share)
    narrow = replace(chosen.narrow, rows=max(chosen.narrow.rows, least))
    return replace(chosen, narrow=narrow, wide=replace(chosen.wide, rows=max(chosen.wide.rows, least)))


def block_dim(head_dim: int) -> int:
    """D rounded up to what a product takes."""
    return max(16, triton.next_power_of_2(head_dim))


@triton.jit
def row_work(row, starts, lengths, num_rows, num_tokens, narrow_limit, NARROW_QUERIES, WIDE_QUERIES, WINDOW):
    """First token, tokens, length, kind, tiles and the most keys a tile sees, of rows `row`.

    Tokens behind the last row are a row without a context, so that their results are zero instead of left over.
    """
    start = tl.load(starts + row, mask=row <= num_rows, other=0)
    stop = tl.load(starts + row + 1, mask=row < num_rows, other=0)
    stop = tl.where(row < num_rows, stop, num_tokens)
    count = tl.where(row <= num_rows, stop - start, 0)
    length = tl.load(lengths + row, mask=row < num_rows, other=0)
    is_wide = count > narrow_limit
    queries = tl.where(is_wide, WIDE_QUERIES, NARROW_QUERIES)
    tiles = (count + queries - 1) // queries
    span = length
    if WINDOW > 0:
        span = tl.minimum(length, tl.minimum(count, queries) + (WINDOW - 1))
    return start, count, length, is_wide, queries, tiles, span


@triton.jit
def row_pieces(count, length, is_wide, span, chunk, WINDOW, FIXED, MOST):
    """Pieces of each tile of a row; with FIXED also how many keys a piece has, and the number of the first.

    With FIXED both follow from the row alone: pieces of FIXED positions counted from 0, doubled until the row has at most
    MOST, and wide rows whole.
    """
    size = length * 0 + chunk
    first = length * 0
    if FIXED > 0:
        size = length * 0 + FIXED
        for _ in tl.static_range(20):
            size = tl.where(length > size * MOST, size * 2, size)
        if WINDOW > 0:
            first = tl.maximum(length - count - (WINDOW - 1), 0) // size
        pieces = tl.where(is_wide, 1, (length + size - 1) // size - first)
    else:
        pieces = (span + size - 1) // size
    return tl.maximum(pieces, 1), size, first


@triton.jit(do_not_specialize=["num_rows", "num_tokens", "num_items", "narrow_limit", "target"])
def plan_kernel(
    starts,
    lengths,
    items,
    lines,
    num_rows,
    num_tokens,
    num_items,
    narrow_limit,
    target,
    NARROW_QUERIES: tl.constexpr,
    WIDE_QUERIES: tl.constexpr,
    NARROW_KEYS: tl.constexpr,
    WIDE_KEYS: tl.constexpr,
    NARROW_PIECE: tl.constexpr,
    WIDE_PIECE: tl.constexpr,
    WINDOW: tl.constexpr,
    FIXED: tl.constexpr,
    MOST: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Items and lines number program · SPAN to (program + 1) · SPAN - 1; every program counts all rows.

    starts [S + 1], lengths [S] -> items [num_items, 8], lines [T, 3], all int32.
    """
    keys_in_all = tl.full((), 0, tl.int64)
    any_wide = tl.full((), 0, tl.int32)
    for base in range(0, num_rows + 1, ROWS):
        row = base + tl.arange(0, ROWS)
        _, _, _, is_wide, _, tiles, span = row_work(
            row, starts, lengths, num_rows, num_tokens, narrow_limit, NARROW_QUERIES, WIDE_QUERIES, WINDOW
        )
        keys_in_all += tl.sum(tiles.to(tl.int64) * span.to(tl.int64), 0)
        any_wide = tl.maximum(any_wide, tl.max(tl.where(is_wide & (span > 0), 1, 0), 0))
    least = tl.where(any_wide > 0, WIDE_PIECE, NARROW_PIECE)
    chunk = tl.maximum((keys_in_all + target - 1) // target, least.to(tl.int64)).to(tl.int32)

    mine = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    item_row = tl.full((SPAN,), 0, tl.int32)
    items_before = tl.full((SPAN,), 0, tl.int32)
    item_line = tl.full((SPAN,), 0, tl.int32)
    token_row = tl.full((SPAN,), 0, tl.int32)
    token_line = tl.full((SPAN,), 0, tl.int32)
    items_so_far = tl.full((), 0, tl.int32)
    for base in range(0, num_rows + 1, ROWS):
        row = base + tl.arange(0, ROWS)
        start, count, length, is_wide, _, tiles, span = row_work(
            row, starts, lengths, num_rows, num_tokens, narrow_limit, NARROW_QUERIES, WIDE_QUERIES, WINDOW
        )
        pieces, _, _ = row_pieces(count, length, is_wide, span, chunk, WINDOW, FIXED, MOST)
        row_items = tiles * pieces
        row_lines = tl.where(pieces > 1, count * pieces, 0)
        ends = items_so_far + tl.cumsum(row_items, 0)
        is_before = ends[None, :] <= mine[:, None]
        item_row += tl.sum(tl.where(is_before, 1, 0), 1)
        items_before += tl.sum(tl.where(is_before, row_items[None, :], 0), 1)
        item_line += tl.sum(tl.where(is_before, row_lines[None, :], 0), 1)
        is_before = ((start + count)[None, :] <= mine[:, None]) & (row[None, :] <= num_rows)
        token_row += tl.sum(tl.where(is_before, 1, 0), 1)
        token_line += tl.sum(tl.where(is_before, row_lines[None, :], 0), 1)
        items_so_far += tl.sum(row_items, 0)

    # Rows behind the last, and so items behind the last, have no tokens.
    start, count, length, is_wide, queries, tiles, span = row_work(
        item_row, starts, lengths, num_rows, num_tokens, narrow_limit, NARROW_QUERIES, WIDE_QUERIES, WINDOW
    )
    pieces, size, first_piece = row_pieces(count, length, is_wide, span, chunk, WINDOW, FIXED, MOST)
    is_item = mine < items_so_far
    tile = (mine - items_before) // pieces
    piece = (mine - items_before) % pieces
    tokens = tl.where(is_item, tl.minimum(queries, count - tile * queries), 0)
    position = length - count + tile * queries
    keys = tl.where(is_wide, WIDE_KEYS, NARROW_KEYS)
    first_block = position * 0
    if WINDOW > 0:
        first_block = tl.maximum(position - (WINDOW - 1), 0) // keys
    end_block = tl.maximum((tl.maximum(position + tokens, 0) + keys - 1) // keys, first_block)
    if FIXED > 0:
        per_piece = size // keys
        begin = tl.where(is_wide, first_block, tl.maximum(first_block, (first_piece + piece) * per_piece))
        end = tl.where(is_wide, end_block, tl.minimum(end_block, (first_piece + piece + 1) * per_piece))
    else:
        blocks = end_block - first_block
        begin = first_block + blocks * piece // pieces
        end = first_block + blocks * (piece + 1) // pieces
    end = tl.maximum(begin, end)
    line = tl.where(pieces > 1, item_line + piece * count + tile * queries, -1)
    # Last first: the rows that compute most stand last in a step, and a chunk's last tile sees most.
    place = items + tl.where(is_item, items_so_far - 1 - mine, mine) * 8
    is_mine = mine < num_items
    tl.store(place, tl.where(is_wide, 2, 1), mask=is_mine)
    tl.store(place + 1, start + tile * queries, mask=is_mine)
    tl.store(place + 2, tokens, mask=is_mine)
    tl.store(place + 3, position, mask=is_mine)
    tl.store(place + 4, item_row, mask=is_mine)
    tl.store(place + 5, begin, mask=is_mine)
    tl.store(place + 6, end, mask=is_mine)
    tl.store(place + 7, line, mask=is_mine)

    start, count, length, is_wide, queries, tiles, span = row_work(
        token_row, starts, lengths, num_rows, num_tokens, narrow_limit, NARROW_QUERIES, WIDE_QUERIES, WINDOW
    )
    pieces, _, _ = row_pieces(count, length, is_wide, span, chunk, WINDOW, FIXED, MOST)
    place = lines + mine * 3
    is_mine = mine < num_tokens
    tl.store(place, token_line + mine - start, mask=is_mine)
    tl.store(place + 1, count, mask=is_mine)
    tl.store(place + 2, tl.where(pieces > 1, pieces, 0), mask=is_mine)


@triton.jit
def slots_of(table, block, end, KEYS: tl.constexpr, PAGE: tl.constexpr):
    """Slots [KEYS] int64 of the block's keys, or one slot, the first, where a page holds whole blocks.

    Positions from `end` on get whatever page 0 holds: they are not to be read.
    """
    if PAGE % KEYS == 0:
        page = tl.load(table + (block * KEYS) // PAGE, mask=block * KEYS < end, other=0)
        return page.to(tl.int64) * PAGE + (block * KEYS) % PAGE
    else:
        key = block * KEYS + tl.arange(0, KEYS)
        page = tl.load(table + key // PAGE, mask=key < end, other=0)
        return page.to(tl.int64) * PAGE + key % PAGE


@triton.jit
def attend_blocks(
    q,
    acc,
    maximum,
    total,
    keys,
    values,
    table,
    position,
    begin,
    skip,
    skip_to,
    end,
    oldest,
    newest,
    factor,
    cap,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SLOT: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    MASKED: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Go over blocks begin:skip and skip_to:end. MASKED: some query does not see some key, and keys outside of
    oldest:newest are not read; else every query sees every key.
    """
    n = tl.arange(0, KEYS)
    d = tl.arange(0, BLOCK_D)
    head = skip - begin
    block = tl.where(head > 0, begin, skip_to)
    slot = slots_of(table, block, newest, KEYS, PAGE)
    for i in range(0, head + end - skip_to):
        key = block * KEYS + n
        if PAGE % KEYS == 0:
            offset = ((slot + n) * SLOT)[:, None] + d[None, :]
        else:
            offset = (slot * SLOT)[:, None] + d[None, :]
        # The next block's pages are asked for now: their answer must not stand between this iteration and its loads.
        following = tl.where(i + 1 < head, begin + i + 1, skip_to + i + 1 - head)
        next_slot = slots_of(table, following, newest, KEYS, PAGE)
        if MASKED:
            is_read = ((key >= oldest) & (key < newest))[:, None] & (d < D)[None, :]
            k = tl.load(keys + offset, mask=is_read, other=0.0)
            v = tl.load(values + offset, mask=is_read, other=0.0)
        elif D != BLOCK_D:
            is_read = (d < D)[None, :] & (n >= 0)[:, None]
            k = tl.load(keys + offset, mask=is_read, other=0.0)
            v = tl.load(values + offset, mask=is_read, other=0.0)
        else:
            k = tl.load(keys + offset)
            v = tl.load(values + offset)
        score = tl.dot(q, tl.trans(k.to(DOT)), input_precision=PRECISION)
        if CAPPED:
            # c · tanh(x) = c - 2c / (e^2x + 1)
            score = cap - 2.0 * cap / (tl.exp2(score * factor) + 1.0)
        if MASKED:
            is_seen = key[None, :] <= position[:, None]
            if WINDOW > 0:
                is_seen = is_seen & (key[None, :] > position[:, None] - WINDOW)
            score = tl.where(is_seen, score, float("-inf"))
        if CAPPED:
            highest = tl.maximum(maximum, tl.max(score, 1))
        else:
            highest = tl.maximum(maximum, tl.max(score, 1) * factor)
        anchor = highest
        if MASKED:
            anchor = tl.where(highest == float("-inf"), 0.0, highest)
        if CAPPED:
            weight = tl.exp2(score - anchor[:, None])
        else:
            weight = tl.exp2(score * factor - anchor[:, None])
        shrink = tl.exp2(maximum - anchor)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(DOT), v.to(DOT), acc * shrink[:, None], input_precision=PRECISION)
        maximum = highest
        slot = next_slot
        block = following
    return acc, maximum, total


@triton.jit
def attend_item(
    item,
    q,
    keys,
    values,
    tables,
    out,
    partial,
    state,
    scales,
    sinks,
    factor,
    cap,
    kv_head,
    q_stride,
    table_stride,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SHARE: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SLOT: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SCALED: tl.constexpr,
    SINKS: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One item of one KV head: the result of its tokens, or their lines."""
    token = tl.load(item + 1)
    count = tl.load(item + 2)
    first = tl.load(item + 3)
    row = tl.load(item + 4)
    begin = tl.load(item + 5)
    end = tl.load(item + 6)
    line = tl.load(item + 7)

    m = tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    query = m // SHARE
    head = kv_head * SHARE + m % SHARE
    is_live = query < count
    position = first + query
    at = (token + query).to(tl.int64)
    is_element = is_live[:, None] & (d < D)[None, :]
    q_tile = tl.load(q + (at * q_stride + head * D)[:, None] + d[None, :], mask=is_element, other=0.0).to(DOT)
    if SCALED:
        # A cache of scaled numbers: the keys' scale goes into the scores, the values' into the result.
        factor = factor * tl.load(scales + kv_head)
    acc = tl.full((ROWS, BLOCK_D), 0.0, tl.float32)
    maximum = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.full((ROWS,), 0.0, tl.float32)

    newest = first + count  # exclusive
    oldest = newest * 0
    low = begin
    if WINDOW > 0:
        oldest = tl.maximum(first - (WINDOW - 1), 0)
        # Blocks from here on are within the window of the last query, and so of all.
        low = tl.minimum(tl.maximum((tl.maximum(newest - WINDOW, 0) + KEYS - 1) // KEYS, begin), end)
    high = tl.minimum(tl.maximum((first + 1) // KEYS, low), end)
    table = tables + row.to(tl.int64) * table_stride
    keys = keys + kv_head * D
    values = values + kv_head * D
    if ROWS > 16:
        acc, maximum, total = attend_blocks(
            q_tile, acc, maximum, total, keys, values, table, position, low, low, low, high, oldest, newest, factor, cap,
            KEYS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, False, DOT, PRECISION,
        )  # fmt: skip
        acc, maximum, total = attend_blocks(
            q_tile, acc, maximum, total, keys, values, table, position, begin, low, high, end, oldest, newest, factor, cap,
            KEYS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, True, DOT, PRECISION,
        )  # fmt: skip
    else:
        # Masks cost nothing where the memory is waited for, and one loop fills its pipeline once.
        acc, maximum, total = attend_blocks(
            q_tile, acc, maximum, total, keys, values, table, position, begin, begin, begin, end, oldest, newest, factor,
            cap, KEYS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, True, DOT, PRECISION,
        )  # fmt: skip

    if line < 0:
        if SINKS:
            sink = tl.load(sinks + head, mask=is_live, other=0.0) * 1.4426950408889634
            highest = tl.maximum(maximum, sink)
            shrink = tl.exp2(maximum - highest)
            acc = acc * shrink[:, None]
            total = total * shrink + tl.exp2(sink - highest)
        result = acc / tl.where(total > 0.0, total, 1.0)[:, None]
        if SCALED:
            result = result * tl.load(scales + SLOT // D + kv_head)
        place = out + (at * (HEADS * D) + head * D)[:, None] + d[None, :]
        tl.store(place, result.to(out.dtype.element_ty), mask=is_element)
    else:
        number = (line + query).to(tl.int64) * HEADS + head
        tl.store(partial + (number * D)[:, None] + d[None, :], acc, mask=is_element)
        tl.store(state + number * 2, maximum, mask=is_live)
        tl.store(state + number * 2 + 1, total, mask=is_live)


@triton.jit(do_not_specialize=["table_stride"])
def attend_kernel(
    q,
    keys,
    values,
    tables,
    items,
    out,
    partial,
    state,
    scales,
    sinks,
    factor,
    cap,
    q_stride,
    table_stride,
    NARROW_ROWS: tl.constexpr,
    NARROW_KEYS: tl.constexpr,
    WIDE_ROWS: tl.constexpr,
    WIDE_KEYS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SHARE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SCALED: tl.constexpr,
    SINKS: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program i: item i // K of KV head i % K, so that heads that stand side by side in memory are read together.

    A kind of 0 rows is not computed by this launch. Shapes as in `attend`.
    """
    program = tl.program_id(0)
    item = items + (program // KV_HEADS) * 8
    kv_head = program % KV_HEADS
    kind = tl.load(item)
    if tl.load(item + 2) == 0:
        return
    HEADS: tl.constexpr = KV_HEADS * SHARE
    SLOT: tl.constexpr = KV_HEADS * D
    if NARROW_ROWS > 0:
        if kind == 1:
            attend_item(
                item, q, keys, values, tables, out, partial, state, scales, sinks, factor, cap, kv_head, q_stride,
                table_stride, NARROW_ROWS, NARROW_KEYS, SHARE, HEADS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, SCALED,
                SINKS, DOT, PRECISION,
            )  # fmt: skip
    if WIDE_ROWS > 0:
        if kind == 2:
            attend_item(
                item, q, keys, values, tables, out, partial, state, scales, sinks, factor, cap, kv_head, q_stride,
                table_stride, WIDE_ROWS, WIDE_KEYS, SHARE, HEADS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, SCALED,
                SINKS, DOT, PRECISION,
            )  # fmt: skip


@triton.jit(do_not_specialize=["heads_each"])
def merge_kernel(
    lines,
    partial,
    state,
    out,
    scales,
    sinks,
    heads_each,
    HEADS: tl.constexpr,
    SHARE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SCALED: tl.constexpr,
    SINKS: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Program (t, i): heads i · heads_each and on of token t, from its lines in order, PIECES at a time."""
    token = tl.program_id(0)
    place = lines + token * 3
    first = tl.load(place)
    stride = tl.load(place + 1)
    count = tl.load(place + 2)
    if count == 0:
        return
    d = tl.arange(0, BLOCK_D)
    piece = tl.arange(0, PIECES)
    begin = tl.program_id(1) * heads_each
    for head in range(begin, tl.minimum(begin + heads_each, HEADS)):
        maximum = tl.full((), float("-inf"), tl.float32)
        for base in range(0, count, PIECES):
            number = (first + (base + piece) * stride).to(tl.int64) * HEADS + head
            found = tl.load(state + number * 2, mask=base + piece < count, other=float("-inf"))
            maximum = tl.maximum(maximum, tl.max(found, 0))
        if SINKS:
            sink = tl.load(sinks + head) * 1.4426950408889634
            maximum = tl.maximum(maximum, sink)
        anchor = tl.where(maximum == float("-inf"), 0.0, maximum)
        acc = tl.full((BLOCK_D,), 0.0, tl.float32)
        total = tl.full((), 0.0, tl.float32)
        if SINKS:
            total += tl.exp2(sink - anchor)
        for base in range(0, count, PIECES):
            is_piece = base + piece < count
            number = (first + (base + piece) * stride).to(tl.int64) * HEADS + head
            found = tl.load(state + number * 2, mask=is_piece, other=float("-inf"))
            sums = tl.load(state + number * 2 + 1, mask=is_piece, other=0.0)
            is_element = is_piece[:, None] & (d < D)[None, :]
            rows = tl.load(partial + (number * D)[:, None] + d[None, :], mask=is_element, other=0.0)
            weight = tl.exp2(found - anchor)
            total += tl.sum(weight * sums, 0)
            acc += tl.sum(weight[:, None] * rows, 0)
        result = acc / tl.where(total > 0.0, total, 1.0)
        if SCALED:
            result = result * tl.load(scales + HEADS // SHARE + head // SHARE)
        tl.store(out + (token.to(tl.int64) * HEADS + head) * D + d, result.to(out.dtype.element_ty), mask=d < D)


@dataclass(frozen=True)
class Heads:
    """K KV heads that `share` query heads each read, of D channels."""

    num_kv_heads: int
    share: int
    head_dim: int

    @property
    def num_heads(self) -> int:
        """N."""
        return self.num_kv_heads * self.share


@dataclass(frozen=True)
class Rows:
    """The rows of a step: starts [S + 1] and lengths [S] int32 on the device, T tokens, a table of `max_length` positions.

    `host` are the same starts and lengths on the host, None where they will differ from step to step (a recorded one).
    `is_narrow` says that hardly any row has more tokens than a narrow tile, so that none is made wide.
    """

    starts: Tensor
    lengths: Tensor
    num_tokens: int
    max_length: int
    host: tuple[list[int], list[int]] | None
    is_narrow: bool


@dataclass(frozen=True)
class Work:
    """A step cut into items (see above): items [I, 8], lines [T, 3] int32; partial [lines, N, D] and state [lines, N, 2]
    float32, written by each layer anew; `launches` are the kinds of items of each launch; `is_cut` if there may be lines.
    """

    items: Tensor
    lines: Tensor
    partial: Tensor
    state: Tensor
    launches: tuple[int, ...]
    is_cut: bool


@dataclass(frozen=True)
class Cut:
    """How a step is cut. `fixed`: pieces begin at fixed positions, so that a row's result does not depend on the others.

    `target` is how many items the pieces are to make. Limits are on what `plan_kernel` finds on the device.
    """

    tuning: Tuning
    heads: Heads
    window: int | None
    fixed: bool
    target: int

    @property
    def narrow_queries(self) -> int:
        """Tokens of a narrow tile."""
        return self.tuning.narrow.rows // self.heads.share

    @property
    def wide_queries(self) -> int:
        """Tokens of a wide tile."""
        return self.tuning.wide.rows // self.heads.share

    def limits(self, rows: Rows) -> tuple[int, int]:
        """The most items and lines that a step of as many rows and tokens can have.

        A tile has at least one token, and each row at most one that is not full; the tokens behind the last row are
        one more. Pieces of at least keys / target keys add at most `target` items; those of rows in several pieces
        are fewer than twice that, and have at most a tile's tokens each.
        """
        num_rows = rows.starts.shape[0] - 1
        queries = self.narrow_queries if rows.is_narrow else self.wide_queries
        tiles = min(rows.num_tokens, rows.num_tokens // queries + num_rows + 1)
        if not self.fixed:
            return tiles + self.target, min(rows.num_tokens, queries) * 2 * self.target
        pieces = min(FIXED_PIECES, -(-rows.max_length // FIXED_PIECE))
        if pieces == 1:
            return tiles, 0
        narrow = rows.num_tokens if rows.is_narrow else min(rows.num_tokens, num_rows * self.narrow_queries)
        return tiles * pieces, narrow * pieces

    def count(self, rows: Rows) -> tuple[int, int]:
        """Exactly how many items and lines the plan of a step has whose rows the host knows."""
        assert rows.host is not None
        starts, lengths = rows.host
        limit = rows.num_tokens if rows.is_narrow else self.narrow_queries
        made: list[tuple[int, int, int, int, bool]] = []
        keys = 0
        for start, stop, length in zip(starts, starts[1:], lengths, strict=False):
            count = stop - start
            is_wide = count > limit
            queries = self.wide_queries if is_wide else self.narrow_queries
            span = length if self.window is None else min(length, self.window - 1 + min(count, queries))
            tiles = -(-count // queries)
            keys += tiles * span
            made.append((count, length, tiles, span, is_wide))
        is_any_wide = any(is_wide and span > 0 for _, _, _, span, is_wide in made)
        least = self.tuning.wide_piece if is_any_wide else self.tuning.narrow_piece
        chunk = max(-(-keys // self.target), least)
        items, lines = 0, 0
        for count, length, tiles, span, is_wide in made:
            pieces = max(1, -(-span // chunk))
            if self.fixed:
                pieces = 1 if is_wide else self._fixed_pieces(count, length)
            items += tiles * pieces
            lines += count * pieces if pieces > 1 else 0
        tail = rows.num_tokens - starts[len(lengths)]
        queries = self.wide_queries if tail > limit else self.narrow_queries
        return items + -(-tail // queries), lines

    def _fixed_pieces(self, count: int, length: int) -> int:
        size = FIXED_PIECE
        while length > size * FIXED_PIECES:
            size *= 2
        first = 0 if self.window is None else max(length - count - self.window + 1, 0) // size
        return max(1, -(-length // size) - first)


def cut_for(machine: Machine, tuned: Tuning, rows: Rows, heads: Heads, window: int | None, fixed: bool) -> Cut:
    """How to cut a step for this machine."""
    tile = tuned.narrow if rows.is_narrow else tuned.wide
    places = machine.num_processors * tile.resident * tuned.waves
    return Cut(tuned, heads, window, fixed, max(1, places // heads.num_kv_heads))


def plan(rows: Rows, cut: Cut) -> Work:
    """Cut a step, on the device. What is allocated and launched follows from the shapes, and from `rows.host` if given."""
    device, tuned, heads = rows.starts.device, cut.tuning, cut.heads
    num_items, num_lines = cut.limits(rows) if rows.host is None else cut.count(rows)
    items = torch.empty(num_items, ITEM_FIELDS, dtype=torch.int32, device=device)
    lines = torch.empty(rows.num_tokens, LINE_FIELDS, dtype=torch.int32, device=device)
    span = 64
    plan_kernel[(triton.cdiv(max(num_items, rows.num_tokens), span),)](
        rows.starts,
        rows.lengths,
        items,
        lines,
        rows.starts.shape[0] - 1,
        rows.num_tokens,
        num_items,
        rows.num_tokens if rows.is_narrow else cut.narrow_queries,
        cut.target,
        NARROW_QUERIES=cut.narrow_queries,
        WIDE_QUERIES=cut.wide_queries,
        NARROW_KEYS=tuned.narrow.keys,
        WIDE_KEYS=tuned.wide.keys,
        NARROW_PIECE=tuned.narrow_piece,
        WIDE_PIECE=tuned.wide_piece,
        WINDOW=cut.window or 0,
        FIXED=FIXED_PIECE if cut.fixed else 0,
        MOST=FIXED_PIECES,
        ROWS=64,
        SPAN=span,
        num_warps=4,
    )
    made = max(1, num_lines)
    partial = torch.empty(made, heads.num_heads, heads.head_dim, dtype=torch.float32, device=device)
    state = torch.empty(made, heads.num_heads, 2, dtype=torch.float32, device=device)
    if rows.is_narrow:
        launches = (NARROW,)
    else:
        # Rows that must not depend on the others are computed by the very program that computes steps of decodes alone.
        launches = (NARROW, WIDE) if cut.fixed else (NARROW | WIDE,)
    return Work(items, lines, partial, state, launches, num_lines > 0)


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    work: Work,
    cut: Cut,
    scale: float,
    softcap: float | None = None,
    scales: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of q [T, N, D] over pages keys, values [pages, P, K, D], contiguous; returns [T, N, D] contiguous.

    page_table [S, max_pages] int32. scales [2, K] float32 are what the stored keys and values of each head must be
    multiplied with. sinks [N] float32 are scores of a key without a value. Heads of q may stand in a longer row.
    """
    heads, tuned = cut.heads, cut.tuning
    assert q.stride(2) == 1 and q.stride(1) == heads.head_dim, q.stride()
    assert keys.is_contiguous() and values.is_contiguous() and scale > 0, (keys.stride(), values.stride(), scale)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if softcap is None:
        factor, cap = scale * LOG2E, 1.0
    else:
        factor, cap = 2.0 * scale / softcap * LOG2E, softcap * LOG2E
    common = {
        "SHARE": heads.share,
        "D": heads.head_dim,
        "BLOCK_D": block_dim(heads.head_dim),
        "SCALED": scales is not None,
        "SINKS": sinks is not None,
    }
    for kinds in work.launches:
        tile = tuned.wide if kinds & WIDE else tuned.narrow
        attend_kernel[(work.items.shape[0] * heads.num_kv_heads,)](
            q,
            keys,
            values,
            page_table,
            work.items,
            out,
            work.partial,
            work.state,
            scales,
            sinks,
            factor,
            cap,
            q.stride(0),
            page_table.stride(0),
            NARROW_ROWS=tuned.narrow.rows if kinds & NARROW else 0,
            NARROW_KEYS=tuned.narrow.keys,
            WIDE_ROWS=tuned.wide.rows if kinds & WIDE else 0,
            WIDE_KEYS=tuned.wide.keys,
            KV_HEADS=heads.num_kv_heads,
            PAGE=keys.shape[1],
            WINDOW=cut.window or 0,
            CAPPED=softcap is not None,
            DOT=product_dtype(q, keys),
            PRECISION="ieee",
            num_warps=tile.warps,
            num_stages=tile.stages,
            **common,
        )
    if work.is_cut:
        each = triton.cdiv(q.shape[0] * heads.num_heads, MERGES)
        merge_kernel[(q.shape[0], triton.cdiv(heads.num_heads, each))](
            work.lines,
            work.partial,
            work.state,
            out,
            scales,
            sinks,
            each,
            HEADS=heads.num_heads,
            PIECES=16,
            num_warps=4,
            **common,
        )
    return out


def product_dtype(q: Tensor, keys: Tensor) -> tl.dtype:
    """What the products take. float16 holds every float8_e4m3fn, and the hardware converts to it in one instruction."""
    if q.dtype == torch.float32 or q.device.type == "cpu":
        return tl.float32
    return tl.bfloat16 if q.dtype == torch.bfloat16 and keys.dtype == torch.bfloat16 else tl.float16
