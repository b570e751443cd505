"""Products of a single token, which only read the weight: the addition, the norm and the gate are done on the way."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo import spec
from octavo.ops.registry import implements
from octavo.ops.triton.elementary import activate, rounded

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FEATURES = 16  # rows of the weight that a program reads: 256 programs for 4096 of them
COLUMNS = 512


@triton.jit
def single_kernel(
    x_ptr,
    y_ptr,
    norm_ptr,
    total_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    features,
    x_stride,
    y_stride,
    eps,
    IN_FEATURES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """BN features of one token, gate and up where there is an ACTIVATION. The first program also writes x + y.

    The norm is a factor of the whole token: it multiplies the sums, whose squares are added up beside them.
    """
    tile = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    row = tile * BN + tl.arange(0, BN)
    at = tl.arange(0, BK)
    kept = tl.minimum(row, features - 1).to(tl.int64)
    weights = weight_ptr + kept[:, None] * IN_FEATURES + at[None, :]
    ups = weight_ptr + (kept + features)[:, None] * IN_FEATURES + at[None, :]
    x_ptr += token * x_stride
    y_ptr += token * y_stride
    total_ptr += token * IN_FEATURES
    written = tl.where(tile == 0, IN_FEATURES, 0)
    sums = tl.zeros((BN, BK), tl.float32)
    up_sums = tl.zeros((BN, BK), tl.float32)
    squares = tl.zeros((BK,), tl.float32)
    for first in range(0, IN_FEATURES, BK):
        inside = first + at < IN_FEATURES
        if IN_FEATURES % BK == 0:
            weight = tl.load(weights + first).to(tl.float32)
        else:
            weight = tl.load(weights + first, mask=inside[None, :], other=0.0).to(tl.float32)
        x = tl.load(x_ptr + first + at, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + first + at, mask=inside, other=0.0).to(tl.float32)
        total = rounded(x + y, dtype)
        tl.store(total_ptr + first + at, total.to(dtype), mask=first + at < written)
        squares += total * total
        scaled = (total * tl.load(norm_ptr + first + at, mask=inside, other=0.0))[None, :]
        sums += weight * scaled
        if ACTIVATION is not None:
            if IN_FEATURES % BK == 0:
                up = tl.load(ups + first).to(tl.float32)
            else:
                up = tl.load(ups + first, mask=inside[None, :], other=0.0).to(tl.float32)
            up_sums += up * scaled
    scale = tl.rsqrt(tl.sum(squares, 0) / IN_FEATURES + eps)
    real = row < features
    out = tl.sum(sums, 1) * scale
    if bias_ptr is not None:
        out += tl.load(bias_ptr + row, mask=real, other=0.0).to(tl.float32)
    if ACTIVATION is not None:
        up = tl.sum(up_sums, 1) * scale
        if bias_ptr is not None:
            up += tl.load(bias_ptr + features + row, mask=real, other=0.0).to(tl.float32)
        out = activate(out, ACTIVATION) * up
    tl.store(out_ptr + token * features + row, out.to(dtype), mask=real)


@implements("add_rms_norm_linear", "triton", DTYPES)
def add_rms_norm_linear(
    x: Tensor,
    y: Tensor,
    norm: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    activation: spec.Activation | None,
) -> tuple[Tensor, Tensor]:
    """As ops.add_rms_norm_linear; each token reads the whole weight, so it is for one, or very few."""
    assert x.stride(1) == y.stride(1) == 1 and weight.is_contiguous(), (x.stride(), y.stride(), weight.stride())
    tokens, columns = x.shape
    features = weight.shape[0] // (1 if activation is None else 2)
    total = torch.empty((tokens, columns), dtype=x.dtype, device=x.device)
    out = torch.empty((tokens, features), dtype=x.dtype, device=x.device)
    if tokens:
        rows = FEATURES if activation is None else FEATURES // 2
        block = min(triton.next_power_of_2(columns), COLUMNS)
        single_kernel[(triton.cdiv(features, rows), tokens)](
            x,
            y,
            norm,
            total,
            weight,
            bias,
            out,
            features,
            x.stride(0),
            y.stride(0),
            eps,
            IN_FEATURES=columns,
            ACTIVATION=activation,
            BN=rows,
            BK=block,
            num_warps=4,
        )
    return total, out
