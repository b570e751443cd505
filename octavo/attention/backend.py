"""The seam between attention layers and the ways to compute attention over the paged cache."""

from __future__ import annotations

import importlib
from typing import Protocol

import torch
from torch import Tensor

from octavo import spec
from octavo.errors import StartupError
from octavo.forward import ForwardBatch


class AttentionBackend(Protocol):
    """Attention over pages. A row's query at position p sees positions max(0, p - W + 1)..p (W: the layer's window).

    `records`: a GPU can record its work and replay it, because all but shapes is read on the device.
    """

    records: bool

    def refuses(self, layer: spec.Attention, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run `layer` in `dtype`; None when it can."""
        ...

    def cache_shape(self, cache: spec.CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        """Shape of one layer's KV tensor, in elements of its `dtype`."""
        ...

    def plan(self, batch: ForwardBatch, index: int, group: spec.CacheGroup) -> object:
        """What every layer of cache group `index` needs for this step; made once, read by `run`."""
        ...

    def writable(self, cache: Tensor) -> Tensor | None:
        """A layer's `cache` as ops write it: a view [2, pages, P, K, D] of keys, then values, in any strides but D's.

        None: nothing is to be written before `run`, because `run` does that or because there is no cache.
        """
        ...

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
        """Attend with q [T, N, D]; returns [T, N, D]. k, v [T, K, D] of the step are in the cache, if it is writable.

        q, k and v may be views of one tensor: rows are apart as their strides say, D is innermost. scales [2, K]
        float32 are what a cache of float8 must be multiplied with, keys and values of each head.
        """
        ...


def create(name: str) -> AttentionBackend:
    """The backend of `octavo/attention/<name>.py`, which exports it as `create`."""
    try:
        module = importlib.import_module(f"octavo.attention.{name}")
    except ModuleNotFoundError as error:
        raise StartupError(f"attention backend {name!r} cannot be imported: {error}", "attention") from error
    backend: AttentionBackend = module.create()
    return backend
