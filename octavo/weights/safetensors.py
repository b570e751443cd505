"""safetensors files: a header checked to the last byte, then tensors as views of the memory-mapped file."""

from __future__ import annotations

import json
import math
import mmap
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import torch
from torch import Tensor

from octavo.errors import StartupError
from octavo.weights import shards

HEADER_BYTES = 100_000_000
METADATA = "__metadata__"
FIELDS = {"dtype", "shape", "data_offsets"}
MAX_NUMBER = 2**63 - 1
NATURAL = re.compile(r"\d{1,20}", re.ASCII)
SURROGATE = re.compile("[\ud800-\udfff]")
# The kernel must not set memory aside for pages that a private mapping could copy but nobody writes, or a file larger
# than RAM could not be opened. Older Pythons do not name the flag.
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)

# Bits per element. F4 and F6 are known to the format; reading them is refused until something needs them.
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16",
    "U16": "uint16", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32",
    "C64": "complex64", "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its format's dtype name, its shape, and its bytes [start, stop) in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Malformed(ValueError):
    """A header that breaks the format's rules; the message says which."""


def find(folder: Path) -> shards.Shards | None:
    """The safetensors files of a checkpoint folder, or None."""
    return shards.find(folder, "model", ".safetensors", SafetensorsFile)


class SafetensorsFile(Mapping[str, Tensor]):
    """The tensors of one file, by name, as views of the mapped file; its mapping lives as long as any of them.

    Raises StartupError naming the file when it is not a whole, well-formed safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                self._entries = read_header(file, size)
                # Private and writable although nobody writes: torch takes no read-only buffers.
                self._map = mmap.mmap(
                    file.fileno(), 0, flags=mmap.MAP_PRIVATE | NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
                )
        except Malformed as error:
            raise StartupError(f"{path} is no valid safetensors file: {error}; download it again", path.name) from None
        except OSError as error:
            raise StartupError(f"{path} cannot be read: {error.strerror}", path.name) from None

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        spelled = DTYPES.get(entry.dtype)
        if spelled is None or not hasattr(torch, spelled):
            raise StartupError(f"{self._path}: tensor {name} has dtype {entry.dtype}, which octavo does not read", name)
        dtype: torch.dtype = getattr(torch, spelled)
        if entry.start == entry.stop:
            return torch.empty(entry.shape, dtype=dtype)
        count = (entry.stop - entry.start) // dtype.itemsize
        if entry.start % dtype.itemsize:  # old writers did not pad the header, and torch's kernels need alignment
            return torch.frombuffer(bytearray(self._map[entry.start : entry.stop]), dtype=dtype).view(entry.shape)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=entry.start).view(entry.shape)

    def release(self) -> None:
        """Let go of the file's pages: nobody writes to them, so they are all in the system's cache."""
        if sys.platform == "linux":
            self._map.madvise(mmap.MADV_DONTNEED)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def read_header(file: BinaryIO, size: int) -> dict[str, Entry]:
    """The tensors of a safetensors file of `size` bytes, by name. Raises Malformed.

    Refuses what the format's own library refuses and, beyond it, duplicate names and unknown fields (R55).
    """
    file.seek(0)
    if size < 8:
        _refuse(f"it has {size} bytes, and a header length takes 8")
    length = int.from_bytes(file.read(8), "little")
    if length > HEADER_BYTES:
        _refuse(f"its header claims {length} bytes; at most {HEADER_BYTES} are allowed")
    if length > size - 8:
        _refuse(f"its header claims {length} bytes, but the file has {size}")
    entries = parse(file.read(length), 8 + length)
    stop = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != stop:
            _refuse(f"tensor {_short(name)} begins at byte {entry.start} and the one before it ends at {stop}")
        stop = entry.stop
    if stop != size:
        what = "truncated" if stop > size else "too long"
        _refuse(f"its tensors end at byte {stop} and the file at {size} ({what})")
    return entries


def parse(header: bytes, base: int) -> dict[str, Entry]:
    """The entries of a JSON header, whose data begins at byte `base` of the file; each one valid by itself."""
    try:
        tensors = json.loads(
            header.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_natural,
            parse_float=_natural,
            parse_constant=_natural,
        )
    except UnicodeDecodeError:
        _refuse("its header is not UTF-8")
    except RecursionError:
        _refuse("its header is nested too deeply")
    except json.JSONDecodeError as error:
        _refuse(f"its header is not JSON ({error.msg} at character {error.pos})")
    if not isinstance(tensors, dict):
        _refuse("its header is not a JSON object")
    metadata = tensors.pop(METADATA, None)
    if metadata is not None and not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        _refuse(f"{METADATA} must map strings to strings")
    return {name: _entry(name, fields, base) for name, fields in tensors.items()}


def _entry(name: str, fields: object, base: int) -> Entry:
    """One tensor's entry, its dtype known and its byte count equal to what dtype and shape need."""
    if not isinstance(fields, dict) or fields.keys() != FIELDS:
        _refuse(f"tensor {_short(name)} must have exactly the fields dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(f"tensor {_short(name)} has the unknown dtype {_short(dtype)}")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        _refuse(f"tensor {_short(name)} has the shape {_short(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int for at in offsets):
        _refuse(f"tensor {_short(name)} has the data_offsets {_short(offsets)}")
    bits = BITS[dtype]
    for size in shape:
        bits *= size
        if bits > MAX_NUMBER or size > MAX_NUMBER:
            _refuse(f"tensor {_short(name)} is too large: {_short(shape)}")
    start, stop = offsets
    if stop < start or bits != 8 * (stop - start):
        _refuse(f"tensor {_short(name)}, {dtype} {_short(shape)}, needs {bits / 8:g} bytes and has [{start}, {stop})")
    return Entry(dtype, tuple(shape), base + start, base + stop)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object's members; a name that comes twice, or holds half a character, is refused."""
    members = dict(pairs)
    if len(members) != len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        _refuse(f"{_short(name)} comes twice")
    for name, value in pairs:
        if SURROGATE.search(name) or (isinstance(value, str) and SURROGATE.search(value)):
            _refuse("its header has half a surrogate pair")
    return members


def _natural(text: str) -> int | float:
    """A JSON number that can be a size or an offset; any other as NaN, which no field takes."""
    return int(text) if NATURAL.fullmatch(text) else math.nan


def _refuse(why: str) -> NoReturn:
    raise Malformed(why)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
