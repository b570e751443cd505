"""Norms of whole rows, with the addition before them and the quantization behind them: one program per row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.quantized import LIMITS, Quantized
from octavo.ops.registry import implements
from octavo.ops.triton.elementary import magnitude, quantized_code, quantized_scale, rounded

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def normalized(x, mask, weight_ptr, bias_ptr, columns, at, eps, CENTERED: tl.constexpr):
    """A row over its root-mean-square, or over its deviation when CENTERED, times weight plus bias."""
    if CENTERED:
        x = tl.where(mask, x - tl.sum(x, 0) / columns, 0.0)
    weight = tl.load(weight_ptr + at, mask=mask, other=0.0)
    y = x * tl.rsqrt(tl.sum(x * x, 0) / columns + eps) * weight
    if bias_ptr is not None:
        y += tl.load(bias_ptr + at, mask=mask, other=0.0)
    return y


@triton.jit
def norm_kernel(
    x_ptr,
    y_ptr,
    inner_ptr,
    total_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    scales_ptr,
    x_stride,
    y_stride,
    columns,
    inner_eps,
    eps,
    CENTERED: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """total = x + inner(y), or x + y; out = norm(total). Pointers of what is left out are None."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    total = tl.load(x_ptr + row * x_stride + at, mask=mask, other=0.0).to(tl.float32)
    if y_ptr is not None:
        y = tl.load(y_ptr + row * y_stride + at, mask=mask, other=0.0).to(tl.float32)
        if inner_ptr is not None:
            y = rounded(normalized(y, mask, inner_ptr, None, columns, at, inner_eps, False), dtype)
        total = rounded(total + y, dtype)
        tl.store(total_ptr + row * columns + at, total.to(dtype), mask=mask)
    if out_ptr is not None:
        out = normalized(total, mask, weight_ptr, bias_ptr, columns, at, eps, CENTERED)
        if scales_ptr is None:
            tl.store(out_ptr + row * columns + at, out.to(dtype), mask=mask)
        else:
            out = rounded(out, dtype)
            scale = quantized_scale(tl.max(magnitude(out), 0), LIMIT)
            tl.store(scales_ptr + row, scale)
            code = quantized_code(out / scale, out_ptr.dtype.element_ty, LIMIT)
            tl.store(out_ptr + row * columns + at, code, mask=mask)


def _launch(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    y: Tensor | None = None,
    inner: Tensor | None = None,
    inner_eps: float = 0.0,
    bias: Tensor | None = None,
    centered: bool = False,
    quantized: torch.dtype | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The sum, the norm, and its scales; None for those that were not asked for."""
    x, y = _rows(x), None if y is None else _rows(y)
    rows, columns = x.shape
    total = None if y is None else torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    out = scales = None
    if weight is not None:
        out = torch.empty((rows, columns), dtype=quantized or x.dtype, device=x.device)
    if quantized is not None:
        scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    if rows:
        block = triton.next_power_of_2(columns)
        norm_kernel[(rows,)](
            x,
            y,
            inner,
            total,
            weight,
            bias,
            out,
            scales,
            x.stride(0),
            0 if y is None else y.stride(0),
            columns,
            inner_eps,
            eps,
            CENTERED=centered,
            LIMIT=0.0 if quantized is None else LIMITS[quantized],
            BLOCK=block,
            num_warps=warps(block),
        )
    return total, out, scales


def _rows(x: Tensor) -> Tensor:
    """x [T, H] with its rows' values side by side."""
    return x if x.stride(1) == 1 else x.contiguous()


def warps(block: int) -> int:
    """Eight values of two bytes are what a thread loads at once."""
    return min(max(block // 256, 1), 16)


@implements("rms_norm", "triton", DTYPES)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ops.rms_norm."""
    _, out, _ = _launch(x, weight, eps)
    assert out is not None
    return out


@implements("layer_norm", "triton", DTYPES)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """As ops.layer_norm."""
    _, out, _ = _launch(x, weight, eps, bias=bias, centered=True)
    assert out is not None
    return out


@implements("add_rms_norm", "triton", DTYPES)
def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As ops.add_rms_norm."""
    total, out, _ = _launch(x, weight, eps, y=y)
    assert total is not None and out is not None
    return total, out


@implements("add_layer_norm", "triton", DTYPES)
def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """As ops.add_layer_norm."""
    total, out, _ = _launch(x, weight, eps, y=y, bias=bias, centered=True)
    assert total is not None and out is not None
    return total, out


@implements("rms_norm_add", "triton", DTYPES)
def rms_norm_add(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ops.rms_norm_add."""
    total, _, _ = _launch(x, None, 0.0, y=y, inner=weight, inner_eps=eps)
    assert total is not None
    return total


@implements("rms_norm_add_rms_norm", "triton", DTYPES)
def rms_norm_add_rms_norm(
    x: Tensor, y: Tensor, inner: Tensor, inner_eps: float, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As ops.rms_norm_add_rms_norm."""
    total, out, _ = _launch(x, weight, eps, y=y, inner=inner, inner_eps=inner_eps)
    assert total is not None and out is not None
    return total, out


@implements("rms_norm_quantized", "triton", DTYPES)
def rms_norm_quantized(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Quantized:
    """As ops.rms_norm_quantized."""
    _, out, scales = _launch(x, weight, eps, quantized=dtype)
    assert out is not None and scales is not None
    return Quantized(out, scales)


@implements("add_rms_norm_quantized", "triton", DTYPES)
def add_rms_norm_quantized(
    x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Quantized]:
    """As ops.add_rms_norm_quantized."""
    total, out, scales = _launch(x, weight, eps, y=y, quantized=dtype)
    assert total is not None and out is not None and scales is not None
    return total, Quantized(out, scales)
