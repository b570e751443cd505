"""The feed-forward layer, gated or plain."""

from __future__ import annotations

from torch import Tensor

from octavo import ops, spec
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear
from octavo.layers.norm import Norm, Stream
from octavo.ops.activation import PLAIN


class MLP(Layer):
    """[T, H] -> [T, H]: down(activation(gate(x)) · up(x)), gate and up in one product; or down(activation(up(x)))."""

    def __init__(self, mlp: spec.MLP, hidden_size: int, place: Placement) -> None:
        parts = {"gate_proj": mlp.size, "up_proj": mlp.size} if mlp.gated else {"up_proj": mlp.size}
        self.up = Linear(parts, hidden_size, mlp.bias, place, gated=mlp.activation if mlp.gated else None)
        self.down = Linear({"": hidden_size}, mlp.size, mlp.bias, place)
        self.activation = None if mlp.gated else getattr(ops, PLAIN[mlp.activation])
        self.children = (("", self.up), ("down_proj", self.down))

    def __call__(self, stream: Stream, norm: Norm | None) -> tuple[Tensor, Tensor]:
        """The stream's sum, and what the layer makes of its norm."""
        if self.activation is None:
            total, inner = self.up.read_gated(stream, norm, self.down.takes)
        else:
            total, product = self.up.read(stream, norm)
            inner = self.activation(product)
        return total, self.down(inner)
