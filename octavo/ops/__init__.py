"""The operations a model is made of. Call them as `ops.<name>(...)`: `bind` replaces these names once, at start."""

from octavo.ops.activation import (
    clip,
    gelu,
    gelu_mul,
    gelu_tanh,
    gelu_tanh_mul,
    relu,
    relu2,
    relu2_mul,
    relu_mul,
    silu,
    silu_mul,
    softcap,
)
from octavo.ops.attention import attend
from octavo.ops.cache import write_cache
from octavo.ops.embedding import concat, embed, scale
from octavo.ops.linear import linear
from octavo.ops.moe import expert_mlps, route
from octavo.ops.norm import add, head_rms_norm, layer_norm, rms_norm
from octavo.ops.registry import bind
from octavo.ops.rope import rotate

__all__ = [
    "add",
    "attend",
    "bind",
    "clip",
    "concat",
    "embed",
    "expert_mlps",
    "gelu",
    "gelu_mul",
    "gelu_tanh",
    "gelu_tanh_mul",
    "head_rms_norm",
    "layer_norm",
    "linear",
    "relu",
    "relu2",
    "relu2_mul",
    "relu_mul",
    "rms_norm",
    "rotate",
    "route",
    "scale",
    "silu",
    "silu_mul",
    "softcap",
    "write_cache",
]
