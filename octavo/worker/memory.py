"""KV memory: what a page costs, how many fit, and the cache tensors themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from octavo.spec import CacheGroup, CacheSpec


class CacheLayout(Protocol):
    """How an attention backend lays out one layer's cache."""

    def cache_shape(self, cache: CacheSpec, num_pages: int, page_size: int) -> tuple[int, ...]:
        """The shape of one layer's cache tensor."""
        ...


def page_bytes(group: CacheGroup, page_size: int, dtype: torch.dtype) -> int:
    """Bytes of one page in all layers of the group."""
    return len(group.layers) * group.spec.bytes_per_token(dtype.itemsize) * page_size


def pages_that_fit(groups: Sequence[CacheGroup], page_size: int, dtype: torch.dtype, budget_bytes: int) -> int:
    """Pages every group can have when they share `budget_bytes` equally by pages."""
    return budget_bytes // max(1, sum(page_bytes(group, page_size, dtype) for group in groups))


def allocate_caches(
    groups: Sequence[CacheGroup],
    num_pages: Sequence[int],
    page_size: int,
    backend: CacheLayout,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Tensor]:
    """One zeroed KV tensor per block, in block order; `num_pages` per group."""
    caches: list[Tensor] = [torch.empty(0)] * sum(len(group.layers) for group in groups)
    for group, count in zip(groups, num_pages, strict=True):
        shape = backend.cache_shape(group.spec, count, page_size)
        for layer in group.layers:
            caches[layer] = torch.zeros(shape, dtype=dtype, device=device)
    return caches


def poison_caches(caches: Sequence[Tensor]) -> None:
    """Fill every cell with NaN, so that reading one that no step wrote shows (R52)."""
    for cache in caches:
        cache.fill_(float("nan"))
