"""Products in Triton whose sums do not know how many tokens there are: bits of a row that depend on the row alone.

One tile serves every number of tokens, nothing is cut along the columns, and nothing is left to cuBLAS, which chooses
by the number of rows. What else a layer computes (norms, rotation, activations, routing) is by row in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.ops.linear import ByProduct, Packed, choose_kernel, linear_kernel
from octavo.ops.moe import stacker
from octavo.ops.quantized import Activations, Quantized
from octavo.ops.registry import implements
from octavo.ops.triton import moe
from octavo.ops.triton.fp8 import Fp8Packed
from octavo.ops.triton.int8 import Int8Packed
from octavo.ops.triton.product import Config, Matrix, multiply
from octavo.weights.weight import Weight

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COLUMNS = {1: 128, 2: 64, 4: 32}  # of a tile, by bytes of an activation


def tile(x_bytes: int) -> Config:
    """The tile of linear layers: few tokens leave most of it empty, which waits for no more memory than a small one."""
    return Config(64, 64, COLUMNS[x_bytes], warps=4, stages=4)


def expert_tile(x_bytes: int) -> Config:
    """The tile of experts, which mostly have few tokens each."""
    return Config(32, 128, COLUMNS[x_bytes], warps=4, stages=4)


@dataclass(frozen=True, slots=True)
class OneTile(ByProduct):
    """A weight as Triton's kernels hold it, multiplied by the same tile for any number of tokens."""

    held: moe.Expert

    @property
    def takes(self) -> torch.dtype | None:
        return self.held.takes

    def embed(self, ids: Tensor) -> Tensor:
        return self.held.embed(ids)

    def _product(self, x: Activations, bias: Tensor | None, activation: spec.Activation | None) -> Tensor:
        held = self.held
        if isinstance(held, Int8Packed | Fp8Packed):
            values, scales = x if isinstance(x, Quantized) else ops.quantize(x, held.takes)
            return multiply(values, scales, held.matrix, bias, activation, held.dtype, tile(values.element_size()))
        assert not isinstance(x, Quantized), "takes plain activations"
        return multiply(x, None, held.matrix, bias, activation, x.dtype, tile(x.element_size()))


class Invariant:
    """Takes what Triton's kernels take."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        return None

    def pack(self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False) -> OneTile:
        held = choose_kernel(parts[0], dtype, ("triton",)).pack(parts, dtype, device, gated)
        assert isinstance(held, moe.Expert), type(held)
        return OneTile(held)


def stack(experts: Sequence[Packed]) -> moe.Stack:
    """The experts of a layer, as Triton's kernels hold them."""
    return moe.Stack.of([expert.held if isinstance(expert, OneTile) else expert for expert in experts])


linear_kernel("invariant", Invariant())
stacker("invariant", stack)


@implements("linear", "invariant", DTYPES)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As ops.linear."""
    matrix = Matrix(weight, weight.shape[1], weight.shape[0], weight.shape[0])
    return multiply(x, None, matrix, bias, None, x.dtype, tile(x.element_size()))


@implements("expert_mlps", "invariant", DTYPES)
def expert_mlps(
    x: Tensor,
    gate_up: Sequence[Packed],
    down: Sequence[Packed],
    ids: Tensor,
    weights: Tensor,
    activation: spec.Activation,
) -> Tensor:
    """As ops.expert_mlps."""
    return moe.multiply_experts(x, gate_up, down, ids, weights, activation, expert_tile(x.element_size()))
