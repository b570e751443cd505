"""Activations rounded to eight bits, row by row, for products that take them so."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from octavo.ops.registry import Case, draw, op, shapes, size

LIMITS: Mapping[torch.dtype, float] = MappingProxyType({torch.int8: 127.0, torch.float8_e4m3fn: 448.0})
"""The largest value of each format, which the largest of a row becomes."""

SMALLEST = 1e-12  # scale of a row of zeros
# A value that is halfway between two codes may go either way: one step of the largest value that cases draw.
TOLERANCE = {torch.float32: 0.3, torch.bfloat16: 0.3, torch.float16: 0.3}


class Quantized(NamedTuple):
    """values [T, I] int8 or float8_e4m3fn, scales [T, 1] float32: row t stands for values[t] · scales[t]."""

    values: Tensor
    scales: Tensor

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The values that they stand for, [T, I]."""
        return (self.values.float() * self.scales).to(dtype)


Activations = Tensor | Quantized
"""What a linear layer reads."""


def _inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    x = draw((size(case, "T"), size(case, "I")), case, generator)
    x[-1] *= 1e-3
    return x, case["to"]


@op(
    shapes(T=(1, 7), I=(8, 100), to=tuple(LIMITS), dtype=(torch.float32, torch.bfloat16)),
    _inputs,
    TOLERANCE,
)
def quantize(x: Tensor, dtype: torch.dtype) -> Quantized:
    """x [T, I] in `dtype`, int8 or float8_e4m3fn, each row by its largest value; halves go to even integers."""
    wide = x.float()
    scales = (wide.abs().amax(-1, keepdim=True) / LIMITS[dtype]).clamp(min=SMALLEST)
    scaled = wide / scales
    if dtype == torch.int8:
        return Quantized(scaled.round().to(torch.int8), scales)
    return Quantized(scaled.clamp(-LIMITS[dtype], LIMITS[dtype]).to(dtype), scales)
