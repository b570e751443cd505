"""Rotary position embedding of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.registry import Case, draw, op, shapes, size


def _inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, rotated = size(case, "T"), size(case, "R")
    angle = torch.rand(tokens, rotated // 2, generator=generator) * 100
    angles = torch.cat((angle.cos(), angle.sin()), -1)
    return draw((tokens, size(case, "N"), size(case, "D")), case, generator), angles


@op(
    shapes(T=(1, 3), N=(1, 6), D=(16, 64), R=(4, 16), dtype=(torch.float32, torch.bfloat16)),
    _inputs,
    {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3},
)
def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + R/2) of the first R channels of x [T, N, D]; the other channels pass.

    angles [T, R] float32: R/2 cosines, then R/2 sines, of each token's position. Computed in float32.
    Su et al. 2021, arXiv:2104.09864, in the half-split layout of GPT-NeoX and Llama checkpoints.
    """
    rotated = angles.shape[-1]
    half = rotated // 2
    cos, sin = angles[:, None, :half], angles[:, None, half:]
    first, second = x[..., :half].float(), x[..., half:rotated].float()
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
    return turned if rotated == x.shape[-1] else torch.cat((turned, x[..., rotated:]), -1)
