"""Normalization layers, and the residual stream that they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.layers.layer import Layer, Placement, read_exactly
from octavo.ops.qkv import QKNorm
from octavo.ops.quantized import Activations
from octavo.weights.source import WeightSource


@dataclass(frozen=True)
class Stream:
    """The residual stream [T, H] between two parts of a model: x + y, or x + norm(y), not added up yet.

    Whoever reads it next, a norm as a rule, adds on the way.
    """

    x: Tensor
    y: Tensor | None = None
    norm: Norm | None = None

    def sum(self) -> Tensor:
        """[T, H]."""
        if self.y is None:
            return self.x
        return ops.add(self.x, self.y) if self.norm is None else self.norm.add(self.x, self.y)

    @overload
    def read(self, norm: Norm | None) -> tuple[Tensor, Tensor]: ...

    @overload
    def read(self, norm: Norm | None, takes: torch.dtype | None) -> tuple[Tensor, Activations]: ...

    def read(self, norm: Norm | None, takes: torch.dtype | None = None) -> tuple[Tensor, Activations]:
        """The sum, and norm(sum) as the next product `takes` it; both are the sum without a norm."""
        if norm is not None and self.y is not None:
            return norm.read(self.x, self.y, self.norm, takes)
        x = self.sum()
        return x, x if norm is None else norm(x, takes)


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

    @overload
    def __call__(self, x: Tensor) -> Tensor: ...

    @overload
    def __call__(self, x: Tensor, takes: torch.dtype | None) -> Activations: ...

    def __call__(self, x: Tensor, takes: torch.dtype | None = None) -> Activations:
        if takes is not None:
            return ops.rms_norm_quantized(x, self.weight, self.eps, takes)
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + norm(y)."""
        return ops.rms_norm_add(x, y, self.weight, self.eps)

    def read(self, x: Tensor, y: Tensor, inner: Norm | None, takes: torch.dtype | None) -> tuple[Tensor, Activations]:
        """x + y, or x + inner(y), and the norm of that."""
        if takes is None and inner is None:
            return ops.add_rms_norm(x, y, self.weight, self.eps)
        if takes is None and isinstance(inner, RMSNorm):
            return ops.rms_norm_add_rms_norm(x, y, inner.weight, inner.eps, self.weight, self.eps)
        if takes is not None and inner is None:
            return ops.add_rms_norm_quantized(x, y, self.weight, self.eps, takes)
        total = Stream(x, y, inner).sum()
        return total, self(total, takes)


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

    def __call__(self, x: Tensor, takes: torch.dtype | None = None) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + norm(y)."""
        return ops.add(x, self(y))

    def read(self, x: Tensor, y: Tensor, inner: Norm | None, takes: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """x + y, or x + inner(y), and the norm of that; what takes it quantized has to do that itself."""
        if inner is None:
            return ops.add_layer_norm(x, y, self.weight, self.bias, self.eps)
        total = inner.add(x, y)
        return total, self(total)


Norm = RMSNorm | LayerNorm


def build_norm(norm: spec.Norm, size: int, place: Placement) -> Norm:
    """The layer for a norm spec."""
    return RMSNorm(norm, size, place) if norm.kind == "rms" else LayerNorm(norm, size, place)


class QueryKeyNorm(Layer):
    """The norm of queries and keys as ops.prepare_qkv takes it: over each head (weights [D]), or over all (OLMo)."""

    def __init__(self, attention: spec.Attention, place: Placement) -> None:
        assert attention.qk_norm is not None
        assert attention.qk_norm.kind == "rms", attention.qk_norm
        self.norm = attention.qk_norm
        self.span: Literal["head", "all"] = attention.qk_norm_span
        self.counts = {"q_norm": attention.num_heads, "k_norm": attention.num_kv_heads}
        self.head_dim = attention.head_dim
        self.place = place

    def load(self, source: WeightSource) -> None:
        parts: list[Tensor] = []
        for name, count in self.counts.items():
            stored = 1 if self.span == "head" else count
            weight = read_exactly(source, f"{name}.weight", (stored * self.head_dim,)).float()
            parts.append(weight.view(stored, self.head_dim).expand(count, -1))
        weight = (torch.cat(parts) + self.norm.offset).to(self.place.device)
        self.values = QKNorm(weight, self.norm.eps, self.span)
