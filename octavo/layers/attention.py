"""Softmax attention: projections, norms and rotation around an attention backend."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.attention.backend import AttentionBackend
from octavo.forward import ForwardBatch
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear
from octavo.layers.norm import QueryKeyNorm
from octavo.ops.quantized import Activations


class Attention(Layer):
    """x [T, H] -> [T, H]. `index` is the layer's KV tensor in the batch, `group` its cache group."""

    def __init__(
        self,
        attention: spec.Attention,
        hidden_size: int,
        place: Placement,
        backend: AttentionBackend,
        index: int,
        group: int,
    ) -> None:
        self.spec = attention
        self.backend = backend
        self.index = index
        self.group = group
        q_size = attention.num_heads * attention.head_dim
        kv_size = attention.num_kv_heads * attention.head_dim
        parts = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        self.qkv = Linear(parts, hidden_size, attention.bias, place)
        self.out = Linear({"": hidden_size}, q_size, attention.out_bias, place)
        self.norm = None if attention.qk_norm is None else QueryKeyNorm(attention, place)
        norms = () if self.norm is None else (("", self.norm),)
        self.children = (("", self.qkv), *norms, ("o_proj", self.out))
        self.shape = (-1, attention.num_heads + 2 * attention.num_kv_heads, attention.head_dim)

    @property
    def takes(self) -> torch.dtype | None:
        """As Packed.takes."""
        return self.qkv.takes

    def __call__(self, x: Activations, angles: Tensor | None, batch: ForwardBatch) -> Tensor:
        """angles [T, R] of this layer's rotation, None without one."""
        layer, cache, group = self.spec, batch.caches[self.index], batch.groups[self.group]
        qkv = self.qkv(x).view(self.shape)
        norm = None if self.norm is None else self.norm.values
        written = self.backend.writable(cache)
        q, k, v = ops.prepare_qkv(qkv, layer.num_heads, norm, layer.clip, angles, written, group.slots)
        out = self.backend.run(layer, q, k, v, cache, group.plan)
        return self.out(out.flatten(1))
