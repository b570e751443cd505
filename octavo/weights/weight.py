"""Canonical weights: what every file format becomes before a kernel packs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from octavo.weights.source import WeightSource


class Weight(Protocol):
    """A matrix of a linear layer, always [O, I] (output rows, input columns), whatever the file's layout."""

    @property
    def kind(self) -> object:
        """Equal for weights that can be packed as one, such as "bfloat16"."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        ...

    def rows(self, start: int, stop: int) -> Self:
        """Output rows start..stop: a rank's shard, or one part of a fused tensor."""
        ...

    def columns(self, start: int, stop: int) -> Self:
        """Input columns start..stop; for a quantised kind they must fall on a group boundary."""
        ...

    @classmethod
    def stack(cls, parts: Sequence[Self]) -> Self:
        """One weight with the rows of all parts in order: q, k, v become qkv. ValueError when kinds or types differ."""
        ...

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values [O, I]; float32 is the reference."""
        ...


class WeightFormat(Protocol):
    """How a checkpoint spells weights: reads one by its canonical name, without the suffix `.weight`.

    `method` is what quantized the checkpoint, None when nothing did, and `holds` the kinds of weight that are not
    dense, of int4, int8 and fp8. `extras` are suffixes of tensors that nobody needs to read: what they say is known
    from the others.
    """

    @property
    def method(self) -> str | None: ...

    @property
    def holds(self) -> frozenset[str]: ...

    @property
    def extras(self) -> tuple[str, ...]: ...

    def read(self, source: WeightSource, name: str) -> Weight:
        """The weight called `name`."""
        ...


@dataclass(frozen=True)
class Dense:
    """A weight whose values are stored one by one, in the file's floating-point type."""

    values: Tensor

    @property
    def kind(self) -> str:
        return str(self.values.dtype).removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def rows(self, start: int, stop: int) -> Dense:
        return Dense(self.values[start:stop])

    def columns(self, start: int, stop: int) -> Dense:
        return Dense(self.values[:, start:stop])

    @classmethod
    def stack(cls, parts: Sequence[Dense]) -> Dense:
        if not all(isinstance(part, cls) for part in parts):
            raise ValueError("weights of different kinds cannot be stacked")
        return parts[0] if len(parts) == 1 else cls(torch.cat([part.values for part in parts]))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.values.to(dtype)


class StoredFormat:
    """Tensors called `<name>.weight`, in blocks where the file has blocks, else value by value."""

    method = None
    holds: frozenset[str] = frozenset()
    extras = ()

    def read(self, source: WeightSource, name: str) -> Weight:
        name = f"{name}.weight" if name else "weight"
        blocks = source.blocks(name)
        return Dense(source.read(name)) if blocks is None else blocks
