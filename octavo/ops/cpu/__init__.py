"""The CPU's ops: native kernels behind the same names, recorded on a tape or run at once."""

from octavo.ops.cpu import blocks, dense, embedding, fallback, integer, linear, moe, norm, pointwise
from octavo.ops.linear import linear_kernel

__all__ = ["blocks", "dense", "embedding", "fallback", "integer", "linear", "moe", "norm", "pointwise"]

linear_kernel("cpu", dense.DENSE)

# On a CPU weights are packed, and attention has a backend of its own.
fallback.cover(frozenset(("attend", "linear", "write_cache")))
