"""Attention row by row with an explicit mask: slow, obvious, and what every other backend is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.forward import ForwardBatch, GroupInputs


@dataclass(frozen=True)
class ReferencePlan:
    """The step as it is: rows from `batch`, pages from `inputs`."""

    batch: ForwardBatch
    inputs: GroupInputs


class ReferenceAttention:
    """The oracle. Cache [2, pages, P, K, D]: keys, then values."""

    records = False

    def refuses(self, layer: spec.Attention, dtype: torch.dtype) -> str | None:
        return None

    def cache_shape(self, cache: spec.CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        return (2, num_pages, page_size, cache.num_kv_heads, cache.head_dim)

    def plan(self, batch: ForwardBatch, index: int, group: spec.CacheGroup) -> ReferencePlan:
        return ReferencePlan(batch, batch.groups[index])

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
        assert isinstance(plan, ReferencePlan), type(plan)
        keys, values = cache.flatten(1, 2)
        page_size = cache.shape[2]
        out = torch.empty_like(q)
        starts = plan.batch.host_starts
        for row, length in enumerate(plan.batch.host_lengths):
            mine = slice(starts[row], starts[row + 1])
            position = torch.arange(length - (mine.stop - mine.start), length, device=q.device)
            oldest = 0 if layer.window is None else max(0, int(position[0]) - layer.window + 1)
            key_position = torch.arange(oldest, length, device=q.device)
            pages = plan.inputs.page_table[row].long()[key_position // page_size]
            slots = pages * page_size + key_position % page_size
            mask = key_position <= position[:, None]
            if layer.window is not None:
                mask &= key_position > position[:, None] - layer.window
            out[mine] = ops.attend(q[mine], keys[slots], values[slots], mask, layer.scale, layer.softcap)
        return out


def create() -> ReferenceAttention:
    """A backend without state."""
    return ReferenceAttention()
