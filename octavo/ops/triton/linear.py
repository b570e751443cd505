"""Weights held value by value: cuBLAS multiplies, but for what few tokens gain by a product that gates on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.ops.linear import DenseKernel, gate, linear_kernel
from octavo.ops.quantized import Activations, Quantized
from octavo.ops.triton.product import Matrix, multiply
from octavo.weights.weight import Weight

FUSED_UP_TO = 16  # tokens: one launch instead of two, where both only read the weight
SINGLE_UP_TO = 1  # tokens whose sum and norm each program makes itself: each reads the whole weight
FUSED_DTYPES = (torch.bfloat16, torch.float16)


class DenseTriton:
    """Takes every kind of weight: dense as it is, quantized ones dequantized once at load."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        return None

    def pack(
        self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False
    ) -> DenseTritonPacked:
        weight = DenseKernel().pack(parts, dtype, device).weight
        num = 2 if gated else 1
        features = weight.shape[0] // num
        return DenseTritonPacked(Matrix(weight, weight.shape[1], features, features, num))


@dataclass(frozen=True, slots=True)
class DenseTritonPacked:
    """weight [O, I], as torch and `multiply` take it."""

    matrix: Matrix
    takes: torch.dtype | None = None

    def run(self, x: Activations, bias: Tensor | None) -> Tensor:
        assert not isinstance(x, Quantized), "takes plain activations"
        return ops.linear(x, self.matrix.values, bias)

    def gated(
        self, x: Activations, bias: Tensor | None, activation: spec.Activation, takes: torch.dtype | None = None
    ) -> Activations:
        assert not isinstance(x, Quantized), "takes plain activations"
        if takes is None and 0 < len(x) <= FUSED_UP_TO and x.dtype in FUSED_DTYPES and self.matrix.num == 2:
            return multiply(x, None, self.matrix, bias, activation, x.dtype)
        return gate(self.run(x, bias), activation, takes)

    def add_norm(
        self, x: Tensor, y: Tensor, norm: Tensor, eps: float, bias: Tensor | None, activation: spec.Activation | None
    ) -> tuple[Tensor, Tensor] | None:
        """x + y, and the product of its norm, from one launch; None for more tokens than gain by that."""
        if len(x) > SINGLE_UP_TO or x.dtype not in FUSED_DTYPES or (activation is not None) != (self.matrix.num == 2):
            return None
        return ops.add_rms_norm_linear(x, y, norm, eps, self.matrix.values, bias, activation)

    def embed(self, ids: Tensor) -> Tensor:
        return ops.embed(self.matrix.values, ids)


linear_kernel("triton", DenseTriton())
