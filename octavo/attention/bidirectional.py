"""Attention of encoders: each token sees all of its text, or what is less than a window away. No cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo import spec
from octavo.ops.tape import PythonNode, Ref, StepInput

if TYPE_CHECKING:
    from octavo.forward import ForwardBatch

TILE = 128  # queries that share a piece of a window's keys


@dataclass
class Texts:
    """Where the texts of a step begin and end: text i is tokens starts[i]:starts[i + 1]."""

    starts: list[int] = field(default_factory=list)


class BidirectionalAttention:
    """torch's attention, text by text, so that no text's result depends on the others.

    A recorded step reads `texts`, which whoever runs it sets before.
    """

    records = False

    def __init__(self) -> None:
        self.texts = Texts()

    def refuses(self, layer: spec.Attention, dtype: torch.dtype) -> str | None:
        return "softcap is not supported in encoders" if layer.softcap is not None else None

    def cache_shape(self, cache: spec.CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        return (0,)

    def plan(self, batch: ForwardBatch, index: int, group: spec.CacheGroup) -> Texts:
        return self.texts if isinstance(batch.tokens, StepInput) else Texts(batch.host_starts)

    def writable(self, cache: Tensor) -> None:
        """Nothing is kept."""

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
        assert isinstance(plan, Texts), type(plan)
        if not isinstance(q, Ref):
            return attend(layer, q, k, v, plan.starts)

        def now(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(layer, q, k, v, plan.starts)

        out = q.recorder.new(layer.num_heads, layer.head_dim)
        return cast(Tensor, q.recorder.emit(PythonNode(out=out, op="attend", function=now, args=(q, k, v))))


def attend(layer: spec.Attention, q: Tensor, k: Tensor, v: Tensor, starts: list[int]) -> Tensor:
    """q [T, N, D] over k, v [T, K, D] of the same text; returns [T, N, D]."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for start, stop in pairwise(starts):
        texts = (each[start:stop].transpose(0, 1)[None] for each in (q, k, v))
        out[start:stop] = attend_text(layer, *texts)[0].transpose(0, 1)
    return out


def attend_text(layer: spec.Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One text: q [1, N, n, D], k, v [1, K, n, D] -> [1, N, n, D]."""
    length, window = q.shape[2], layer.window
    shared = layer.num_heads != layer.num_kv_heads
    if window is None or length <= window:
        return F.scaled_dot_product_attention(q, k, v, scale=layer.scale, enable_gqa=shared)
    parts: list[Tensor] = []
    for begin in range(0, length, TILE):
        end = min(begin + TILE, length)
        first, last = max(0, begin - window + 1), min(length, end + window - 1)
        distance = torch.arange(begin, end, device=q.device)[:, None] - torch.arange(first, last, device=q.device)
        part = F.scaled_dot_product_attention(
            q[:, :, begin:end],
            k[:, :, first:last],
            v[:, :, first:last],
            distance.abs() < window,
            scale=layer.scale,
            enable_gqa=shared,
        )
        parts.append(part)
    return torch.cat(parts, 2)


def create() -> BidirectionalAttention:
    """A backend for one model."""
    return BidirectionalAttention()
