"""How checkpoints name and fuse tensors: answers the canonical (Llama) names over any known naming scheme."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from octavo import spec
from octavo.errors import StartupError
from octavo.weights.blocks import GGUFBlocks
from octavo.weights.schemes import SCHEMES, Names, Pieces
from octavo.weights.source import ALL, WeightSource

_EXPERTS_FUSED = r"^(layers\.\d+\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight$"


@dataclass(frozen=True)
class Stored:
    """Where a canonical tensor is: a file tensor, the row ranges to join (None: all) out of how many rows, its expert,
    its orientation.
    """

    name: str
    pieces: Pieces | None = None
    num_rows: int | None = None
    expert: int | None = None
    transposed: bool = False


class NamedSource:
    """A WeightSource that understands the canonical names of a model over a checkpoint of any scheme."""

    def __init__(self, source: WeightSource, model: spec.Model, prefix: str = "") -> None:
        self._source = source
        self._model = model
        self.names: Names = source.names or SCHEMES[model.names]
        self._prefix = prefix
        self.total_bytes = source.total_bytes
        self.num_parameters = source.num_parameters

    @property
    def prefix(self) -> str:
        """Where these tensors are, in canonical names, with a dot behind it; "" at the root."""
        return self._prefix

    def at(self, prefix: str) -> NamedSource:
        """The tensors below `prefix`."""
        return NamedSource(self._source, self._model, f"{self._prefix}{prefix}." if prefix else self._prefix)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor, under whatever name."""
        return self._find(name) is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the canonical tensor."""
        stored = self._located(name)
        shape = self._source.shape(stored.name)
        if stored.transposed and len(shape) == 2:
            shape = shape[::-1]
        if stored.expert is not None:
            shape = shape[1:]
        return shape if stored.pieces is None else (sum(stop - start for start, stop in stored.pieces), *shape[1:])

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """Rows and columns of the canonical tensor, in the file's type; reads only that part."""
        stored = self._located(name)
        if stored.expert is not None:
            start, stop = (stored.pieces or ((0, self.shape(name)[0]),))[0]
            expert = self._source.read(stored.name, slice(stored.expert, stored.expert + 1), slice(start, stop))
            return expert[0][rows, columns]
        vector = len(self._source.shape(stored.name)) == 1
        parts = [self._read_rows(stored, part, columns, vector) for part in _cut(stored.pieces, rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def blocks(self, name: str) -> GGUFBlocks | None:
        """The canonical matrix as the file holds it when that is in blocks, joined of its pieces; else None."""
        stored = self._find(name)
        if stored is None or stored.expert is not None or stored.transposed:
            return None
        weight = self._source.blocks(self._located(name).name)
        if weight is None or stored.pieces is None:
            return weight
        return GGUFBlocks.stack([weight.rows(start, stop) for start, stop in stored.pieces])

    @property
    def bytes_read(self) -> int:
        """As the source's."""
        return self._source.bytes_read

    def release(self) -> None:
        """As the source's."""
        self._source.release()

    def unread(self) -> list[str]:
        """File tensors nobody read, but for those that are no parameters and a tied head's copy."""
        tied = self.names.head if self._model.tied else ()
        return [
            name
            for name in self._source.unread()
            if not re.search(self.names.ignored, name) and name.removesuffix(".weight") not in tied
        ]

    def _read_rows(self, stored: Stored, rows: slice, columns: slice, vector: bool) -> Tensor:
        if vector:
            return self._source.read(stored.name, rows)
        if stored.transposed:
            return self._source.read(stored.name, columns, rows).T
        return self._source.read(stored.name, rows, columns)

    def _located(self, name: str) -> Stored:
        # A missing tensor keeps its likeliest name: the source's error then names it, the files and what is near.
        stored = self._find(name) or next(self._candidates(self._prefix + name))
        if stored.num_rows is not None:
            shape = self._source.shape(stored.name)
            axis = -1 if stored.transposed else 0 if stored.expert is None else 1
            if shape[axis] != stored.num_rows:
                wanted = f"{stored.num_rows} on axis {axis % len(shape)}"
                raise StartupError(f"{stored.name} has shape {list(shape)}; the config asks for {wanted}", "model")
        return stored

    def _find(self, name: str) -> Stored | None:
        return next((c for c in self._candidates(self._prefix + name) if self._source.has(c.name)), None)

    def _candidates(self, name: str) -> Iterator[Stored]:
        """Every place where the canonical tensor `name` may be, likeliest first."""
        if name.startswith("lm_head."):
            yield from (Stored(name.replace("lm_head", head, 1)) for head in self.names.head)
            return
        body = name.removeprefix("model.")
        bodies = [Stored(body), *self._fused(body), *_fused_experts(body, self._model)]
        for each in bodies[1:] + bodies[:1] if self.names.fused else bodies:
            renamed = _rename(each.name, self.names.renames)
            transposed = self.names.transposed is not None and bool(re.search(self.names.transposed, renamed))
            for spelled in dict.fromkeys((renamed, _rename(renamed, self.names.older))):
                for root in self.names.roots:
                    yield replace(each, name=root + spelled, transposed=transposed)

    def _fused(self, body: str) -> Iterator[Stored]:
        match = re.match(r"layers\.(\d+)\.(.+)\.(\w+)$", body)
        if match is None:
            return
        layer, module, suffix = match.groups()
        for fused in self.names.fused:
            if module in fused.parts and int(layer) < len(self._model.blocks):
                block = self._model.blocks[int(layer)]
                pieces = fused.split(block, fused.parts.index(module))
                num_rows = fused.split(block, len(fused.parts) - 1)[-1][1]
                yield Stored(f"layers.{layer}.{fused.name}.{suffix}", pieces, num_rows)


def _rename(body: str, renames: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renames:
        renamed, count = re.subn(pattern, replacement, body)
        if count:
            return renamed
    return body


def _fused_experts(body: str, model: spec.Model) -> Iterator[Stored]:
    """All experts of a layer in one tensor, as modules of Transformers 5 hold them: [E, 2 I, H] and [E, H, I]."""
    match = re.match(_EXPERTS_FUSED, body)
    if match is None:
        return
    stem, expert, part = match.groups()
    size = model.blocks[int(stem.split(".")[1])].ffn.size
    if part == "down_proj":
        yield Stored(f"{stem}.down_proj", expert=int(expert))
    else:
        start = 0 if part == "gate_proj" else size
        yield Stored(f"{stem}.gate_up_proj", ((start, start + size),), 2 * size, int(expert))


def _cut(pieces: Pieces | None, rows: slice) -> list[slice]:
    """The file's row ranges for `rows` of the tensor that joins `pieces`."""
    if pieces is None:
        return [rows]
    start, stop, _ = rows.indices(sum(end - begin for begin, end in pieces))
    cut: list[slice] = []
    offset = 0
    for begin, end in pieces:
        low, high = max(start - offset, 0), min(stop - offset, end - begin)
        if low < high:
            cut.append(slice(begin + low, begin + high))
        offset += end - begin
    return cut
