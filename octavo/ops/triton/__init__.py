"""Ops in Triton: kernels behind the same names, for NVIDIA GPUs; without one they run in Triton's interpreter."""

from octavo.ops.triton import activation, embedding, fp8, int4, int8, linear, lora, moe, norm, qkv, single, step

__all__ = ["activation", "embedding", "fp8", "int4", "int8", "linear", "lora", "moe", "norm", "qkv", "single", "step"]
