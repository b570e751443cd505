"""Mixture of experts: a router and one gated MLP per expert."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.errors import StartupError
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear
from octavo.weights.source import WeightSource


class Experts(Layer):
    """The experts' weights side by side: gate_up [E, 2 I, H] and down [E, H, I]."""

    def __init__(self, moe: spec.MoE, hidden_size: int, place: Placement) -> None:
        self.moe = moe
        self.hidden_size = hidden_size
        self.place = place

    def load(self, source: WeightSource) -> None:
        count, size, hidden = self.moe.num_experts, self.moe.size, self.hidden_size
        # Filled expert by expert, so that loading never holds a layer twice.
        self.gate_up = torch.empty((count, 2 * size, hidden), dtype=self.place.dtype, device=self.place.device)
        self.down = torch.empty((count, hidden, size), dtype=self.place.dtype, device=self.place.device)
        for expert in range(count):
            self.gate_up[expert, :size] = self._read(source, f"{expert}.gate_proj", (size, hidden))
            self.gate_up[expert, size:] = self._read(source, f"{expert}.up_proj", (size, hidden))
            self.down[expert] = self._read(source, f"{expert}.down_proj", (hidden, size))

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return ops.expert_mlps(x, self.gate_up, self.down, ids, weights, self.moe.activation)

    def _read(self, source: WeightSource, name: str, shape: tuple[int, int]) -> Tensor:
        weight = self.place.format.read(source, name)
        if weight.shape != shape:
            raise StartupError(f"{name} has shape {list(weight.shape)}; the config asks for {list(shape)}", "model")
        return weight.dequantize(self.place.dtype)


class MoE(Layer):
    """x [T, H] -> [T, H]: the weighed sum of each token's `top_k` experts."""

    def __init__(self, moe: spec.MoE, hidden_size: int, place: Placement) -> None:
        self.moe = moe
        self.router = Linear({"": moe.num_experts}, hidden_size, False, place)
        self.experts = Experts(moe, hidden_size, place)
        self.children = (("gate", self.router), ("experts", self.experts))

    def __call__(self, x: Tensor) -> Tensor:
        ids, weights = ops.route(self.router(x), self.moe.top_k, self.moe.renormalize)
        return self.experts(x, ids, weights)
