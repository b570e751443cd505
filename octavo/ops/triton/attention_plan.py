"""How a step of paged attention is cut into programs: decided on the device, once per step and cache group.

An *item* is a piece of the context of a tile of queries; each KV head of an item is one program. A tile is a few
consecutive tokens of one row, with all the query heads that read one KV head packed beside them (token-major):

    row s, tokens ──▶  ├── tile 0 ──┼── tile 1 ──┼─ tile 2 ─┤     narrow tiles for decodes, wide ones for chunks
    keys of tile 1     ├ piece 0 ┼ piece 1 ┼ piece 2 ┤            whole blocks of keys, counted from position 0

A row whose tiles are cut into several pieces gets *lines* in scratch memory, one per piece and token: accumulator
[N, D] float32, highest score (base 2) and sum of weights. They are added up in the order of the context afterwards.

Lengths are read on the device. What is allocated and how many programs there are follows from shapes (T, S, the table's
width) and from the device, so that a recorded step serves any lengths; programs without an item end at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.attention_tiles import Machine, Tuning

ITEM_FIELDS = 8  # kind, first token, tokens, position of the first, row, first block, end block, first line (-1: none)
LINE_FIELDS = 3  # first line of a token, distance to its next, how many; 0 when the token is computed in one piece
NARROW, WIDE = 1, 2  # kinds of items


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
    """The rows of a step: starts [S + 1], lengths [S] int32 on the device, T tokens, tables of `max_length` positions.

    `host` are the same starts and lengths on the host, None where they will differ from step to step (a recorded one).
    `is_narrow`: rows have no more tokens than a narrow tile, as a rule, and none is to be made wide.
    """

    starts: Tensor
    lengths: Tensor
    num_tokens: int
    max_length: int
    host: tuple[list[int], list[int]] | None
    is_narrow: bool


@dataclass(frozen=True)
class Work:
    """A step cut into items: items [I, 8], lines [T, 3] int32; partial [lines, N, D], state [lines, N, 2] float32.

    Each layer writes the lines' memory anew. `is_narrow` if there are no wide items; `is_cut` if there may be lines.
    """

    items: Tensor
    lines: Tensor
    partial: Tensor
    state: Tensor
    is_narrow: bool
    is_cut: bool


@dataclass(frozen=True)
class Cut:
    """How a step is cut. `target` is how many items the pieces of rows are to make."""

    tuning: Tuning
    heads: Heads
    window: int | None
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

        A tile has a token or more, and each row one tile at most that is not full; the tokens behind the last row are
        one row more. Pieces of at least keys / target keys add at most `target` items; those of rows in several pieces
        are fewer than twice that, and have at most a tile's tokens each.
        """
        num_rows = rows.starts.shape[0] - 1
        queries = self.narrow_queries if rows.is_narrow else self.wide_queries
        tiles = min(rows.num_tokens, rows.num_tokens // queries + num_rows + 1)
        if self._is_never_cut(rows, queries):
            return tiles, 0
        return tiles + self.target, min(rows.num_tokens, queries) * 2 * self.target

    def _is_never_cut(self, rows: Rows, queries: int) -> bool:
        """Whether the longest context fits one piece of the shortest kind, whatever the other rows are."""
        longest = rows.max_length
        if self.window is not None:
            longest = min(longest, min(rows.num_tokens, queries) + self.window - 1)
        least = self.tuning.narrow_piece
        if not rows.is_narrow:
            least = min(least, self.tuning.wide_piece)
        return longest <= least or self.target == 1

    def count(self, rows: Rows) -> tuple[int, int]:
        """Exactly how many items and lines the plan of a step has whose rows the host knows."""
        assert rows.host is not None
        starts, lengths = (np.array(each, np.int64) for each in rows.host)
        counts = np.diff(starts)
        limit = rows.num_tokens if rows.is_narrow else self.narrow_queries
        is_wide = counts > limit
        queries = np.where(is_wide, self.wide_queries, self.narrow_queries)
        tiles = -(-counts // queries)
        spans = lengths
        if self.window is not None:
            spans = np.minimum(lengths, np.minimum(counts, queries) + (self.window - 1))
        is_any_wide = np.any(is_wide & (spans > 0))
        least = self.tuning.wide_piece if is_any_wide else self.tuning.narrow_piece
        pieces = np.maximum(-(-spans // max(-(-int(tiles @ spans) // self.target), least)), 1)
        tail = rows.num_tokens - int(starts[-1])
        tail_tiles = -(-tail // (self.wide_queries if tail > limit else self.narrow_queries))
        return int(tiles @ pieces) + tail_tiles, int(counts @ np.where(pieces > 1, pieces, 0))


def cut_for(machine: Machine, tuned: Tuning, rows: Rows, heads: Heads, window: int | None) -> Cut:
    """How to cut a step for this machine."""
    tile = tuned.narrow if rows.is_narrow else tuned.wide
    places = machine.num_processors * tile.resident * tuned.waves
    return Cut(tuned, heads, window, max(1, places // heads.num_kv_heads))


def plan(rows: Rows, cut: Cut) -> Work:
    """Cut a step on the device. What is allocated and launched follows from shapes, and from `rows.host` if given."""
    device, tuned, heads = rows.starts.device, cut.tuning, cut.heads
    num_items, num_lines = cut.limits(rows)
    # A step takes the memory of the worst one of its shape: what is free is measured with other lengths.
    made = max(1, num_lines)
    if rows.host is not None:
        num_items, num_lines = cut.count(rows)
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
        ROWS=64,
        SPAN=span,
        num_warps=4,
    )
    partial = torch.empty(made, heads.num_heads, heads.head_dim, dtype=torch.float32, device=device)
    state = torch.empty(made, heads.num_heads, 2, dtype=torch.float32, device=device)
    return Work(items, lines, partial, state, rows.is_narrow, num_lines > 0)


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
def row_pieces(span, chunk):
    """Pieces of each tile of a row."""
    return tl.maximum((span + chunk - 1) // chunk, 1)


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
        start, count, _, _, _, tiles, span = row_work(
            row, starts, lengths, num_rows, num_tokens, narrow_limit, NARROW_QUERIES, WIDE_QUERIES, WINDOW
        )
        pieces = row_pieces(span, chunk)
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
    start, count, length, is_wide, queries, _, span = row_work(
        item_row, starts, lengths, num_rows, num_tokens, narrow_limit, NARROW_QUERIES, WIDE_QUERIES, WINDOW
    )
    pieces = row_pieces(span, chunk)
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
    blocks = end_block - first_block
    begin = first_block + blocks * piece // pieces
    end = first_block + blocks * (piece + 1) // pieces
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

    start, count, _, _, _, _, span = row_work(
        token_row, starts, lengths, num_rows, num_tokens, narrow_limit, NARROW_QUERIES, WIDE_QUERIES, WINDOW
    )
    pieces = row_pieces(span, chunk)
    place = lines + mine * 3
    is_mine = mine < num_tokens
    tl.store(place, token_line + mine - start, mask=is_mine)
    tl.store(place + 1, count, mask=is_mine)
    tl.store(place + 2, tl.where(pieces > 1, pieces, 0), mask=is_mine)
