"""The GPU's attention against the dense formula: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from octavo import spec
from octavo.forward import ForwardBatch

pytest.importorskip("triton")

from octavo.attention.triton import TritonAttention
from octavo.ops.triton import attention as kernels

from .test_backends import LAYER, TOLERANCE, Row, build, dense, draw_rows, run

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_WARPS = 4 if DEVICE.type == "cuda" else 1
# Tiles so small, and pieces so short, that short rows are cut as long ones are.
TILES = kernels.Tuning(
    kernels.Tile(16, 16, NUM_WARPS, 2, 1), kernels.Tile(32, 32, NUM_WARPS, 2, 1), narrow_piece=32, wide_piece=64
)
MACHINE = replace(kernels.machine(DEVICE), num_processors=4)
EVERYTHING = [(5, 1), (15, 1), (16, 1), (17, 1), (70, 33), (1, 1), (40, 40), (150, 1)]


def small(batch_invariant: bool = False, places: int = 4, share: int = 1) -> TritonAttention:
    """The backend on a device with room for `places` programs."""
    tiles = replace(TILES, narrow=replace(TILES.narrow, rows=max(16, share)))
    return TritonAttention(batch_invariant, tiles, replace(MACHINE, num_processors=places))


def on_device(batch: ForwardBatch) -> ForwardBatch:
    groups = [
        replace(group, page_table=group.page_table.to(DEVICE), slots=group.slots.to(DEVICE)) for group in batch.groups
    ]
    moved = (getattr(batch, name).to(DEVICE) for name in ("tokens", "positions", "starts", "lengths", "logit_rows"))
    tokens, positions, starts, lengths, logit_rows = moved
    return replace(
        batch,
        tokens=tokens,
        positions=positions,
        starts=starts,
        lengths=lengths,
        logit_rows=logit_rows,
        groups=groups,
        caches=[cache.to(DEVICE) for cache in batch.caches],
    )


def queries(layer: spec.Attention, rows: list[Row], dtype: torch.dtype = torch.float32) -> Tensor:
    """q [T, N, D] as a model has it: part of longer rows."""
    count = sum(row.queries for row in rows)
    whole = torch.randn(count, layer.num_heads + 3, layer.head_dim, generator=torch.Generator().manual_seed(5))
    return whole.to(dtype)[:, : layer.num_heads]


def compute(
    attention: TritonAttention, layer: spec.Attention, rows: list[Row], q: Tensor, page_size: int = 16, shared: int = 0
) -> Tensor:
    batch, group = build(rows, layer, page_size, attention, shared)
    moved = [replace(row, keys=row.keys.to(DEVICE), values=row.values.to(DEVICE)) for row in rows]
    return run(attention, on_device(batch), group, layer, q.to(DEVICE), moved).cpu()


@pytest.mark.parametrize(
    ("window", "softcap", "heads", "dim", "page_size", "batch_invariant"),
    [
        (None, None, (4, 2), 16, 16, False),
        (20, 1.5, (4, 2), 16, 16, False),
        (None, 1.5, (3, 1), 80, 4, True),
        (17, None, (8, 1), 32, 32, False),
        (64, None, (2, 2), 48, 7, True),
    ],
)
def test_a_mixed_step_computes_the_dense_formula(
    window: int | None, softcap: float | None, heads: tuple[int, int], dim: int, page_size: int, batch_invariant: bool
) -> None:
    layer = replace(
        LAYER, window=window, softcap=softcap, num_heads=heads[0], num_kv_heads=heads[1], head_dim=dim, scale=dim**-0.5
    )
    rows = draw_rows(EVERYTHING, layer, torch.float32, seed=3)
    q = queries(layer, rows)
    out = compute(small(batch_invariant), layer, rows, q, page_size)
    torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("share", [1, 2, 3, 5, 6, 7, 20])
@pytest.mark.parametrize("dim", [32, 64, 96, 112, 128, 256])
def test_every_share_and_head_size_computes_the_dense_formula(share: int, dim: int) -> None:
    layer = replace(LAYER, num_heads=share, num_kv_heads=1, head_dim=dim, window=50, scale=dim**-0.5)
    rows = draw_rows([(33, 1), (70, 20), (31, 2)], layer, torch.float32, seed=share)
    q = queries(layer, rows)
    out = compute(small(share=share), layer, rows, q)
    torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=1e-5, atol=1e-5)
