"""What happens to queries, keys and values between their product and attention: norms, bounds, rotation, the cache."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from octavo.ops.activation import clip
from octavo.ops.cache import write_cache
from octavo.ops.norm import head_rms_norm, rms_norm
from octavo.ops.registry import Case, draw, op, shapes, size
from octavo.ops.rope import rotate


class QKNorm(NamedTuple):
    """A root-mean-square norm of queries and keys: weight [N + K, D] float32, over each head or all heads of a kind."""

    weight: Tensor
    eps: float
    span: Literal["head", "all"] = "head"


def _inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, heads, kv_heads, dim, rotated = (size(case, axis) for axis in ("T", "N", "K", "D", "R"))
    norm = None
    if case["span"] is not None:
        norm = QKNorm(torch.rand(heads + kv_heads, dim, generator=generator) + 0.5, 1e-6, case["span"])  # type: ignore[arg-type]
    angle = torch.rand(tokens, rotated // 2, generator=generator) * 100
    angles = torch.cat((angle.cos(), angle.sin()), -1) if rotated else None
    cache = draw((2, 4, 3, kv_heads, dim), case, generator)
    slots = torch.randperm(12, generator=generator)[:tokens]
    slots[tokens // 2] = -1
    return draw((tokens, heads + 2 * kv_heads, dim), case, generator), heads, norm, case["clip"], angles, cache, slots


@op(
    shapes(
        T=(2,), N=(4,), K=(2,), D=(24,), R=(0, 8, 24), span=(None, "head", "all"), clip=(None, 0.7),
        dtype=(torch.float32, torch.bfloat16),
    ),
    _inputs,
    {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3},
)  # fmt: skip
def prepare_qkv(
    qkv: Tensor,
    heads: int,
    norm: QKNorm | None,
    clip_to: float | None,
    angles: Tensor | None,
    cache: Tensor | None,
    slots: Tensor | None,
    scales: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize q and k, bound q, k and v, rotate q and k, and write k and v into the cache.

    qkv [T, N + 2 K, D] is q | k | v, of which N are `heads`, and may be overwritten; angles [T, R] as in ops.rotate;
    cache [2, pages, P, K, D] in any strides and slots [T] int64 as in ops.write_cache, both None where nothing is to be
    written; keys and values of each head are divided by scales [2, K] float32 for it. Each step is left out where its
    argument is None. Returns q [T, N, D] and k, v [T, K, D], not divided.
    """
    rotated = (qkv.shape[1] + heads) // 2
    qk, v = qkv[:, :rotated], qkv[:, rotated:]
    if norm is not None:
        qk = _normalized(qk, heads, norm)
    if clip_to is not None:
        qk, v = clip(qk, clip_to), clip(v, clip_to)
    if angles is not None:
        qk = rotate(qk, angles)
    q, k = qk[:, :heads], qk[:, heads:]
    if cache is not None:
        assert slots is not None
        kept = (k, v) if scales is None else (k / scales[0, :, None], v / scales[1, :, None])
        write_cache(cache, slots, *kept)
    return q, k, v


def _normalized(qk: Tensor, heads: int, norm: QKNorm) -> Tensor:
    if norm.span == "head":
        return head_rms_norm(qk, norm.weight, norm.eps)
    spans = zip((qk[:, :heads], qk[:, heads:]), (norm.weight[:heads], norm.weight[heads:]), strict=True)
    return torch.cat([rms_norm(x.flatten(1), w.flatten(), norm.eps).view(x.shape) for x, w in spans], 1)
