"""Keys and values into the paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.quantized import LIMITS
from octavo.ops.registry import Case, draw, op, shapes, size


def _inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    pages, page, heads, dim, tokens = (size(case, axis) for axis in ("pages", "P", "K", "D", "T"))
    slots = torch.randperm(pages * page, generator=generator)[:tokens]
    slots[tokens // 2 : tokens // 2 + tokens // 4] = -1
    k, v = draw((tokens, heads, dim), case, generator), draw((tokens, heads, dim), case, generator)
    return draw((2, pages, page, heads, dim), case, generator), slots, k, v


@op(
    shapes(T=(1, 12), pages=(4,), P=(3, 16), K=(1, 2), D=(8,), dtype=(torch.float32, torch.bfloat16)),
    _inputs,
    {torch.float32: 0.0, torch.bfloat16: 0.0},
)
def write_cache(cache: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Write k, v [T, K, D] into cache [2, pages, P, K, D] in place at slots [T] int64 (page · P + offset).

    A token whose slot is -1 is padding: nothing is written. A cache of float8_e4m3fn saturates. Returns the cache.
    """
    is_real = slots >= 0
    page, offset = slots[is_real] // cache.shape[2], slots[is_real] % cache.shape[2]
    for part, new in zip(cache, (k, v), strict=True):
        part[page, offset] = cast(new[is_real], cache.dtype)
    return cache


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in the dtype of a cache."""
    if dtype == torch.float8_e4m3fn:
        return x.clamp(-LIMITS[dtype], LIMITS[dtype]).to(dtype)
    return x.to(dtype)
