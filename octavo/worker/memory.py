"""KV memory: the cache tensors themselves."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from octavo.spec import CacheGroup, CacheSpec


class CacheLayout(Protocol):
    """How an attention backend lays out one layer's cache."""

    def cache_shape(self, cache: CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        """The shape of one layer's cache tensor."""
        ...


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
        shape = backend.cache_shape(group.spec, count, page_size, dtype)
        for layer in group.layers:
            caches[layer] = zeros(shape, dtype, device)
    return caches


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A zeroed tensor; on a CPU its memory is taken only as it is written, and starts on a page of the system."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes == 0:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=torch.uint8).view(dtype).view(shape)


def poison_caches(caches: Sequence[Tensor]) -> None:
    """Fill every cell with NaN, so that reading one that no step wrote shows (R52)."""
    for cache in caches:
        cache.fill_(float("nan"))
