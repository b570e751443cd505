"""The operations a model is made of. Call them as `ops.<name>(...)`: `bind` replaces these names once, at start."""

from octavo.ops.activation import (
    clip,
    gate_quantized,
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
from octavo.ops.linear import add_rms_norm_linear, linear
from octavo.ops.lora import lora_expand, lora_shrink
from octavo.ops.moe import expert_mlps, route
from octavo.ops.norm import (
    add,
    add_layer_norm,
    add_rms_norm,
    add_rms_norm_quantized,
    head_rms_norm,
    layer_norm,
    rms_norm,
    rms_norm_add,
    rms_norm_add_rms_norm,
    rms_norm_quantized,
)
from octavo.ops.qkv import prepare_qkv
from octavo.ops.quantized import quantize
from octavo.ops.registry import bind
from octavo.ops.rope import rotate
from octavo.ops.step import extend_tables, lay_out

__all__ = [
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "add_rms_norm_linear",
    "add_rms_norm_quantized",
    "attend",
    "bind",
    "clip",
    "concat",
    "embed",
    "expert_mlps",
    "extend_tables",
    "gate_quantized",
    "gelu",
    "gelu_mul",
    "gelu_tanh",
    "gelu_tanh_mul",
    "head_rms_norm",
    "lay_out",
    "layer_norm",
    "linear",
    "lora_expand",
    "lora_shrink",
    "prepare_qkv",
    "quantize",
    "relu",
    "relu2",
    "relu2_mul",
    "relu_mul",
    "rms_norm",
    "rms_norm_add",
    "rms_norm_add_rms_norm",
    "rms_norm_quantized",
    "rotate",
    "route",
    "scale",
    "silu",
    "silu_mul",
    "softcap",
    "write_cache",
]
