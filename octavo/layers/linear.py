"""Linear layers: one matrix product over one or several fused parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.errors import StartupError
from octavo.layers.layer import Layer, Placement, read_exactly
from octavo.layers.norm import Norm, RMSNorm, Stream
from octavo.ops.linear import Packed, choose_kernel, gate
from octavo.ops.quantized import Activations
from octavo.weights.source import WeightSource
from octavo.weights.weight import Weight


class Linear(Layer):
    """x [T, I] -> [T, O], where O is the sum of `parts`: the output size of each checkpoint module, by name.

    A layer of one part named "" is that module itself. With `gated` the parts are gate and up of equal size, and
    `read_gated` is how it is called.
    """

    def __init__(
        self,
        parts: Mapping[str, int],
        in_size: int,
        bias: bool,
        place: Placement,
        gated: spec.Activation | None = None,
    ) -> None:
        self.parts = dict(parts)
        self.in_size = in_size
        self.has_bias = bias
        self.place = place
        self.gated: spec.Activation | None = gated

    @property
    def out_size(self) -> int:
        """O."""
        return sum(self.parts.values())

    def load(self, source: WeightSource) -> None:
        weights = [self._read(source, name, size) for name, size in self.parts.items()]
        self.packed = pack(weights, self.place, self.gated is not None)
        self.bias = self._read_bias(source) if self.has_bias else None

    @property
    def takes(self) -> torch.dtype | None:
        """As Packed.takes."""
        return self.packed.takes

    def __call__(self, x: Activations) -> Tensor:
        return self.packed.run(x, self.bias)

    def read(self, stream: Stream, norm: Norm | None) -> tuple[Tensor, Tensor]:
        """The stream's sum, and the product of that sum's norm."""
        assert self.gated is None
        fused = self._fused(stream, norm)
        if fused is not None:
            return fused
        total, x = stream.read(norm, self.packed.takes)
        return total, self(x)

    def read_gated(self, stream: Stream, norm: Norm | None, takes: torch.dtype | None) -> tuple[Tensor, Activations]:
        """As `read` for a `gated` layer: activation(gate) · up [T, O / 2], as the next product `takes` it."""
        assert self.gated is not None
        fused = self._fused(stream, norm)
        if fused is not None:
            return fused
        total, x = stream.read(norm, self.packed.takes)
        return total, self.packed.gated(x, self.bias, self.gated, takes)

    def _fused(self, stream: Stream, norm: Norm | None) -> tuple[Tensor, Tensor] | None:
        """Both from one kernel, where the weight's has that for so many tokens."""
        add_norm = getattr(self.packed, "add_norm", None)  # only kernels that normalize what they read define it
        if add_norm is None or stream.y is None or stream.norm is not None or not isinstance(norm, RMSNorm):
            return None
        return add_norm(stream.x, stream.y, norm.weight, norm.eps, self.bias, self.gated)

    def _read(self, source: WeightSource, name: str, size: int) -> Weight:
        weight = self.place.format.read(source, name)
        if weight.shape != (size, self.in_size):
            found, wanted = list(weight.shape), [size, self.in_size]
            raise StartupError(f"{name or 'weight'} has shape {found}; the config asks for {wanted}", "model")
        return weight

    def _read_bias(self, source: WeightSource) -> Tensor:
        names = {name: f"{name}.bias" if name else "bias" for name in self.parts}
        biases = [read_exactly(source, names[name], (size,)) for name, size in self.parts.items()]
        return torch.cat(biases).to(self.place.device, self.place.dtype)


def pack(weights: Sequence[Weight], place: Placement, gated: bool = False) -> Packed:
    """The weights, their rows one after the other, as the device likes them; kinds that differ are packed apart."""
    kinds = [(each, list(same)) for each, same in groupby(weights, lambda weight: weight.kind)]
    packed = tuple(
        choose_kernel(same[0], place.dtype, place.ops).pack(same, place.dtype, place.device, gated and len(kinds) == 1)
        for _, same in kinds
    )
    sizes = tuple(sum(weight.shape[0] for weight in same) for _, same in kinds)
    return packed[0] if len(packed) == 1 else Several(packed, sizes)


@dataclass(frozen=True)
class Several:
    """Packed weights of different kinds, their products side by side; `sizes` are their output features."""

    parts: tuple[Packed, ...]
    sizes: tuple[int, ...]

    @property
    def takes(self) -> torch.dtype | None:
        """What all parts take, None when they do not agree."""
        wanted = {part.takes for part in self.parts}
        return wanted.pop() if len(wanted) == 1 else None

    def run(self, x: Activations, bias: Tensor | None) -> Tensor:
        biases = [None] * len(self.parts) if bias is None else bias.split(self.sizes)
        return ops.concat([part.run(x, own) for part, own in zip(self.parts, biases, strict=True)])

    def gated(
        self, x: Activations, bias: Tensor | None, activation: spec.Activation, takes: torch.dtype | None = None
    ) -> Activations:
        return gate(self.run(x, bias), activation, takes)

    def embed(self, ids: Tensor) -> Tensor:
        raise AssertionError("a table of embeddings is one tensor")
