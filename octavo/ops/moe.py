"""Mixture of experts: which experts each token goes to, and their gated MLPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from octavo import spec
from octavo.ops.linear import DensePacked, Packed
from octavo.ops.registry import Case, draw, op, shapes, size

Stacker = Callable[[Sequence[Packed]], Sequence[Packed]]
_STACKERS: dict[str, Stacker] = {}


def stacker(backend: str, stack: Stacker) -> None:
    """Register how a backend holds the experts of a layer together."""
    _STACKERS[backend] = stack


def stack_experts(experts: Sequence[Packed], backends: tuple[str, ...]) -> Sequence[Packed]:
    """The experts as the first of the backends likes them; one by one where none has a wish."""
    stack = next((_STACKERS[backend] for backend in backends if backend in _STACKERS), tuple[Packed, ...])
    return stack(experts)


def _route_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    logits = draw((size(case, "T"), size(case, "E")), case, generator)
    return logits, size(case, "top_k"), case["renormalize"]


def _expert_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, experts, hidden, inner, top_k = (size(case, axis) for axis in ("T", "E", "H", "I", "top_k"))
    gate_up = [DensePacked(draw((2 * inner, hidden), case, generator, 0.2)) for _ in range(experts)]
    down = [DensePacked(draw((hidden, inner), case, generator, 0.2)) for _ in range(experts)]
    ids = torch.stack([torch.randperm(experts, generator=generator)[:top_k] for _ in range(tokens)])
    weights = torch.rand(tokens, top_k, generator=generator)
    return draw((tokens, hidden), case, generator), gate_up, down, ids, weights, "silu"


@op(
    shapes(T=(1, 9), E=(4, 16), top_k=(1, 4), renormalize=(False, True), dtype=(torch.float32,)),
    _route_inputs,
    {torch.float32: 1e-6},
)
def route(logits: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    """The `top_k` likeliest experts of each token: ids [T, top_k] int64 and their weights [T, top_k] float32.

    logits [T, E]. Weights are probabilities under the softmax over all E, divided by their sum when `renormalize`.
    """
    weights, ids = logits.float().softmax(-1).topk(top_k, dim=-1)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return ids, weights


@op(
    shapes(T=(1, 9), E=(4,), H=(16,), I=(12,), top_k=(1, 3), dtype=(torch.float32, torch.bfloat16)),
    _expert_inputs,
    {torch.float32: 1e-5, torch.bfloat16: 3e-2},
)
def expert_mlps(
    x: Tensor,
    gate_up: Sequence[Packed],
    down: Sequence[Packed],
    ids: Tensor,
    weights: Tensor,
    activation: spec.Activation,
) -> Tensor:
    """Sum over each token's experts of weight · down(activation(gate(x)) · up(x)).

    x [T, H]; gate_up E weights [2 I, H]; down E weights [H, I]; ids [T, top_k]; weights [T, top_k] float32. Returns
    [T, H]. A token's sum runs over its experts in the order of `ids`, so it does not depend on the other tokens.
    """
    tokens, top_k = ids.shape
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=len(gate_up)).tolist()
    rows = x.index_select(0, order // top_k)
    out = torch.empty((tokens * top_k, x.shape[1]), dtype=x.dtype, device=x.device)
    start = 0
    for expert, count in enumerate(counts):
        if count:
            inner = gate_up[expert].gated(rows[start : start + count], None, activation)
            out[order[start : start + count]] = down[expert].run(inner, None)
            start += count
    return torch.einsum("tkh,tk->th", out.view(tokens, top_k, x.shape[1]).float(), weights).to(x.dtype)
