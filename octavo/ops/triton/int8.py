"""W8A8: int8 weights with a scale a row, int8 activations with a scale a token; exact sums of whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.ops.linear import ByProduct, linear_kernel
from octavo.ops.quantized import Activations, Quantized
from octavo.ops.triton.product import Matrix, finish, multiply
from octavo.weights.integers import ScaledInt8
from octavo.weights.weight import Weight

CUBLAS_FROM = 256  # tokens, from which on cuBLAS's product and a pass over its int32 sums are faster than a fused one
CUBLAS_MULTIPLE = 8  # what it wants of features and columns
MOST_COLUMNS = 2**31 // (127 * 128)  # what an int32 sum holds of the largest products


class Int8Triton:
    """Takes eight bits with one scale a row."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        if not isinstance(weight, ScaledInt8):
            return "takes int8 weights"
        if weight.shape[1] >= MOST_COLUMNS:
            return f"sums less than {MOST_COLUMNS} columns in int32, not {weight.shape[1]}"
        return None if dtype.is_floating_point else f"gives floating-point numbers, not {dtype}"

    def pack(
        self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False
    ) -> Int8Packed:
        whole = ScaledInt8.stack([part for part in parts if isinstance(part, ScaledInt8)])
        codes = torch.empty(whole.codes.shape, dtype=torch.int8, device=device).copy_(whole.codes)
        scales = whole.scales.to(device, copy=True)
        num = 2 if gated else 1
        features = codes.shape[0] // num
        return Int8Packed(Matrix(codes, codes.shape[1], features, features, num, "plain", scales), dtype)


@dataclass(frozen=True, slots=True)
class Int8Packed(ByProduct):
    """codes [O, I] int8 and their scales, one matrix or gate and up."""

    matrix: Matrix
    dtype: torch.dtype
    takes: torch.dtype = torch.int8

    def embed(self, ids: Tensor) -> Tensor:
        scales = self.matrix.scales
        assert scales is not None
        rows = self.matrix.values.index_select(0, ids).float()
        return (rows * scales.index_select(0, ids)[:, None]).to(self.dtype)

    def _product(self, x: Activations, bias: Tensor | None, activation: spec.Activation | None) -> Tensor:
        values, scales = x if isinstance(x, Quantized) else ops.quantize(x, torch.int8)
        if not self._suits_cublas(values):
            return multiply(values, scales, self.matrix, bias, activation, self.dtype)
        sums = torch._int_mm(values.contiguous(), self.matrix.values.t())
        columns = sums.shape[1] // (1 if activation is None else 2)
        out = torch.empty((len(values), columns), dtype=self.dtype, device=values.device)
        finish(sums[None], scales, self.matrix.scales, bias, out, activation, self.matrix)
        return out

    def _suits_cublas(self, values: Tensor) -> bool:
        shape = self.matrix.values.shape
        return len(values) >= CUBLAS_FROM and all(size % CUBLAS_MULTIPLE == 0 for size in shape)


linear_kernel("triton", Int8Triton())
