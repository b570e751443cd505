"""Pointwise operations: activations, plain and gated, bounds, sums, and rows rounded to eight bits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo import spec
from octavo.ops.activation import GATED, PLAIN
from octavo.ops.quantized import LIMITS, Quantized
from octavo.ops.registry import implements
from octavo.ops.triton.elementary import activate, magnitude, quantized_code, quantized_scale, rounded, tanh

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = 1024
ROW_BLOCK = 4096  # columns of a row that is quantized at a time


@triton.jit
def map_kernel(x_ptr, y_ptr, out_ptr, count, factor, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """out = f(x, factor), or x + y."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if KIND == "add":
        out = x + tl.load(y_ptr + at, mask=mask, other=0.0).to(tl.float32)
    elif KIND == "scale":
        out = x * factor
    elif KIND == "clip":
        out = tl.where(x > factor, factor, tl.where(x < -factor, -factor, x))
    elif KIND == "softcap":
        out = rounded(tanh(rounded(x / factor, dtype)), dtype) * factor
    else:
        out = activate(x, KIND)
    tl.store(out_ptr + at, out.to(dtype), mask=mask)


def _map(kind: str, x: Tensor, factor: float = 0.0, y: Tensor | None = None) -> Tensor:
    x, y = x.contiguous(), None if y is None else y.contiguous()
    out = torch.empty_like(x)
    if x.numel():
        grid = (triton.cdiv(x.numel(), BLOCK),)
        map_kernel[grid](x, y, out, x.numel(), factor, KIND=kind, BLOCK=BLOCK, num_warps=4)
    return out


@triton.jit
def gated(x_ptr, row, at, mask, columns, stride, ACTIVATION: tl.constexpr):
    """activation(gate) · up of some columns of a row gate | up, as the type of x holds it; x itself without one."""
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + row * stride + at, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION is not None:
        up = tl.load(x_ptr + row * stride + columns + at, mask=mask, other=0.0).to(tl.float32)
        x = rounded(rounded(activate(x, ACTIVATION), dtype) * up, dtype)
    return x


@triton.jit
def gate_kernel(x_ptr, out_ptr, columns, stride, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < columns
    out = gated(x_ptr, row, at, mask, columns, stride, ACTIVATION)
    tl.store(out_ptr + row * columns + at, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def quantize_kernel(
    x_ptr,
    out_ptr,
    scales_ptr,
    stride,
    COLUMNS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row, which goes over it twice: for the largest value, then for the codes."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, COLUMNS, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = gated(x_ptr, row, at, at < COLUMNS, COLUMNS, stride, ACTIVATION)
        largest = tl.maximum(largest, magnitude(value))
    scale = quantized_scale(tl.max(largest, 0), LIMIT)
    tl.store(scales_ptr + row, scale)
    for first in range(0, COLUMNS, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = gated(x_ptr, row, at, at < COLUMNS, COLUMNS, stride, ACTIVATION)
        code = quantized_code(value / scale, out_ptr.dtype.element_ty, LIMIT)
        tl.store(out_ptr + row * COLUMNS + at, code, mask=at < COLUMNS)


def _gate(activation: spec.Activation, x: Tensor) -> Tensor:
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, columns = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    if rows:
        grid = (rows, triton.cdiv(columns, BLOCK))
        gate_kernel[grid](x, out, columns, x.stride(0), ACTIVATION=activation, BLOCK=BLOCK, num_warps=4)
    return out


def _quantize(x: Tensor, columns: int, activation: spec.Activation | None, dtype: torch.dtype) -> Quantized:
    x = x if x.stride(1) == 1 else x.contiguous()
    rows = x.shape[0]
    out = torch.empty((rows, columns), dtype=dtype, device=x.device)
    scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    if rows:
        block = min(triton.next_power_of_2(columns), ROW_BLOCK)
        quantize_kernel[(rows,)](
            x,
            out,
            scales,
            x.stride(0),
            COLUMNS=columns,
            ACTIVATION=activation,
            LIMIT=LIMITS[dtype],
            BLOCK=block,
            num_warps=min(max(block // 256, 1), 16),
        )
    return Quantized(out, scales)


@implements("quantize", "triton", DTYPES)
def quantize(x: Tensor, dtype: torch.dtype) -> Quantized:
    """As ops.quantize."""
    return _quantize(x, x.shape[1], None, dtype)


@implements("gate_quantized", "triton", DTYPES)
def gate_quantized(x: Tensor, activation: spec.Activation, dtype: torch.dtype) -> Quantized:
    """As ops.gate_quantized."""
    return _quantize(x, x.shape[1] // 2, activation, dtype)


@implements("add", "triton", DTYPES)
def add(x: Tensor, y: Tensor) -> Tensor:
    """As ops.add."""
    return _map("add", x, y=y)


@implements("scale", "triton", DTYPES)
def scale(x: Tensor, factor: float) -> Tensor:
    """As ops.scale."""
    return _map("scale", x, factor)


@implements("clip", "triton", DTYPES)
def clip(x: Tensor, bound: float) -> Tensor:
    """As ops.clip."""
    return _map("clip", x, bound)


@implements("softcap", "triton", DTYPES)
def softcap(x: Tensor, cap: float) -> Tensor:
    """As ops.softcap."""
    return _map("softcap", x, cap)


def _activations() -> None:
    def plain(activation: spec.Activation) -> None:
        @implements(PLAIN[activation], "triton", DTYPES)
        def _(x: Tensor) -> Tensor:
            return _map(activation, x)

    def gates(activation: spec.Activation) -> None:
        @implements(GATED[activation], "triton", DTYPES)
        def _(x: Tensor) -> Tensor:
            return _gate(activation, x)

    for name in PLAIN:
        plain(name)
        gates(name)


_activations()
