"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): what each token's own adapter adds to a product.

Adapters of one layer stand in two tensors, a [n, R, I] and b [n, O, R]; one of a smaller rank has zeros in its last
rows and columns. Which one a token has is read on the device, so that a recorded step serves any mix of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.registry import Case, draw, op, shapes, size


def _adapters(case: Case, generator: torch.Generator) -> Tensor:
    """Adapters [T] int32 of tokens, some of which have none."""
    return torch.randint(-1, size(case, "n"), (size(case, "T"),), generator=generator, dtype=torch.int32)


def _shrink_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, count, rank, columns = (size(case, axis) for axis in ("T", "n", "R", "I"))
    a = draw((count, rank, columns), case, generator, columns**-0.5)
    return draw((tokens, columns), case, generator), a, _adapters(case, generator)


def _expand_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, count, rank, rows = (size(case, axis) for axis in ("T", "n", "R", "O"))
    y, h = draw((tokens, rows + 5), case, generator), torch.randn(tokens, rank, generator=generator)
    b = draw((count, rows, rank), case, generator, rank**-0.5)
    return y, h, b, _adapters(case, generator), torch.rand(count, generator=generator) + 0.5, 3


@op(
    shapes(T=(1, 7, 70), n=(1, 3), R=(4, 17), I=(16, 200), dtype=(torch.float32, torch.bfloat16)),
    _shrink_inputs,
    {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3},
)
def lora_shrink(x: Tensor, a: Tensor, adapters: Tensor) -> Tensor:
    """a[adapters[t]] · x[t] for each token; [T, R] float32.

    x [T, I]; a [n, R, I]; adapters [T] int32, -1 for none, whose row is zero.
    """
    out = torch.zeros((x.shape[0], a.shape[1]), dtype=torch.float32, device=x.device)
    for adapter in range(len(a)):
        mine = adapters == adapter
        out[mine] = x[mine].float() @ a[adapter].float().T
    return out


@op(
    shapes(T=(1, 7, 70), n=(1, 3), R=(4, 17), O=(8, 100), dtype=(torch.float32, torch.bfloat16)),
    _expand_inputs,
    {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3},
)
def lora_expand(y: Tensor, h: Tensor, b: Tensor, adapters: Tensor, scales: Tensor, start: int) -> Tensor:
    """Add scales[adapter] · b[adapter] · h[t] to columns start.. of y, in place, for each token's adapter; returns y.

    y [T, at least start + O]; h [T, R] float32 as lora_shrink gives it; b [n, O, R]; adapters [T] int32, -1 for none;
    scales [n] float32. A product of several parts is extended part by part.
    """
    target = y[:, start : start + b.shape[1]]
    for adapter in range(len(b)):
        mine = adapters == adapter
        added = scales[adapter] * (h[mine].float() @ b[adapter].float().T)
        target[mine] = (target[mine].float() + added).to(y.dtype)
    return y
