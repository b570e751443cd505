"""Which files of a folder hold the weights: one file, or the shards an index names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from octavo import checkpoint
from octavo.errors import StartupError

INDEX_BYTES = 100 * 2**20
NAME_BYTES = 255


@runtime_checkable
class Releasable(Protocol):
    """Tensors in mapped files."""

    def release(self) -> None:
        """Give the pages that were read back to the system's file cache; they come again when they are read again."""
        ...


@dataclass(frozen=True)
class Shards:
    """Weight files of one format. `index` maps tensor names to file names; None when one file holds everything."""

    folder: Path
    names: tuple[str, ...]
    index: Mapping[str, str] | None
    open_file: Callable[[Path], Mapping[str, Tensor]]

    @property
    def origin(self) -> str:
        """The files, for an error message."""
        if len(self.names) == 1:
            return str(self.folder / self.names[0])
        return f"{self.folder / self.names[0]} … {self.names[-1]} ({len(self.names)} files)"

    def open(self) -> Mapping[str, Tensor]:
        """Every tensor by name. Raises StartupError for a shard or an indexed tensor that is not there."""
        for name in self.names:
            if not (self.folder / name).is_file():
                raise StartupError(f"{self.folder / name} is missing; download the checkpoint again", name)
        opened = {name: self.open_file(self.folder / name) for name in self.names}
        if self.index is None and len(opened) == 1:
            return opened[self.names[0]]
        where = {tensor: name for name, tensors in opened.items() for tensor in tensors}
        for tensor, name in (self.index or {}).items():
            if tensor not in opened[name]:
                raise StartupError(f"{self.folder / name} has no tensor {tensor}, which the index puts there", tensor)
            where[tensor] = name
        return Joined(where, opened)


class Joined(Mapping[str, Tensor]):
    """The tensors of several files as one mapping. A tensor the index does not name is there too, to be reported."""

    def __init__(self, where: Mapping[str, str], opened: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._where = where
        self._opened = opened

    def __getitem__(self, name: str) -> Tensor:
        return self._opened[self._where[name]][name]

    def release(self) -> None:
        """Let go of every file's pages."""
        for tensors in self._opened.values():
            if isinstance(tensors, Releasable):
                tensors.release()

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def find(folder: Path, stem: str, suffix: str, open_file: Callable[[Path], Mapping[str, Tensor]]) -> Shards | None:
    """The files `stem + suffix`, or the shards of its index, or a complete set of shards without one; None if none.

    Raises StartupError for an index that is malformed or names a file outside the folder (R60).
    """
    if (folder / (stem + suffix)).is_file():
        return Shards(folder, (stem + suffix,), None, open_file)
    index_path = folder / f"{stem}{suffix}.index.json"
    if index_path.exists():
        index = read_index(index_path, suffix)
        return Shards(folder, tuple(sorted(set(index.values()))), index, open_file)
    numbered = re.compile(rf"{stem}-(\d{{5}})-of-(\d{{5}}){re.escape(suffix)}", re.ASCII)
    totals = {match[2] for path in folder.iterdir() if (match := numbered.fullmatch(path.name))}
    if not totals:
        return None
    if len(totals) > 1:
        raise StartupError(
            f"{folder} has shards of several checkpoints: of {', '.join(sorted(totals))}; keep one", "model"
        )
    total = totals.pop()
    return Shards(folder, tuple(f"{stem}-{i + 1:05}-of-{total}{suffix}" for i in range(int(total))), None, open_file)


def read_index(path: Path, suffix: str) -> dict[str, str]:
    """The weight_map of an index file: tensor name to the plain name of a file beside it."""
    weight_map = checkpoint.read_json(path, INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise StartupError(f"{path}: weight_map must map tensor names to files, got {_short(weight_map)}", "weight_map")
    for name in {repr(value): value for value in weight_map.values()}.values():
        if not is_plain(name, suffix):
            raise StartupError(
                f"{path}: weight_map names {_short(name)}; it must be a *{suffix} file in the same folder", "weight_map"
            )
    return weight_map


def is_plain(name: object, suffix: str) -> bool:
    """Whether `name` can only be a file in the folder itself: no separator, drive, control character or leading dot."""
    if not isinstance(name, str) or not name.endswith(suffix) or name.startswith("."):
        return False
    return len(name.encode(errors="replace")) <= NAME_BYTES and name.isprintable() and not set(name) & set('/\\:"')


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
