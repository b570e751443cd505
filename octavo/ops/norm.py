"""Normalization over the last axis, the residual addition between norms, and both at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.ops.quantized import LIMITS, Quantized, quantize
from octavo.ops.quantized import TOLERANCE as QUANTIZED_TOLERANCE
from octavo.ops.registry import Case, Inputs, draw, op, shapes, size

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
CASES = shapes(T=(1, 7, 65), H=(8, 64, 1000), dtype=(torch.float32, torch.bfloat16))


def _rms_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    hidden = size(case, "H")
    weight = torch.rand(hidden, generator=generator) + 0.5
    return draw((size(case, "T"), hidden), case, generator), weight, 1e-5


def _head_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    heads, dim = size(case, "N"), size(case, "D")
    weight = torch.rand(heads, dim, generator=generator) + 0.5
    return draw((size(case, "T"), heads, dim), case, generator), weight, 1e-6


def _layer_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    x, weight, eps = _rms_inputs(case, generator)
    bias = torch.randn(size(case, "H"), generator=generator) if case["bias"] else None
    return x, weight, bias, eps


@op(CASES, _rms_inputs, TOLERANCE)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row of x [T, H] to unit root-mean-square, times weight [H] float32. Computed in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


@op(shapes(T=(1, 5), N=(1, 6), D=(8, 64), dtype=(torch.float32, torch.bfloat16)), _head_inputs, TOLERANCE)
def head_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each head of x [T, N, D] to unit root-mean-square, times weight [N, D] float32. Computed in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


@op(shapes(T=(1, 7), H=(8, 1000), bias=(False, True), dtype=(torch.float32, torch.bfloat16)), _layer_inputs, TOLERANCE)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Center and scale each row of x [T, H] to unit variance, times weight [H] plus bias [H], both float32."""
    return F.layer_norm(x.float(), weight.shape, weight, bias, eps).to(x.dtype)


def _add_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    shape = (size(case, "T"), size(case, "H"))
    return draw(shape, case, generator), draw(shape, case, generator)


@op(CASES, _add_inputs, TOLERANCE)
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, both [T, H]: the residual stream takes a block's output."""
    return x + y


# ---- one launch for what a residual stream goes through between two parts of a model


ADDED_CASES = shapes(T=(1, 7), H=(8, 1000), dtype=(torch.float32, torch.bfloat16))
QUANTIZED_CASES = shapes(T=(1, 7), H=(8, 1000), to=tuple(LIMITS), dtype=(torch.float32, torch.bfloat16))


def _added(inputs: Inputs) -> Inputs:
    """Inputs of a norm, with what is added in front of them."""

    def draw_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
        return draw((size(case, "T"), size(case, "H")), case, generator), *inputs(case, generator)

    return draw_inputs


def _quantized(inputs: Inputs) -> Inputs:
    return lambda case, generator: (*inputs(case, generator), case["to"])


def _both_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    return *_added(_rms_inputs)(case, generator), torch.rand(size(case, "H"), generator=generator) + 0.5, 1e-6


@op(ADDED_CASES, _added(_rms_inputs), TOLERANCE)
def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, both [T, H], and rms_norm(x + y)."""
    total = add(x, y)
    return total, rms_norm(total, weight, eps)


@op(ADDED_CASES, _added(lambda case, generator: _layer_inputs({**case, "bias": True}, generator)), TOLERANCE)
def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, both [T, H], and layer_norm(x + y)."""
    total = add(x, y)
    return total, layer_norm(total, weight, bias, eps)


@op(ADDED_CASES, _added(_rms_inputs), TOLERANCE)
def rms_norm_add(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x + rms_norm(y), for x, y [T, H]."""
    return add(x, rms_norm(y, weight, eps))


@op(ADDED_CASES, _both_inputs, TOLERANCE)
def rms_norm_add_rms_norm(
    x: Tensor, y: Tensor, inner: Tensor, inner_eps: float, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """total = x + rms_norm(y, inner), for x, y [T, H], and rms_norm(total, weight)."""
    total = rms_norm_add(x, y, inner, inner_eps)
    return total, rms_norm(total, weight, eps)


@op(QUANTIZED_CASES, _quantized(_rms_inputs), QUANTIZED_TOLERANCE)
def rms_norm_quantized(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Quantized:
    """rms_norm(x) in `dtype`, as ops.quantize makes it."""
    return quantize(rms_norm(x, weight, eps), dtype)


@op(QUANTIZED_CASES, _quantized(_added(_rms_inputs)), QUANTIZED_TOLERANCE)
def add_rms_norm_quantized(
    x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Quantized]:
    """x + y, both [T, H], and rms_norm(x + y) in `dtype`, as ops.quantize makes it."""
    total = add(x, y)
    return total, quantize(rms_norm(total, weight, eps), dtype)
