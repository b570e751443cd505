"""The CPU's ops: native kernels behind the same names, recorded on a tape or run at once."""

from octavo.ops.cpu import blocks, dense, embedding, fallback, integer, linear, moe, norm, pointwise, qkv
from octavo.ops.linear import linear_kernel

__all__ = ["blocks", "dense", "embedding", "fallback", "integer", "linear", "moe", "norm", "pointwise", "qkv"]

linear_kernel("cpu", dense.DENSE)

# On a CPU weights are packed and their kernels round activations, and attention has a backend of its own.
QUANTIZED = ("add_rms_norm_quantized", "gate_quantized", "quantize", "rms_norm_quantized")
fallback.cover(frozenset(("add_rms_norm_linear", "attend", "linear", "write_cache", *QUANTIZED)))
