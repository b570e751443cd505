"""Normalization layers."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.layers.layer import Layer, Placement, read_exactly
from octavo.weights.source import WeightSource


class RMSNorm(Layer):
    """x [T, H] -> [T, H]. The weight is float32 and has the spec's offset added, once, at load."""

    def __init__(self, norm: spec.Norm, size: int, place: Placement) -> None:
        self.norm = norm
        self.size = size
        self.place = place
        self.eps = norm.eps

    def load(self, source: WeightSource) -> None:
        stored = read_exactly(source, "weight", (self.size,))
        self.weight = stored.to(self.place.device, torch.float32) + self.norm.offset

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class LayerNorm(Layer):
    """x [T, H] -> [T, H], centered; weight and bias are float32."""

    def __init__(self, norm: spec.Norm, size: int, place: Placement) -> None:
        self.norm = norm
        self.size = size
        self.place = place
        self.eps = norm.eps

    def load(self, source: WeightSource) -> None:
        stored = read_exactly(source, "weight", (self.size,))
        self.weight = stored.to(self.place.device, torch.float32) + self.norm.offset
        self.bias: Tensor | None = None
        if self.norm.bias:
            self.bias = read_exactly(source, "bias", (self.size,)).to(self.place.device, torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


Norm = RMSNorm | LayerNorm


def build_norm(norm: spec.Norm, size: int, place: Placement) -> Norm:
    """The layer for a norm spec."""
    return RMSNorm(norm, size, place) if norm.kind == "rms" else LayerNorm(norm, size, place)


class HeadNorm(Layer):
    """Normalizes each query and key head of x [T, N + K, D] by itself, queries and keys with their own weight [D]."""

    def __init__(self, attention: spec.Attention, place: Placement) -> None:
        assert attention.qk_norm is not None
        assert attention.qk_norm.kind == "rms", attention.qk_norm
        self.norm = attention.qk_norm
        self.counts = {"q_norm": attention.num_heads, "k_norm": attention.num_kv_heads}
        self.head_dim = attention.head_dim
        self.place = place
        self.eps = attention.qk_norm.eps

    def load(self, source: WeightSource) -> None:
        weights = [
            read_exactly(source, f"{name}.weight", (self.head_dim,)).float().expand(count, -1)
            for name, count in self.counts.items()
        ]
        self.weight = (torch.cat(weights) + self.norm.offset).to(self.place.device)

    def __call__(self, x: Tensor) -> Tensor:
        return ops.head_rms_norm(x, self.weight, self.eps)


class SpanNorm(Layer):
    """Normalizes all query heads of x [T, N + K, D] at once, and all key heads at once (OLMo)."""

    def __init__(self, attention: spec.Attention, place: Placement) -> None:
        assert attention.qk_norm is not None
        self.num_heads = attention.num_heads
        self.shape = (-1, attention.num_heads + attention.num_kv_heads, attention.head_dim)
        self.q_norm = build_norm(attention.qk_norm, attention.num_heads * attention.head_dim, place)
        self.k_norm = build_norm(attention.qk_norm, attention.num_kv_heads * attention.head_dim, place)
        self.children = (("q_norm", self.q_norm), ("k_norm", self.k_norm))

    def __call__(self, x: Tensor) -> Tensor:
        q = self.q_norm(x[:, : self.num_heads].flatten(1))
        k = self.k_norm(x[:, self.num_heads :].flatten(1))
        return ops.concat([q, k]).view(self.shape)
