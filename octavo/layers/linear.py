"""Linear layers: one matrix product over one or several fused parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from octavo.errors import StartupError
from octavo.layers.layer import Layer, Placement, read_exactly
from octavo.ops.linear import choose_kernel
from octavo.weights.source import WeightSource
from octavo.weights.weight import Weight


class Linear(Layer):
    """x [T, I] -> [T, O], where O is the sum of `parts`: the output size of each checkpoint module, by name.

    A layer of one part named "" is that module itself.
    """

    def __init__(self, parts: Mapping[str, int], in_size: int, bias: bool, place: Placement) -> None:
        self.parts = dict(parts)
        self.in_size = in_size
        self.has_bias = bias
        self.place = place

    @property
    def out_size(self) -> int:
        """O."""
        return sum(self.parts.values())

    def load(self, source: WeightSource) -> None:
        weights = [self._read(source, name, size) for name, size in self.parts.items()]
        weight = type(weights[0]).stack(weights)
        kernel = choose_kernel(weight, self.place.dtype, self.place.ops)
        self.packed = kernel.pack(weight, self.place.dtype, self.place.device)
        self.bias = self._read_bias(source) if self.has_bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return self.packed.run(x, self.bias)

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
