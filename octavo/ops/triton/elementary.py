"""Functions of one value that several kernels need, in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Exact near zero, where 1 - 2 / (exp(2 x) + 1) would cancel."""
    square = x * x
    near = x * (1.0 - square * (1.0 / 3 - square * (2.0 / 15 - square * (17.0 / 315))))
    return tl.where(tl.abs(x) < 0.1, near, 1.0 - 2.0 / (tl.exp(2.0 * tl.where(x > 20.0, 20.0, x)) + 1.0))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """An activation of octavo.spec by its name."""
    if ACTIVATION == "silu":
        y = x * tl.sigmoid(tl.maximum(x, -87.0))
    elif ACTIVATION == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        y = 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif ACTIVATION == "relu":
        y = tl.where(x < 0, 0.0, x)
    else:
        tl.static_assert(ACTIVATION == "relu2")
        y = tl.where(x < 0, 0.0, x * x)
    return y


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """x as DTYPE would hold it, still float32."""
    return x.to(DTYPE).to(tl.float32)


@triton.jit
def magnitude(x):
    """|x|, and infinity for what is no number: so it survives a maximum, and makes the row's scale infinite."""
    return tl.where(x == x, tl.abs(x), float("inf"))


@triton.jit
def quantized_scale(largest, LIMIT: tl.constexpr):
    """The scale of a row whose values have this largest magnitude, as ops.quantize defines it."""
    return tl.maximum(largest / LIMIT, 1e-12)


@triton.jit
def quantized_code(scaled, DTYPE: tl.constexpr, LIMIT: tl.constexpr):
    """The code of a value that is divided by its scale: int8, halves to even, or an eight-bit float."""
    bounded = tl.minimum(tl.maximum(scaled, -LIMIT), LIMIT)
    if DTYPE == tl.int8:  # noqa: SIM300
        # Adding 1.5 · 2^23 leaves no bits for a fraction, and addition rounds halves to even.
        code = ((bounded + 12582912.0) - 12582912.0).to(tl.int8)
    else:
        code = bounded.to(DTYPE)
    return code
