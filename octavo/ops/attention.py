"""Dense masked attention: the definition that the backends are held to."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.registry import Case, draw, op, shapes, size


def _inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    queries, keys, heads, kv_heads, dim = (size(case, axis) for axis in ("n", "L", "N", "K", "D"))
    mask = torch.rand(queries, keys, generator=generator) < 0.6
    mask[:, 0] = True
    q = draw((queries, heads, dim), case, generator)
    k, v = draw((keys, kv_heads, dim), case, generator), draw((keys, kv_heads, dim), case, generator)
    return q, k, v, mask, dim**-0.5, case["softcap"]


@op(
    shapes(n=(1, 5), L=(1, 23), N=(4,), K=(1, 4), D=(8,), softcap=(None, 2.0), dtype=(torch.float32, torch.bfloat16)),
    _inputs,
    {torch.float32: 1e-5, torch.bfloat16: 2e-2},
)
def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Softmax attention of q [n, N, D] over k, v [L, K, D]; query head h reads KV head h // (N / K).

    mask [n, L] bool: True where query i sees key j; every query sees one. Computed in float32; returns [n, N, D].
    """
    queries, heads, dim = q.shape
    grouped = q.float().view(queries, k.shape[1], heads // k.shape[1], dim)
    scores = torch.einsum("nkgd,lkd->nkgl", grouped, k.float()) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~mask[:, None, None, :], float("-inf")).softmax(-1)
    return torch.einsum("nkgl,lkd->nkgd", weights, v.float()).reshape(q.shape).to(q.dtype)
