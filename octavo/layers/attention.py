"""Softmax attention: projections, norms and rotation around an attention backend."""

from __future__ import annotations

from torch import Tensor

from octavo import ops, spec
from octavo.attention.backend import AttentionBackend
from octavo.forward import ForwardBatch
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear
from octavo.layers.norm import HeadNorm, SpanNorm


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
        self.norm: HeadNorm | SpanNorm | None = None
        if attention.qk_norm is not None:
            self.norm = (HeadNorm if attention.qk_norm_span == "head" else SpanNorm)(attention, place)
        norms = () if self.norm is None else (("", self.norm),)
        self.children = (("", self.qkv), *norms, ("o_proj", self.out))
        self.shape = (-1, attention.num_heads + 2 * attention.num_kv_heads, attention.head_dim)
        self.num_rotated = attention.num_heads + attention.num_kv_heads

    def __call__(self, x: Tensor, angles: Tensor | None, batch: ForwardBatch) -> Tensor:
        """angles [T, R] of this layer's rotation, None without one."""
        layer = self.spec
        qkv = self.qkv(x).view(self.shape)
        qk, v = qkv[:, : self.num_rotated], qkv[:, self.num_rotated :]
        if self.norm is not None:
            qk = self.norm(qk)
        if layer.clip is not None:
            qk, v = ops.clip(qk, layer.clip), ops.clip(v, layer.clip)
        if angles is not None:
            qk = ops.rotate(qk, angles)
        q, k = qk[:, : layer.num_heads], qk[:, layer.num_heads :]
        out = self.backend.run(layer, q, k, v, batch.caches[self.index], batch.groups[self.group].plan)
        return self.out(out.flatten(1))
