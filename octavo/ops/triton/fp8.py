"""W8A8 in floats: float8_e4m3fn weights with scales of rows or blocks, activations in float8 with a scale a token.

Products of eight-bit floats are summed in float32: Hopper's own sums keep about fourteen bits, so they are added to
float32 ones every 128 columns (`use_fast_accum=False` is cuBLAS's word for it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.ops.linear import ByProduct, linear_kernel
from octavo.ops.quantized import Activations, Quantized
from octavo.ops.triton.product import Matrix, multiply
from octavo.platforms.cuda import FLOAT8_SINCE
from octavo.weights.floats import E4M3, ScaledFloat8
from octavo.weights.weight import Weight

SCALED_ROWS_SINCE = (9, 0)  # where torch._scaled_mm takes a scale for each row and each token
SCALED_MM_FROM = 128  # tokens
SCALED_MM_MULTIPLE = 16  # what torch._scaled_mm wants of features and columns
STEP = 128  # columns summed before a block's scale is applied


class Fp8Triton:
    """Takes float8 weights, one scale a row or a block of rows and a multiple of 128 columns."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        if not isinstance(weight, ScaledFloat8):
            return "takes fp8 weights"
        if torch.cuda.is_available() and torch.cuda.get_device_capability() < FLOAT8_SINCE:
            found = "sm_{}{}".format(*torch.cuda.get_device_capability())
            return f"needs a GPU that multiplies fp8, sm_89 or later; this one is {found}"
        columns = weight.block[1]
        if columns is not None and columns % STEP and columns < weight.shape[1]:
            return f"takes blocks of a multiple of {STEP} columns, not {columns}"
        return None if dtype.is_floating_point else f"gives floating-point numbers, not {dtype}"

    def pack(self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False) -> Fp8Packed:
        whole = ScaledFloat8.stack([part for part in parts if isinstance(part, ScaledFloat8)])
        num = 2 if gated else 1
        features, in_features = whole.shape[0] // num, whole.shape[1]
        values = torch.empty(whole.shape, dtype=E4M3, device=device)
        values.view(torch.uint8).copy_(whole.values.view(torch.uint8))
        rows, columns = whole.block
        if columns is None or columns >= in_features:
            scales = whole.by_row().scales.flatten().to(device, copy=True)
            return Fp8Packed(Matrix(values, in_features, features, features, num, "plain", scales), dtype)
        scales = whole.scales.to(device, copy=True)
        matrix = Matrix(values, in_features, features, features, num, "plain", scales, block=(rows, columns))
        return Fp8Packed(matrix, dtype)


@dataclass(frozen=True, slots=True)
class Fp8Packed(ByProduct):
    """values [O, I] float8_e4m3fn and their scales, one matrix or gate and up."""

    matrix: Matrix
    dtype: torch.dtype
    takes: torch.dtype = E4M3

    def embed(self, ids: Tensor) -> Tensor:
        matrix = self.matrix
        assert matrix.scales is not None
        rows = matrix.values.view(torch.uint8).index_select(0, ids).view(E4M3).float()
        block_rows, block_columns = matrix.block
        if block_rows == 0:
            return (rows * matrix.scales.index_select(0, ids)[:, None]).to(self.dtype)
        scales = matrix.scales.index_select(0, ids // block_rows).repeat_interleave(block_columns, 1)
        return (rows * scales[:, : matrix.in_features]).to(self.dtype)

    def _gates(self, x: Activations) -> bool:
        return len(x.values if isinstance(x, Quantized) else x) < SCALED_MM_FROM

    def _product(self, x: Activations, bias: Tensor | None, activation: spec.Activation | None) -> Tensor:
        values, scales = x if isinstance(x, Quantized) else ops.quantize(x, E4M3)
        matrix = self.matrix
        if activation is not None or not self._suits_scaled_mm(values):
            return multiply(values, scales, matrix, bias, activation, self.dtype)
        assert matrix.scales is not None
        return torch._scaled_mm(
            values.contiguous(),
            matrix.values.t(),
            scale_a=scales,
            scale_b=matrix.scales[None, :],
            bias=bias,
            out_dtype=self.dtype,
            use_fast_accum=False,
        )

    def _suits_scaled_mm(self, values: Tensor) -> bool:
        """Whether torch has a product for this: scales of rows, bfloat16 results, and sizes it takes."""
        return (
            len(values) >= SCALED_MM_FROM
            and values.device.type == "cuda"
            and self.matrix.block[0] == 0
            and self.dtype == torch.bfloat16
            and all(size % SCALED_MM_MULTIPLE == 0 for size in self.matrix.values.shape)
            and torch.cuda.get_device_capability(values.device) >= SCALED_ROWS_SINCE
        )


linear_kernel("triton", Fp8Triton())
