"""Low-rank adapters: a program per token while there are few, tiles of one adapter's tokens when there are many."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.registry import implements
from octavo.ops.triton.grouping import plan
from octavo.ops.triton.moe import grouped
from octavo.ops.triton.product import Config, Matrix, computed, dot

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GROUPED_FROM = 65  # tokens
TILE = 64  # tokens of a tile
COLUMNS = 512  # of x that a token's program reads at a time
RANKS = 16  # of them one program makes of a token
FEATURES = 128  # of y that one program extends


@implements("lora_shrink", "triton", DTYPES)
def lora_shrink(x: Tensor, a: Tensor, adapters: Tensor) -> Tensor:
    """As ops.lora_shrink."""
    x = x if x.stride(1) == 1 else x.contiguous()
    (tokens, columns), (count, rank, _) = x.shape, a.shape
    if tokens >= GROUPED_FROM:
        out = torch.zeros((tokens, rank), dtype=torch.float32, device=x.device)
        matrix = Matrix(a, columns, rank, rank)
        config = Config(TILE, 32 if rank <= 32 else 64, 64 if x.element_size() == 2 else 32, warps=4, stages=4)
        grouped(x, matrix, out, plan(adapters, count, TILE), config, gather=1, scatter=True)
        return out
    out = torch.empty((tokens, rank), dtype=torch.float32, device=x.device)
    if tokens:
        _shrink[(tokens, triton.cdiv(rank, RANKS))](
            x,
            a,
            adapters,
            out,
            x.stride(0),
            columns,
            rank,
            BR=RANKS,
            BK=min(COLUMNS, max(16, triton.next_power_of_2(columns))),
            num_warps=4,
        )
    return out


@implements("lora_expand", "triton", DTYPES)
def lora_expand(y: Tensor, h: Tensor, b: Tensor, adapters: Tensor, scales: Tensor, start: int) -> Tensor:
    """As ops.lora_expand; with many tokens h is rounded to the adapters' type."""
    assert y.stride(1) == 1 and h.is_contiguous() and b.is_contiguous(), (y.stride(), h.stride(), b.stride())
    tokens, (count, features, rank) = y.shape[0], b.shape
    width = max(16, triton.next_power_of_2(rank))
    if tokens >= GROUPED_FROM:
        by_adapter = plan(adapters, count, TILE)
        _expand_tile[(by_adapter.tiles, triton.cdiv(features, FEATURES))](
            y,
            h,
            b,
            scales,
            by_adapter.order,
            by_adapter.ends,
            by_adapter.tile_number,
            by_adapter.tile_start,
            by_adapter.num_tiles,
            y.stride(0),
            start,
            features,
            rank,
            DTYPE=computed(b.dtype),
            BM=TILE,
            BN=FEATURES,
            BR=width,
            num_warps=4,
        )
    elif tokens:
        _expand[(tokens, triton.cdiv(features, FEATURES))](
            y, h, b, adapters, scales, y.stride(0), start, features, rank, BN=FEATURES, BR=width, num_warps=4
        )
    return y


@triton.jit
def _shrink(x, a, adapters, out, x_stride, columns, rank, BR: tl.constexpr, BK: tl.constexpr):
    """BR ranks of one token."""
    token = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BR + tl.arange(0, BR)
    adapter = tl.load(adapters + token).to(tl.int64)
    sums = tl.zeros((BR, BK), tl.float32)
    if adapter >= 0:
        column = tl.arange(0, BK)
        weights = a + (adapter * rank + tl.minimum(row, rank - 1)[:, None]) * columns + column[None, :]
        for first in range(0, columns, BK):
            inside = first + column < columns
            value = tl.load(x + token * x_stride + first + column, mask=inside, other=0.0).to(tl.float32)
            weight = tl.load(weights + first, mask=inside[None, :], other=0.0).to(tl.float32)
            sums += weight * value[None, :]
    tl.store(out + token * rank + row, tl.sum(sums, 1), mask=row < rank)


@triton.jit
def _expand(
    y, h, b, adapters, scales, y_stride, start, features, rank, BN: tl.constexpr, BR: tl.constexpr
):  # fmt: skip
    """BN features of one token."""
    token = tl.program_id(0).to(tl.int64)
    adapter = tl.load(adapters + token).to(tl.int64)
    if adapter >= 0:
        feature = tl.program_id(1) * BN + tl.arange(0, BN)
        each = tl.arange(0, BR)
        inside = feature < features
        value = tl.load(h + token * rank + each, mask=each < rank, other=0.0)
        at = (adapter * features + feature)[:, None] * rank + each[None, :]
        weight = tl.load(b + at, mask=inside[:, None] & (each < rank)[None, :], other=0.0).to(tl.float32)
        added = tl.sum(weight * value[None, :], 1) * tl.load(scales + adapter)
        target = y + token * y_stride + start + feature
        sums = tl.load(target, mask=inside, other=0.0).to(tl.float32) + added
        tl.store(target, sums.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _expand_tile(
    y, h, b, scales, order, ends, tile_number, tile_start, num_tiles, y_stride, start, features, rank,
    DTYPE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """BN features of a tile's tokens, which share an adapter."""
    tile = tl.program_id(0)
    if tile >= tl.load(num_tiles):
        return
    number = tl.load(tile_number + tile)
    end = tl.load(ends + number)
    place = tl.load(tile_start + tile) + tl.arange(0, BM)
    token = tl.load(order + tl.minimum(place, end - 1)).to(tl.int64)
    feature = tl.program_id(1) * BN + tl.arange(0, BN)
    each = tl.arange(0, BR)
    at = (number.to(tl.int64) * features + tl.minimum(feature, features - 1))[:, None] * rank + each[None, :]
    weight = tl.load(b + at, mask=(each < rank)[None, :], other=0.0).to(DTYPE)
    value = tl.load(h + (token * rank)[None, :] + each[:, None], mask=(each < rank)[:, None], other=0.0)
    sums = dot(weight, value.to(DTYPE), tl.zeros((BN, BM), tl.float32), DTYPE, BR)
    target = y + (token * y_stride)[None, :] + start + feature[:, None]
    inside = (feature < features)[:, None] & (place < end)[None, :]
    sums = tl.load(target, mask=inside, other=0.0).to(tl.float32) + sums * tl.load(scales + number)
    tl.store(target, sums.to(y.dtype.element_ty), mask=inside)
