"""The feed-forward layer, gated or plain."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear
from octavo.ops.activation import PLAIN
from octavo.ops.quantized import Activations


class MLP(Layer):
    """x [T, H] -> [T, H]: down(activation(gate(x)) · up(x)), gate and up in one product; or down(activation(up(x)))."""

    def __init__(self, mlp: spec.MLP, hidden_size: int, place: Placement) -> None:
        parts = {"gate_proj": mlp.size, "up_proj": mlp.size} if mlp.gated else {"up_proj": mlp.size}
        self.up = Linear(parts, hidden_size, mlp.bias, place, gated=mlp.activation if mlp.gated else None)
        self.down = Linear({"": hidden_size}, mlp.size, mlp.bias, place)
        self.activation = None if mlp.gated else getattr(ops, PLAIN[mlp.activation])
        self.children = (("", self.up), ("down_proj", self.down))

    @property
    def takes(self) -> torch.dtype | None:
        """As Packed.takes."""
        return self.up.takes

    def __call__(self, x: Activations) -> Tensor:
        if self.activation is None:
            return self.down(self.up.gate(x, self.down.takes))
        return self.down(self.activation(self.up(x)))
