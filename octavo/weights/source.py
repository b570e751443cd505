"""WeightSource: a checkpoint's tensors by name and slice, whatever its files, with a book of what was read."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from octavo.checkpoint import Checkpoint
from octavo.errors import StartupError
from octavo.gguf.file import GGUF
from octavo.weights import gguf, safetensors, torch_bin
from octavo.weights.blocks import GGUFBlocks
from octavo.weights.schemes import Names
from octavo.weights.shards import Releasable

ALL = slice(None)
NAMES_COMPARED = 2_000  # comparing one name with 100,000 others takes half a minute


class WeightSource(Protocol):
    """Tensors by name; knows names and slices, not meaning. `total_bytes` is the size of the checkpoint's tensors,
    `num_parameters` the number of their elements; `names` is how the files name them, None when the family says.
    """

    total_bytes: int
    num_parameters: int

    @property
    def names(self) -> Names | None: ...

    @property
    def prefix(self) -> str:
        """What `at` was given so far: "", or where these tensors are with a dot behind it."""
        ...

    def at(self, prefix: str) -> WeightSource:
        """The tensors whose names begin with "prefix.", without it. Shares the book of what was read."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's shape, without reading it. Raises StartupError as `read` does."""
        ...

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """tensor[rows, columns] in the file's dtype: a view of the file, so copy it before writing to it.

        Only the pages of that part are read from disk; blocks are decoded to float32. Raises StartupError naming the
        tensor, the files and near names when it is missing.
        """
        ...

    def blocks(self, name: str) -> GGUFBlocks | None:
        """The matrix as the file holds it when that is in blocks; None when its values are stored one by one."""
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes of the tensors that were asked for so far, anywhere in the checkpoint."""
        ...

    def release(self) -> None:
        """Let go of the file pages read so far: what was made of them stands elsewhere now."""
        ...

    def unread(self) -> list[str]:
        """The names here that `read` was never asked for, sorted."""
        ...


@dataclass
class Book:
    """Which tensors were asked for, and how many bytes they have."""

    names: set[str] = field(default_factory=set)
    num_bytes: int = 0

    def enter(self, name: str, num_bytes: int) -> None:
        """Note a tensor, once."""
        if name not in self.names:
            self.names.add(name)
            self.num_bytes += num_bytes


class TensorSource:
    """A WeightSource over any mapping from name to tensor; `origin` says in errors where they are from."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor] | Mapping[str, Tensor | GGUFBlocks],
        origin: str = "the given tensors",
        names: Names | None = None,
        sizes: tuple[int, int] | None = None,
    ) -> None:
        """`sizes` is the bytes and elements of all tensors, for a mapping whose values are costly to make."""
        self._tensors = tensors
        self._origin = origin
        self._prefix = ""
        self._book = Book()
        self.names = names
        self.total_bytes, self.num_parameters = _sizes(tensors) if sizes is None else sizes

    @property
    def prefix(self) -> str:
        return self._prefix

    def at(self, prefix: str) -> TensorSource:
        view = copy.copy(self)  # the same tensors and the same book
        view._prefix = f"{self._prefix}{prefix}." if prefix else self._prefix
        return view

    def has(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._find(name).shape)

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        tensor = self._find(name)
        self._book.enter(self._prefix + name, tensor.nbytes)
        if isinstance(tensor, GGUFBlocks):
            start, stop, _ = rows.indices(tensor.shape[0])
            tensor, rows = tensor.rows(start, stop).dequantize(), ALL
        if columns != ALL:
            return tensor[rows, columns]
        return tensor if rows == ALL else tensor[rows]

    def blocks(self, name: str) -> GGUFBlocks | None:
        tensor = self._find(name)
        if not isinstance(tensor, GGUFBlocks):
            return None
        self._book.enter(self._prefix + name, tensor.nbytes)
        return tensor

    @property
    def bytes_read(self) -> int:
        return self._book.num_bytes

    def release(self) -> None:
        if isinstance(self._tensors, Releasable):
            self._tensors.release()

    def unread(self) -> list[str]:
        cut = len(self._prefix)
        return sorted(
            name[cut:] for name in self._tensors if name.startswith(self._prefix) and name not in self._book.names
        )

    def _find(self, name: str) -> Tensor | GGUFBlocks:
        full = self._prefix + name
        if full not in self._tensors:
            beside = [each for each in self._tensors if each.startswith(self._prefix)] or list(self._tensors)
            near = difflib.get_close_matches(full, beside[:NAMES_COMPARED], n=3, cutoff=0.6)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise StartupError(f"tensor {full} is missing from {self._origin}{hint}", full)
        return self._tensors[full]


def open_source(checkpoint: Checkpoint) -> WeightSource:
    """The checkpoint's tensors: its GGUF file's, or safetensors, else PyTorch's .bin (read with weights_only=True).

    Raises StartupError naming the file when there are none, or one is missing, truncated or malformed.
    """
    if checkpoint.file is not None:
        model = GGUF(checkpoint.file)
        tensors = gguf.GGUFTensors(model)
        return TensorSource(tensors, str(checkpoint.file), gguf.names_of(model), tensors.sizes)
    folder = checkpoint.folder
    for find in (safetensors.find, torch_bin.find):
        files = find(folder)
        if files is not None:
            return TensorSource(files.open(), files.origin)
    raise StartupError(f"{folder} has no weights: {_found(folder)}; it needs model.safetensors or its shards", "model")


def _sizes(tensors: Mapping[str, Tensor] | Mapping[str, Tensor | GGUFBlocks]) -> tuple[int, int]:
    values = list(tensors.values())
    return sum(tensor.nbytes for tensor in values), sum(math.prod(tensor.shape) for tensor in values)


def _found(folder: Path) -> str:
    """What lies in the folder, shortly."""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it holds {', '.join(names[:8])}{more}" if names else "it is empty"
