"""Keys and values into the paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.registry import Case, draw, op, shapes, size


def _inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    pages, page, heads, dim, tokens = (size(case, axis) for axis in ("pages", "P", "K", "D", "T"))
    slots = torch.randperm(pages * page, generator=generator)[:tokens]
    k, v = draw((tokens, heads, dim), case, generator), draw((tokens, heads, dim), case, generator)
    return draw((2, pages, page, heads, dim), case, generator), slots, k, v


@op(
    shapes(T=(1, 12), pages=(4,), P=(3, 16), K=(1, 2), D=(8,), dtype=(torch.float32, torch.bfloat16)),
    _inputs,
    {torch.float32: 0.0, torch.bfloat16: 0.0},
)
def write_cache(cache: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Write k, v [T, K, D] into cache [2, pages, P, K, D] in place at slots [T] int64 (page · P + offset).

    Returns the cache.
    """
    flat = cache.flatten(1, 2)
    flat[0].index_copy_(0, slots, k)
    flat[1].index_copy_(0, slots, v)
    return cache
