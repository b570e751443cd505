"""Attention backends against a dense formula over each row's whole history, on pages that are shuffled and poisoned."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from octavo import ops, spec
from octavo.attention import backend
from octavo.attention.backend import AttentionBackend
from octavo.errors import StartupError
from octavo.forward import ForwardBatch, GroupInputs

LAYER = spec.Attention(num_heads=4, num_kv_heads=2, head_dim=16, scale=0.3, rope=None)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass
class Row:
    """One sequence: its whole keys and values [length, K, D], of which the last `queries` are computed now."""

    keys: Tensor
    values: Tensor
    queries: int

    @property
    def length(self) -> int:
        return self.keys.shape[0]


def draw_rows(sizes: list[tuple[int, int]], layer: spec.Attention, dtype: torch.dtype, seed: int) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> Tensor:
        return torch.randn(length, layer.num_kv_heads, layer.head_dim, generator=generator).to(dtype)

    return [Row(draw(length), draw(length), queries) for length, queries in sizes]


def build(
    rows: list[Row], layer: spec.Attention, page_size: int, attention: AttentionBackend, shared: int = 0
) -> tuple[ForwardBatch, spec.CacheGroup]:
    """A step over `rows` whose first `shared` pages are the same memory; everything no row may read is NaN."""
    order = list(range(400))
    random.Random(page_size).shuffle(order)
    dtype = rows[0].keys.dtype
    shape = attention.cache_shape(layer.cache, len(order), page_size, dtype)
    cache = torch.full(shape, float("nan"), dtype=dtype)
    flat = cache.flatten(1, 2)
    dead = order.pop()
    common = [order.pop() for _ in range(shared)]
    table = torch.full((len(rows), 1 + max(-(-row.length // page_size) for row in rows)), -1, dtype=torch.int32)
    slots: list[int] = []
    for i, row in enumerate(rows):
        pages = common[: row.length // page_size]
        pages = pages + [order.pop() for _ in range(-(-row.length // page_size) - len(pages))]
        first = row.length - row.queries
        oldest = 0 if layer.window is None else max(0, first - layer.window + 1)
        for position in range(row.length):
            slot = pages[position // page_size] * page_size + position % page_size
            if position >= first:
                slots.append(slot)
            elif position >= oldest:
                flat[0, slot], flat[1, slot] = row.keys[position], row.values[position]
        # A page the window has left behind may belong to anyone by now.
        table[i, : len(pages)] = torch.tensor([dead] * (oldest // page_size) + pages[oldest // page_size :])
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + row.queries)
    lengths = [row.length for row in rows]
    batch = ForwardBatch(
        tokens=torch.zeros(starts[-1], dtype=torch.int32),
        positions=torch.cat([torch.arange(row.length - row.queries, row.length) for row in rows]).int(),
        starts=torch.tensor(starts, dtype=torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        groups=[GroupInputs(table, torch.tensor(slots), page_size)],
        caches=[cache],
        logit_rows=torch.tensor([end - 1 for end in starts[1:]]),
        host_starts=starts,
        host_lengths=lengths,
    )
    return batch, spec.CacheGroup(layer.cache, (0,))


def run(
    attention: AttentionBackend,
    batch: ForwardBatch,
    group: spec.CacheGroup,
    layer: spec.Attention,
    q: Tensor,
    rows: list[Row],
) -> Tensor:
    k = torch.cat([row.keys[row.length - row.queries :] for row in rows])
    v = torch.cat([row.values[row.length - row.queries :] for row in rows])
    cache = attention.writable(batch.caches[0])
    assert cache is not None
    ops.write_cache(cache, batch.groups[0].slots, k, v)
    return attention.run(layer, q, k, v, batch.caches[0], attention.plan(batch, 0, group))


def dense(layer: spec.Attention, q: Tensor, rows: list[Row]) -> Tensor:
    """Each query against its visible keys, one at a time, in float64."""
    out = torch.empty(q.shape, dtype=torch.float64)
    token = 0
    for row in rows:
        for position in range(row.length - row.queries, row.length):
            oldest = 0 if layer.window is None else max(0, position - (layer.window - 1))
            for head in range(layer.num_heads):
                kv_head = head * layer.num_kv_heads // layer.num_heads
                scores = row.keys[oldest : position + 1, kv_head].double() @ q[token, head].double() * layer.scale
                if layer.softcap is not None:
                    scores = layer.softcap * torch.tanh(scores / layer.softcap)
                out[token, head] = scores.softmax(0) @ row.values[oldest : position + 1, kv_head].double()
            token += 1
    return out


MIXES = {
    "one decode": [(9, 1)],
    "first token": [(1, 1)],
    "decodes of one length": [(8, 1), (8, 1), (8, 1)],
    "decodes of mixed lengths": [(1, 1), (40, 1), (3, 1), (17, 1), (39, 1)],
    "whole prompt": [(21, 21)],
    "chunk after a prefix": [(23, 6)],
    "everything": [(5, 1), (12, 12), (30, 7), (33, 1), (2, 2), (16, 1)],
}


@pytest.mark.parametrize("name", ["reference", "sdpa"])
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 1, 4, 16])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_a_backend_computes_the_dense_formula(name: str, mix: str, window: int | None, softcap: float | None) -> None:
    layer = replace(LAYER, window=window, softcap=softcap)
    rows = draw_rows(MIXES[mix], layer, torch.float32, seed=3)
    attention = backend.create(name)
    for page_size in (1, 4, 16):
        batch, group = build(rows, layer, page_size, attention)
        q = torch.randn(batch.host_starts[-1], 4, 16, generator=torch.Generator().manual_seed(5))
        out = run(attention, batch, group, layer, q, rows)
        torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_half_precision_and_every_head_ratio_stay_close(
    dtype: torch.dtype, heads: tuple[int, int], softcap: float | None
) -> None:
    layer = replace(LAYER, num_heads=heads[0], num_kv_heads=heads[1], window=10, softcap=softcap)
    rows = draw_rows(MIXES["everything"], layer, dtype, seed=4)
    for name in ("reference", "sdpa"):
        attention = backend.create(name)
        batch, group = build(rows, layer, 4, attention)
        q = torch.randn(batch.host_starts[-1], heads[0], 16, generator=torch.Generator().manual_seed(6)).to(dtype)
        out = run(attention, batch, group, layer, q, rows)
        expected = dense(layer, q, rows)
        torch.testing.assert_close(out.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("window", [7, 8, 9, 300])
@pytest.mark.parametrize("length", [7, 8, 9, 16, 17])
def test_a_window_sees_itself_and_the_ones_before_at_every_border(window: int, length: int) -> None:
    layer = replace(LAYER, window=window)
    for queries in (1, 2, length):
        rows = draw_rows([(length, queries)], layer, torch.float32, seed=length)
        attention = backend.create("sdpa")
        batch, group = build(rows, layer, 4, attention)
        q = torch.randn(queries, 4, 16, generator=torch.Generator().manual_seed(window))
        out = run(attention, batch, group, layer, q, rows)
        torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=1e-5, atol=1e-5)


def test_a_long_chunk_is_computed_in_tiles_with_the_same_result() -> None:
    for window in (None, 100):
        layer = replace(LAYER, window=window)
        rows = draw_rows([(700, 600), (530, 530)], layer, torch.float32, seed=1)
        q = torch.randn(1130, 4, 16, generator=torch.Generator().manual_seed(2))
        outs: list[Tensor] = []
        for name in ("reference", "sdpa"):
            attention = backend.create(name)
            batch, group = build(rows, layer, 16, attention)
            outs.append(run(attention, batch, group, layer, q, rows))
        torch.testing.assert_close(outs[0], outs[1], rtol=1e-5, atol=1e-5)


def test_rows_that_share_pages_read_the_same_prefix() -> None:
    rows = draw_rows([(9, 1), (14, 3), (12, 4)], LAYER, torch.float32, seed=8)
    for row in rows[1:]:
        row.keys[:8], row.values[:8] = rows[0].keys[:8], rows[0].values[:8]
    for name in ("reference", "sdpa"):
        attention = backend.create(name)
        batch, group = build(rows, LAYER, 4, attention, shared=2)
        q = torch.randn(8, 4, 16, generator=torch.Generator().manual_seed(9))
        out = run(attention, batch, group, LAYER, q, rows)
        torch.testing.assert_close(out.double(), dense(LAYER, q, rows), rtol=1e-5, atol=1e-5)


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(StartupError, match="attention backend 'quantum'"):
        backend.create("quantum")
