"""Where tensors come from: names and slices of a checkpoint, without their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

ALL = slice(None)


class WeightSource(Protocol):
    """Tensors by name. `at` narrows to a prefix; `read` loads only the asked part; `unread` lists what nobody read."""

    def at(self, prefix: str) -> WeightSource: ...

    def has(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> Tensor: ...

    def unread(self) -> list[str]: ...


class TensorSource:
    """A source over tensors in memory."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "", seen: set[str] | None = None) -> None:
        self._tensors = tensors
        self._prefix = prefix
        self._seen: set[str] = set() if seen is None else seen

    def at(self, prefix: str) -> TensorSource:
        return TensorSource(self._tensors, f"{self._prefix}{prefix}." if prefix else self._prefix, self._seen)

    def has(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[self._prefix + name].shape)

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        tensor = self._tensors[self._prefix + name]
        self._seen.add(self._prefix + name)
        return tensor[rows] if tensor.ndim == 1 else tensor[rows, columns]

    def unread(self) -> list[str]:
        return sorted(set(self._tensors) - self._seen)
