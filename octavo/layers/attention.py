"""Softmax attention: projections, norms and rotation around an attention backend."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.attention.backend import AttentionBackend
from octavo.errors import StartupError
from octavo.forward import ForwardBatch
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear
from octavo.layers.norm import Norm, QueryKeyNorm, Stream
from octavo.weights.source import WeightSource

# Where checkpoints keep what keys and values of float8 are multiplied with: compressed-tensors; beside a product, fused
# or not; older compressed-tensors; early FP8 files, which have one for both.
SCALES = (
    ("k_scale", "qkv_proj.k_scale", "k_proj.k_scale", "k_proj.output_scale", "kv_scale"),
    ("v_scale", "qkv_proj.v_scale", "v_proj.v_scale", "v_proj.output_scale", "kv_scale"),
)


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
        self.device = place.device
        self.scales: Tensor | None = None
        q_size = attention.num_heads * attention.head_dim
        kv_size = attention.num_kv_heads * attention.head_dim
        parts = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        self.qkv = Linear(parts, hidden_size, attention.bias, place)
        self.out = Linear({"": hidden_size}, q_size, attention.out_bias, place)
        self.norm = None if attention.qk_norm is None else QueryKeyNorm(attention, place)
        norms = () if self.norm is None else (("", self.norm),)
        self.children = (("", self.qkv), *norms, ("o_proj", self.out))
        self.shape = (-1, attention.num_heads + 2 * attention.num_kv_heads, attention.head_dim)

    def load(self, source: WeightSource) -> None:
        self.scales = read_scales(source, self.spec.num_kv_heads, self.device)

    def __call__(
        self, stream: Stream, norm: Norm | None, angles: Tensor | None, batch: ForwardBatch
    ) -> tuple[Tensor, Tensor]:
        """The stream's sum, and the attention over its norm; angles [T, R] of this layer's rotation, None without."""
        layer, cache, group = self.spec, batch.caches[self.index], batch.groups[self.group]
        total, qkv = self.qkv.read(stream, norm)
        qk_norm = None if self.norm is None else self.norm.values
        written = self.backend.writable(cache)
        heads = qkv.view(self.shape)
        scales = self.scales if cache.dtype == torch.float8_e4m3fn else None
        q, k, v = ops.prepare_qkv(heads, layer.num_heads, qk_norm, layer.clip, angles, written, group.slots, scales)
        out = self.backend.run(layer, q, k, v, cache, group.plan, scales)
        return total, self.out(out.flatten(1))


def read_scales(source: WeightSource, num_kv_heads: int, device: torch.device) -> Tensor | None:
    """What a layer's keys and values of float8 are multiplied with [2, K] float32; None: its checkpoint has none."""
    names = [next((name for name in known if source.has(name)), None) for known in SCALES]
    if names == [None, None]:
        return None
    rows: list[Tensor] = []
    for name in names:
        row = torch.ones(1) if name is None else source.read(name).float().flatten()
        if row.numel() not in (1, num_kv_heads) or not bool((torch.isfinite(row) & (row > 0)).all()):
            raise StartupError(
                f"{source.prefix}{name} holds {row.tolist()[:4]}; octavo reads one positive scale, or one for each of "
                f"{num_kv_heads} KV heads",
                "model",
            )
        rows.append(row.expand(num_kv_heads))
    return torch.stack(rows).to(device)
