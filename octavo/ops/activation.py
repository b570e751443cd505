"""Pointwise nonlinearities, plain and gated, and the bounds some models put on activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo import spec
from octavo.ops.quantized import LIMITS, Quantized, quantize
from octavo.ops.quantized import TOLERANCE as QUANTIZED_TOLERANCE
from octavo.ops.registry import Case, draw, op, shapes, size

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
CASES = shapes(T=(1, 7), I=(4, 100), dtype=(torch.float32, torch.bfloat16))


def _plain(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    return (draw((size(case, "T"), size(case, "I")), case, generator, scale=2.0),)


def _gated(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    return (draw((size(case, "T"), 2 * size(case, "I")), case, generator, scale=2.0),)


def _bounded(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    return *_plain(case, generator), 1.5


@op(CASES, _plain, TOLERANCE)
def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), for x [T, I]."""
    return F.silu(x)


@op(CASES, _plain, TOLERANCE)
def gelu(x: Tensor) -> Tensor:
    """x · Φ(x) with the exact normal distribution function, for x [T, I]."""
    return F.gelu(x)


@op(CASES, _plain, TOLERANCE)
def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415), for x [T, I]."""
    return F.gelu(x, approximate="tanh")


@op(CASES, _plain, TOLERANCE)
def relu(x: Tensor) -> Tensor:
    """max(x, 0), for x [T, I]."""
    return F.relu(x)


@op(CASES, _plain, TOLERANCE)
def relu2(x: Tensor) -> Tensor:
    """max(x, 0) squared, for x [T, I]."""
    return F.relu(x).square()


@op(CASES, _gated, TOLERANCE)
def silu_mul(x: Tensor) -> Tensor:
    """silu(gate) · up for x = gate | up [T, 2 I]; returns [T, I]."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


@op(CASES, _gated, TOLERANCE)
def gelu_mul(x: Tensor) -> Tensor:
    """gelu(gate) · up for x = gate | up [T, 2 I]; returns [T, I]."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate) * up


@op(CASES, _gated, TOLERANCE)
def gelu_tanh_mul(x: Tensor) -> Tensor:
    """gelu_tanh(gate) · up for x = gate | up [T, 2 I]; returns [T, I]."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate, approximate="tanh") * up


@op(CASES, _gated, TOLERANCE)
def relu_mul(x: Tensor) -> Tensor:
    """relu(gate) · up for x = gate | up [T, 2 I]; returns [T, I]."""
    gate, up = x.chunk(2, -1)
    return F.relu(gate) * up


@op(CASES, _gated, TOLERANCE)
def relu2_mul(x: Tensor) -> Tensor:
    """relu(gate)² · up for x = gate | up [T, 2 I]; returns [T, I]."""
    gate, up = x.chunk(2, -1)
    return F.relu(gate).square() * up


@op(CASES, _bounded, TOLERANCE)
def softcap(x: Tensor, cap: float) -> Tensor:
    """cap · tanh(x / cap): x bent into (-cap, cap) (Gemma 2)."""
    return torch.tanh(x / cap) * cap


@op(CASES, _bounded, TOLERANCE)
def clip(x: Tensor, bound: float) -> Tensor:
    """x cut to [-bound, bound] (OLMo)."""
    return x.clamp(-bound, bound)


PLAIN: Mapping[spec.Activation, str] = MappingProxyType(
    {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_tanh", "relu": "relu", "relu2": "relu2"}
)
"""Each activation's op, by name: the function behind a name changes when ops are bound."""

GATED: Mapping[spec.Activation, str] = MappingProxyType({each: f"{name}_mul" for each, name in PLAIN.items()})
"""The op that multiplies the activated first half with the second half."""


def _gated_quantized(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    return *_gated(case, generator), case["activation"], case["to"]


@op(
    shapes(
        T=(3,),
        I=(100,),
        activation=("silu", "gelu", "gelu_tanh", "relu", "relu2"),
        to=tuple(LIMITS),
        dtype=(torch.float32, torch.bfloat16),
    ),
    _gated_quantized,
    {dtype: 4 * tolerance for dtype, tolerance in QUANTIZED_TOLERANCE.items()},
)
def gate_quantized(x: Tensor, activation: spec.Activation, dtype: torch.dtype) -> Quantized:
    """activation(gate) · up for x = gate | up [T, 2 I], in `dtype` as ops.quantize makes it; [T, I]."""
    return quantize(GATES[activation](x), dtype)


GATES: Mapping[spec.Activation, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"silu": silu_mul, "gelu": gelu_mul, "gelu_tanh": gelu_tanh_mul, "relu": relu_mul, "relu2": relu2_mul}
)
"""The references of those."""
