"""What every part of a model is: something with children that can be walked and loaded by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from octavo.errors import StartupError
from octavo.weights.source import WeightSource
from octavo.weights.weight import StoredFormat, WeightFormat


@dataclass(frozen=True)
class Placement:
    """Where a model's weights go: activation dtype, device, the checkpoint's format, and ops backends by preference."""

    dtype: torch.dtype
    device: torch.device
    format: WeightFormat = field(default_factory=StoredFormat)
    ops: tuple[str, ...] = ("reference",)


class Layer:
    """A part of a model. `children` are (name, layer); a child named "" reads its tensors at its parent's path."""

    children: tuple[tuple[str, Layer], ...] = ()

    def walk(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and everything below it, each with the path its tensors are found at."""
        yield path, self
        for name, child in self.children:
            yield from child.walk(".".join(part for part in (path, name) if part))

    def load(self, source: WeightSource) -> None:
        """Pull this layer's own tensors, not its children's; `source` is at this layer's path."""


def read_exactly(source: WeightSource, name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor `name`, whose shape must be `shape`."""
    found = source.shape(name)
    if found != shape:
        raise StartupError(f"{name} has shape {list(found)}; the config asks for {list(shape)}", "model")
    return source.read(name)
