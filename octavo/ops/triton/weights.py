"""Logits as integers: keys that compare as they do, weights whose sums are exact in any order, and random numbers.

Kernels that use these are launched with enable_fp_fusion=False: every operation must round as torch's does.
"""

from __future__ import annotations

import triton
import triton.language as tl

LEAST_KEY = tl.constexpr(-2139095040)  # of the least finite number
NAN_KEY = tl.constexpr(2147483647)
NO_TOKEN = tl.constexpr(-(2**63))  # packs below every logit


@triton.jit
def ordered(x):
    """int32 keys that compare as x, float32, does: zeros are equal, and what is no number comes last."""
    bits = x.to(tl.int32, bitcast=True)
    bits = tl.where(bits == -2147483648, 0, bits)
    return tl.where(x == x, bits ^ ((bits >> 31) & 0x7FFFFFFF), NAN_KEY)


@triton.jit
def value_of(key):
    """The float32 whose key this is."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def packed(key, token):
    """One int64 for a key and a token: the largest is that of the largest key, and among equals of the lowest token."""
    return (key.to(tl.int64) << 32) | (4294967295 - token.to(tl.int64))


@triton.jit
def key_of(best):
    """The key of a packed pair."""
    return (best >> 32).to(tl.int32)


@triton.jit
def token_of(best):
    """The token of a packed pair."""
    return 4294967295 - (best & 4294967295)


@triton.jit
def exponential(x):
    """e^x of x <= 0 times 2^43, float32, as torch_logits.exponential defines it, operation by operation."""
    x = tl.where(x >= -40.0, x, -40.0)
    n = (x * 1.4426950408889634 + 12582912.0) - 12582912.0
    r = (x - n * 0.693359375) - n * -0.00021219444005469058
    p = r * (1.0 / 5040) + 1.0 / 720
    p = p * r + 1.0 / 120
    p = p * r + 1.0 / 24
    p = p * r + 1.0 / 6
    p = p * r + 0.5
    p = (p * r + 1.0) * r + 1.0
    return p * ((n.to(tl.int32) + 170) << 23).to(tl.float32, bitcast=True)


@triton.jit
def weight(x, top, temperature):
    """e^((x - top) / temperature) of logits as integers, 2^43 for the largest; 0 for what is no number."""
    distance = x - top
    return exponential(tl.div_rn(distance, temperature + tl.zeros_like(distance))).to(tl.int64)


@triton.jit
def uniform(seed, position):
    """The float64 in [0, 1) of a seed and a position, both int64, as sampling.random.uniforms makes it."""
    first, second = position & 4294967295, position * 0
    third, fourth = (position >> 32) & 4294967295, position * 0
    low, high = seed & 4294967295, (seed >> 32) & 4294967295
    for turn in tl.static_range(10):
        a, b = first * 3528531795, second * 3449720151
        first = ((b >> 32) & 4294967295) ^ third ^ ((low + 2654435769 * turn) & 4294967295)
        second = ((a >> 32) & 4294967295) ^ fourth ^ ((high + 3144134277 * turn) & 4294967295)
        third, fourth = b & 4294967295, a & 4294967295
    return ((first << 21) | (third >> 11)).to(tl.float64) * 1.1102230246251565e-16
