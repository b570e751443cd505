"""Softmax attention: projections, norms and rotation around an attention backend."""

from __future__ import annotations

from torch import Tensor

from octavo import ops, spec
from octavo.attention.backend import AttentionBackend
from octavo.forward import ForwardBatch
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear
from octavo.layers.norm import Norm, QueryKeyNorm, Stream


class Attention(Layer):
    """Softmax attention of a stream [T, H]. `index` is the layer's KV tensor in the batch, `group` its cache group."""

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

    def __call__(
        self, stream: Stream, norm: Norm | None, angles: Tensor | None, batch: ForwardBatch
    ) -> tuple[Tensor, Tensor]:
        """The stream's sum, and the attention over its norm; angles [T, R] of this layer's rotation, None without."""
        layer, cache, group = self.spec, batch.caches[self.index], batch.groups[self.group]
        total, qkv = self.qkv.read(stream, norm)
        qk_norm = None if self.norm is None else self.norm.values
        written = self.backend.writable(cache)
        heads = qkv.view(self.shape)
        q, k, v = ops.prepare_qkv(heads, layer.num_heads, qk_norm, layer.clip, angles, written, group.slots)
        out = self.backend.run(layer, q, k, v, cache, group.plan)
        return total, self.out(out.flatten(1))
