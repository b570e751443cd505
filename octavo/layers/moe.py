"""Mixture of experts: a router and one gated MLP per expert."""

from __future__ import annotations

from torch import Tensor

from octavo import ops, spec
from octavo.errors import StartupError
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear, pack
from octavo.layers.norm import Norm, Stream
from octavo.ops.linear import Packed
from octavo.ops.moe import stack_experts
from octavo.weights.source import WeightSource
from octavo.weights.weight import Weight


class Experts(Layer):
    """Each expert's gate | up [2 I, H] and down [H, I], held as the device likes them."""

    def __init__(self, moe: spec.MoE, hidden_size: int, place: Placement) -> None:
        self.moe = moe
        self.hidden_size = hidden_size
        self.place = place

    def load(self, source: WeightSource) -> None:
        size, hidden = self.moe.size, self.hidden_size
        gate_up: list[Packed] = []
        down: list[Packed] = []
        for expert in range(self.moe.num_experts):
            gate = self._read(source, f"{expert}.gate_proj", (size, hidden))
            up = self._read(source, f"{expert}.up_proj", (size, hidden))
            gate_up.append(pack([gate, up], self.place, gated=True))
            down.append(pack([self._read(source, f"{expert}.down_proj", (hidden, size))], self.place))
        self.gate_up, self.down = (stack_experts(each, self.place.ops) for each in (gate_up, down))

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return ops.expert_mlps(x, self.gate_up, self.down, ids, weights, self.moe.activation)

    def _read(self, source: WeightSource, name: str, shape: tuple[int, int]) -> Weight:
        weight = self.place.format.read(source, name)
        if weight.shape != shape:
            raise StartupError(f"{name} has shape {list(weight.shape)}; the config asks for {list(shape)}", "model")
        return weight


class MoE(Layer):
    """[T, H] -> [T, H]: the weighed sum of each token's `top_k` experts."""

    def __init__(self, moe: spec.MoE, hidden_size: int, place: Placement) -> None:
        self.moe = moe
        self.router = Linear({"": moe.num_experts}, hidden_size, False, place)
        self.experts = Experts(moe, hidden_size, place)
        self.children = (("gate", self.router), ("experts", self.experts))

    def __call__(self, stream: Stream, norm: Norm | None) -> tuple[Tensor, Tensor]:
        """The stream's sum, and what the experts make of its norm."""
        total, x = stream.read(norm)
        ids, weights = ops.route(self.router(x), self.moe.top_k, self.moe.renormalize)
        return total, self.experts(x, ids, weights)
