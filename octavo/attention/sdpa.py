"""Attention with torch's scaled_dot_product_attention, on any torch device.

Rows that compute one token go together, their keys gathered and padded per bucket of similar length; rows that compute
several go one at a time. All indices and masks are made once per step and shared by the layers of a cache group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo import ops, spec
from octavo.forward import ForwardBatch

# Queries per masked call: bounds a chunk's mask to this many rows of its context.
QUERY_TILE = 256
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Bucket:
    """Rows of one query each. slots [s · L] int64, rows padded to L keys by repeating their last; mask [s, 1, 1, L].

    tokens [s] int64 says where the rows' queries are; None when the bucket is the whole step, in order.
    """

    tokens: Tensor | None
    slots: Tensor
    mask: Tensor | None
    num_rows: int


@dataclass(frozen=True)
class Tile:
    """Some queries of a chunk, by token index, and the gathered keys they may see; mask None means causal."""

    queries: slice
    keys: slice
    mask: Tensor | None


@dataclass(frozen=True)
class Chunk:
    """A row of several queries. slots [L] int64 of the keys it sees; None when those are the step's own tokens."""

    slots: Tensor | None
    tokens: slice
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class SdpaPlan:
    """The rows to compute."""

    buckets: tuple[Bucket, ...]
    chunks: tuple[Chunk, ...]


class SdpaAttention:
    """Cache [2, pages, P, K, D]: keys, then values."""

    records = False

    def refuses(self, layer: spec.Attention, dtype: torch.dtype) -> str | None:
        return None if dtype in DTYPES else f"takes {', '.join(map(str, DTYPES))}, not {dtype}"

    def cache_shape(self, cache: spec.CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        return (2, num_pages, page_size, cache.num_kv_heads, cache.head_dim)

    def plan(self, batch: ForwardBatch, index: int, group: spec.CacheGroup) -> SdpaPlan:
        inputs = batch.groups[index]
        table, window = inputs.page_table.long(), group.spec.window
        page_size = batch.caches[group.layers[0]].shape[2]
        starts = batch.host_starts
        single = [row for row in range(batch.num_rows) if starts[row + 1] - starts[row] == 1]
        alike = _by_length(single, batch.host_lengths, window)
        buckets = tuple(_plan_bucket(rows, batch, table, page_size, window) for rows in alike)
        chunks = tuple(
            _plan_chunk(row, batch, table, page_size, window)
            for row in range(batch.num_rows)
            if starts[row + 1] - starts[row] > 1
        )
        return SdpaPlan(buckets, chunks)

    def writable(self, cache: Tensor) -> Tensor:
        return cache

    def run(
        self,
        layer: spec.Attention,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Tensor,
        plan: object,
        scales: Tensor | None = None,
    ) -> Tensor:
        assert scales is None, "no cache of float8"
        assert isinstance(plan, SdpaPlan), type(plan)
        keys, values = cache.flatten(1, 2).unbind(0)
        if len(plan.buckets) == 1 and plan.buckets[0].tokens is None:
            return _run_bucket(layer, q, keys, values, plan.buckets[0])
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for bucket in plan.buckets:
            assert bucket.tokens is not None
            out[bucket.tokens] = _run_bucket(layer, q[bucket.tokens], keys, values, bucket)
        for chunk in plan.chunks:
            if chunk.slots is None:
                mine = k[chunk.tokens], v[chunk.tokens]
            else:
                mine = keys.index_select(0, chunk.slots), values.index_select(0, chunk.slots)
            for tile in chunk.tiles:
                out[tile.queries] = _run_tile(layer, q[tile.queries], *mine, tile)
        return out


def create() -> SdpaAttention:
    """A backend without state."""
    return SdpaAttention()


def _by_length(rows: list[int], lengths: list[int], window: int | None) -> list[list[int]]:
    """Rows cut into buckets whose longest is less than twice the shortest, so that padding at most doubles the work."""
    seen = {row: lengths[row] if window is None else min(lengths[row], window) for row in rows}
    buckets: list[list[int]] = []
    longest = 0
    for row in sorted(rows, key=lambda row: -seen[row]):
        if not buckets or 2 * seen[row] <= longest:
            buckets.append([])
            longest = seen[row]
        buckets[-1].append(row)
    return [sorted(bucket) for bucket in buckets]


def _plan_bucket(rows: list[int], batch: ForwardBatch, table: Tensor, page_size: int, window: int | None) -> Bucket:
    device = table.device
    lengths = [batch.host_lengths[row] for row in rows]
    oldest = [0 if window is None else max(0, length - window) for length in lengths]
    width = max(length - first for length, first in zip(lengths, oldest, strict=True))
    end = torch.tensor(lengths, device=device)[:, None]
    position = torch.tensor(oldest, device=device)[:, None] + torch.arange(width, device=device)
    mask = position < end
    # Padding repeats a key the row has written: unused memory, which may hold NaN, is never read.
    position = torch.minimum(position, end - 1)
    whole = len(rows) == batch.host_starts[-1]
    mine = table if whole else table[torch.tensor(rows, device=device)]
    slots = mine.gather(1, position // page_size) * page_size + position % page_size
    even = all(length - first == width for length, first in zip(lengths, oldest, strict=True))
    tokens = None if whole else torch.tensor([batch.host_starts[row] for row in rows], device=device)
    return Bucket(tokens, slots.flatten(), None if even else mask[:, None, None, :], len(rows))


def _plan_chunk(row: int, batch: ForwardBatch, table: Tensor, page_size: int, window: int | None) -> Chunk:
    start, stop, length = batch.host_starts[row], batch.host_starts[row + 1], batch.host_lengths[row]
    first = length - (stop - start)
    oldest = 0 if window is None else max(0, first - window + 1)
    tokens = slice(start, stop)
    if first == 0 and (window is None or length <= window):
        return Chunk(None, tokens, (Tile(tokens, slice(0, length), None),))
    keys = torch.arange(oldest, length, device=table.device)
    slots = None if first == 0 else table[row][keys // page_size] * page_size + keys % page_size
    tiles: list[Tile] = []
    for begin in range(first, length, QUERY_TILE):
        end = min(begin + QUERY_TILE, length)
        visible = slice(max(oldest, 0 if window is None else begin - window + 1), end)
        query = torch.arange(begin, end, device=table.device)[:, None]
        key = torch.arange(visible.start, visible.stop, device=table.device)
        mask = key <= query if window is None else (key <= query) & (key > query - window)
        queries = slice(start + begin - first, start + end - first)
        tiles.append(Tile(queries, slice(visible.start - oldest, visible.stop - oldest), mask))
    return Chunk(slots, tokens, tuple(tiles))


def _run_bucket(layer: spec.Attention, q: Tensor, keys: Tensor, values: Tensor, bucket: Bucket) -> Tensor:
    """q [s, N, D] against gathered keys: the query heads of one KV head stand where torch expects query positions."""
    shape = (bucket.num_rows, -1, layer.num_kv_heads, layer.head_dim)
    k = keys.index_select(0, bucket.slots).view(shape).transpose(1, 2)
    v = values.index_select(0, bucket.slots).view(shape).transpose(1, 2)
    grouped = q.unflatten(1, (layer.num_kv_heads, -1))
    if layer.softcap is None:
        out = F.scaled_dot_product_attention(grouped, k, v, bucket.mask, scale=layer.scale)
    else:
        out = _softcapped(layer, grouped, k, v, bucket.mask)
    return out.reshape(q.shape)


def _run_tile(layer: spec.Attention, q: Tensor, k: Tensor, v: Tensor, tile: Tile) -> Tensor:
    """q [n, N, D] against the tile's part of k, v [L, K, D]."""
    k, v = k[tile.keys].transpose(0, 1)[None], v[tile.keys].transpose(0, 1)[None]
    if layer.softcap is None:
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k,
            v,
            tile.mask,
            is_causal=tile.mask is None,
            scale=layer.scale,
            enable_gqa=layer.num_heads != layer.num_kv_heads,
        )
        return out[0].transpose(0, 1)
    count = q.shape[0]
    mask = tile.mask if tile.mask is not None else torch.ones(count, count, dtype=torch.bool, device=q.device).tril()
    share = layer.num_heads // layer.num_kv_heads
    grouped = q.unflatten(1, (layer.num_kv_heads, share)).permute(1, 2, 0, 3)
    out = _softcapped(layer, grouped.flatten(1, 2)[None], k, v, mask.repeat(share, 1))
    return out[0].unflatten(1, (share, count)).permute(2, 0, 1, 3).reshape(q.shape)


def _softcapped(layer: spec.Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [B, K, n, D], k, v [B, K, L, D], mask broadcast to [B, K, n, L]; scores in float32."""
    assert layer.softcap is not None
    scores = ops.softcap(torch.matmul(q.float(), k.float().transpose(2, 3)) * layer.scale, layer.softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.matmul(scores.softmax(-1).to(v.dtype), v)
