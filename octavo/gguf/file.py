"""One GGUF model: the header of its file, or of its split files, with every count checked against what is there.

Format: ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import re
import struct
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from octavo.errors import StartupError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 1 << 16
MAX_STRINGS = 1 << 24  # of all arrays together; the largest vocabularies have 2**18
MAX_TENSORS = 1 << 20
MAX_NAME_BYTES = 1 << 16
MAX_AXES = 4
MAX_SIZE = 1 << 62
SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII | re.DOTALL)
# The kernel must not set memory aside for pages that a private mapping could copy but nobody writes. Older Pythons do
# not name the flag.
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class Kind:
    """A tensor type: `elements` neighbors of a row are kept in `size` bytes."""

    name: str
    elements: int
    size: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` elements, a multiple of a block's."""
        return columns // self.elements * self.size


# By the number that stands in the file; those that are missing were withdrawn.
KINDS: Mapping[int, Kind] = MappingProxyType(
    {
        number: Kind(*kind)
        for number, kind in {
            0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
            7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84),
            11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
            15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
            19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
            23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
            28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
            35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
        }.items()
    }
)  # fmt: skip

STRING, ARRAY, BOOL = 8, 9, 7
FORMS: Mapping[int, struct.Struct] = MappingProxyType(
    {number: struct.Struct(f"<{code}") for number, code in
     {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "B", 10: "Q", 11: "q", 12: "d"}.items()}
)  # fmt: skip
U32, U64 = FORMS[4], FORMS[10]


@dataclass(frozen=True)
class Entry:
    """A tensor: its type, its shape with the outermost axis first, and its bytes [start, stop) in file `part`."""

    kind: Kind
    shape: tuple[int, ...]
    part: int
    start: int
    stop: int


@dataclass(frozen=True)
class Value:
    """Where a metadata value is: its type, its elements' when it is an array, its first byte and its count."""

    type: int
    at: int
    element: int = 0
    count: int = 1


@dataclass(frozen=True)
class Header:
    """What one file says: where its metadata values are, and its tensors."""

    values: Mapping[str, Value]
    tensors: Mapping[str, Entry]


class Malformed(ValueError):
    """A header that breaks the format's rules; the message says which."""


class GGUF:
    """An open model: `metadata`, the `tensors` by name in order, and the `maps` their bytes are in."""

    def __init__(self, path: Path) -> None:
        """Open the file, and with the part of a split model all its parts. Raises StartupError naming the file."""
        self.path = path
        self.files = parts_of(path)
        self.maps = tuple(map_file(part) for part in self.files)
        headers = [
            read(part, data, index) for index, (part, data) in enumerate(zip(self.files, self.maps, strict=True))
        ]
        self.metadata = Metadata(self.files[0], self.maps[0], headers[0].values)
        self.tensors: dict[str, Entry] = {}
        for part, data, header in zip(self.files, self.maps, headers, strict=True):
            check_split(part, Metadata(part, data, header.values), self.files)
            if twice := next((name for name in header.tensors if name in self.tensors), None):
                fail(part, f"tensor {shown(twice)} is in another part already")
            self.tensors |= header.tensors
        count = self.metadata.integer("split.tensors.count", len(self.tensors))
        if len(self.files) > 1 and count != len(self.tensors):
            fail(path, f"its parts hold {len(self.tensors)} tensors, and split.tensors.count says {count}")

    def numbers(self, name: str) -> tuple[float, ...]:
        """The values of a small F32 tensor."""
        entry = self.tensors[name]
        if entry.kind.name != "F32" or entry.stop - entry.start > 1 << 20:
            fail(
                self.files[entry.part],
                f"tensor {shown(name)} is {entry.kind.name} {list(entry.shape)}, not a list of F32",
            )
        return struct.unpack(f"<{(entry.stop - entry.start) // 4}f", self.maps[entry.part][entry.start : entry.stop])


class Metadata(Mapping[str, object]):
    """A file's metadata by key, decoded when asked for. The typed getters raise StartupError for any other type."""

    def __init__(self, path: Path, data: mmap.mmap, values: Mapping[str, Value]) -> None:
        self._path = path
        self._data = data
        self._values = values

    def __getitem__(self, key: str) -> object:
        value = self._values[key]
        if value.type == ARRAY:
            return self._texts(key, value) if value.element == STRING else self._numbers(value)
        if value.type == STRING:
            return self._texts(key, value)[0]
        number = FORMS[value.type].unpack_from(self._data, value.at)[0]
        return bool(number) if value.type == BOOL else number

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def integer(self, key: str, default: int | None = None) -> int:
        """The integer at `key`; a missing one without a default is an error."""
        value = self._wanted(key, default)
        if type(value) is not int:
            self._wrong(key, value, "an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """The finite number at `key`, as a float."""
        value = self._wanted(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < float("inf"):
            self._wrong(key, value, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """The boolean at `key`."""
        value = self._wanted(key, default)
        if not isinstance(value, bool):
            self._wrong(key, value, "true or false")
        return value

    def string(self, key: str, default: str | None = None) -> str:
        """The string at `key`."""
        value = self._wanted(key, default)
        if not isinstance(value, str):
            self._wrong(key, value, "a string")
        return value

    def strings(self, key: str, wanted: Container[int] | None = None) -> list[str]:
        """The array of strings at `key`, empty when there is none; with `wanted` the others' places hold ""."""
        value = self._values.get(key)
        if value is None:
            return []
        if value.type != ARRAY or value.element != STRING:
            self._wrong(key, self[key], "an array of strings")
        return self._texts(key, value, wanted)

    def array(self, key: str) -> Sequence[int | float | bool]:
        """The array of numbers at `key`; empty when there is none."""
        value = self._values.get(key)
        if value is None:
            return []
        if value.type != ARRAY or value.element == STRING:
            self._wrong(key, self[key], "an array of numbers")
        return self._numbers(value)

    def _wanted(self, key: str, default: object) -> object:
        if key not in self._values:
            if default is None:
                raise StartupError(f"{self._path}: its metadata lacks {key}; convert or download it again", key)
            return default
        return self[key]

    def _wrong(self, key: str, value: object, wanted: str) -> NoReturn:
        raise StartupError(f"{self._path}: {shown(key)} must be {wanted}, got {shown(value)}", key)

    def _numbers(self, value: Value) -> list[int | float | bool]:
        form = FORMS[value.element]
        numbers = struct.unpack_from(f"<{value.count}{form.format[-1]}", self._data, value.at)
        return [bool(item) for item in numbers] if value.element == BOOL else list(numbers)

    def _texts(self, key: str, value: Value, wanted: Container[int] | None = None) -> list[str]:
        data, at, size_at, texts = self._data, value.at, U64.unpack_from, [""] * value.count
        try:
            for index in range(value.count):
                start = at + 8
                at = start + size_at(data, at)[0]
                if wanted is None or index in wanted:
                    texts[index] = data[start:at].decode()
        except UnicodeDecodeError:
            raise StartupError(f"{self._path}: {shown(key)} is not UTF-8; convert or download it again", key) from None
        return texts


def parts_of(path: Path) -> tuple[Path, ...]:
    """The files of the model that `path` is, or is a part of: those named like it, -00001-of-00003.gguf and so on."""
    match = SPLIT.fullmatch(path.name)
    if match is None:
        return (path,)
    stem, _, total = match.groups()
    if int(total) == 0:
        raise StartupError(f"{path} is a part of a model of no parts; give the first part's real name", path.name)
    parts: list[Path] = []
    for number in range(1, int(total) + 1):
        part = path.with_name(f"{stem}-{number:05}-of-{total}.gguf")
        if not part.is_file():
            raise StartupError(f"{part} is missing; a split model needs all its {int(total)} parts", part.name)
        parts.append(part)
    return tuple(parts)


def map_file(path: Path) -> mmap.mmap:
    """The whole file, mapped; private and writable although nobody writes, because torch takes no read-only buffers."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise StartupError(f"{path} is not a regular file; give a .gguf file", path.name)
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                fail(path, "it is empty")
            return mmap.mmap(
                file.fileno(), 0, flags=mmap.MAP_PRIVATE | NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
    except FileNotFoundError:
        raise StartupError(f"{path} does not exist", path.name) from None
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}", path.name) from None


def read(path: Path, data: mmap.mmap, part: int = 0) -> Header:
    """The header of the mapped file. Raises StartupError naming the file."""
    try:
        return parse(data, part)
    except Malformed as error:
        fail(path, str(error))


def check_split(path: Path, metadata: Metadata, files: tuple[Path, ...]) -> None:
    """Raise StartupError unless the part at `path` says it is the part that its name says."""
    count = metadata.integer("split.count", 1 if len(files) == 1 else 0)
    index = metadata.integer("split.no", 0)
    if (count, index) == (len(files), files.index(path)) or (count == 0 and len(files) == 1):
        return
    if len(files) == 1:
        name = f"name-{index + 1:05}-of-{count:05}.gguf"
        raise StartupError(f"{path} is part {index + 1} of {count}; name the parts {name} and so on", path.name)
    fail(path, f"it is part {index + 1} of {count} by its metadata and another by its name")


def parse(data: mmap.mmap | bytes, part: int = 0) -> Header:
    """The header in the bytes of a file. Raises Malformed; reads nothing beyond the header."""
    reader = _Reader(data)
    magic = bytes(data[:4])
    if magic != MAGIC:
        _refuse(f"it begins with {magic!r} and not with {MAGIC!r}")
    reader.at = 4
    version = reader.u32("version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        why = "it is big-endian" if swapped else f"it has version {version}"
        _refuse(f"{why}; octavo reads versions 2 and 3, little-endian")
    num_tensors, num_keys = reader.u64("tensor count"), reader.u64("metadata count")
    if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
        _refuse(
            f"it claims {num_tensors} tensors and {num_keys} keys; at most {MAX_TENSORS} and {MAX_KEYS} are allowed"
        )
    values = _read_values(reader, num_keys)
    return Header(values, _read_tensors(reader, num_tensors, _alignment(data, values), part))


def _read_values(reader: _Reader, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for _ in range(count):
        key = reader.name("key")
        if key in values:
            _refuse(f"key {shown(key)} comes twice")
        values[key] = reader.value(key)
    return values


def _read_tensors(reader: _Reader, count: int, alignment: int, part: int) -> dict[str, Entry]:
    found: dict[str, tuple[Kind, tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = reader.name("tensor name")
        if name in found:
            _refuse(f"tensor {shown(name)} comes twice")
        axes = reader.u32("axis count")
        if not 1 <= axes <= MAX_AXES:
            _refuse(f"tensor {shown(name)} has {axes} axes; 1 to {MAX_AXES} are allowed")
        shape = tuple(reader.u64("shape") for _ in range(axes))[::-1]
        number = reader.u32("tensor type")
        if number not in KINDS:
            _refuse(f"tensor {shown(name)} has the unknown type {number}")
        kind, offset = KINDS[number], reader.u64("offset")
        found[name] = (kind, shape, offset, _bytes(name, kind, shape))
        if offset % alignment:
            _refuse(f"tensor {shown(name)} begins at {offset}, which is no multiple of the alignment {alignment}")
    base = -(-reader.at // alignment) * alignment
    tensors = {
        name: Entry(kind, shape, part, base + offset, base + offset + size)
        for name, (kind, shape, offset, size) in found.items()
    }
    _check_places(tensors, reader.end)
    return tensors


def _bytes(name: str, kind: Kind, shape: tuple[int, ...]) -> int:
    """The bytes a tensor takes; its sizes are possible, and its rows whole blocks."""
    count = 1
    for size in shape:
        count *= size
        if size == 0 or count > MAX_SIZE:
            _refuse(f"tensor {shown(name)} has the impossible shape {list(shape)}")
    if shape[-1] % kind.elements:
        _refuse(f"tensor {shown(name)} has rows of {shape[-1]}; {kind.name} needs multiples of {kind.elements}")
    return kind.row_bytes(count)


def _check_places(tensors: Mapping[str, Entry], end: int) -> None:
    stop, before = 0, ""
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].start):
        if entry.start < stop:
            _refuse(f"tensors {shown(before)} and {shown(name)} overlap")
        stop, before = entry.stop, name
        if stop > end:
            _refuse(f"tensor {shown(name)} ends at byte {stop} and the file at {end} (truncated?)")


def _alignment(data: mmap.mmap | bytes, values: Mapping[str, Value]) -> int:
    value = values.get("general.alignment")
    if value is None:
        return 32
    alignment = U32.unpack_from(data, value.at)[0] if value.type == 4 else 0
    if alignment < 8 or alignment > 1 << 20 or alignment & (alignment - 1):
        _refuse(f"general.alignment is {alignment}; it must be a power of two from 8 to {1 << 20}, as uint32")
    return alignment


class _Reader:
    """Walks over a header; every step is checked against the end of the file before it is taken."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self.at = 0
        self.end = len(data)
        self.num_strings = 0

    def u32(self, what: str) -> int:
        return U32.unpack_from(self.data, self.take(4, what))[0]

    def u64(self, what: str) -> int:
        return U64.unpack_from(self.data, self.take(8, what))[0]

    def take(self, size: int, what: str) -> int:
        """Step over `size` bytes and return where they begin."""
        start = self.at
        if size > self.end - start:
            _refuse(f"it ends inside a {what}: {size} bytes at {start}, and the file has {self.end}")
        self.at = start + size
        return start

    def name(self, what: str) -> str:
        size = self.u64(what)
        if not 0 < size <= MAX_NAME_BYTES:
            _refuse(f"a {what} at byte {self.at} has {size} bytes; 1 to {MAX_NAME_BYTES} are allowed")
        start = self.take(size, what)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError:
            _refuse(f"a {what} at byte {start} is not UTF-8")

    def value(self, key: str) -> Value:
        what = f"value of {shown(key)}"
        kind = self.u32(what)
        if kind != ARRAY:
            return Value(kind, self._scalar(kind, what))
        element, count = self.u32(what), self.u64(what)
        start = self.at
        if element == STRING:
            self._walk_strings(count, what)
        elif element in FORMS:
            self.take(FORMS[element].size * count, what)
        else:
            _refuse(f"{what} is an array of type {element}, which octavo does not read")
        return Value(ARRAY, start, element, count)

    def _scalar(self, kind: int, what: str) -> int:
        if kind == STRING:
            start = self.at
            self.take(self.u64(what), what)
            return start
        if kind not in FORMS:
            _refuse(f"{what} has the unknown type {kind}")
        return self.take(FORMS[kind].size, what)

    def _walk_strings(self, count: int, what: str) -> None:
        self.num_strings += count
        if count > (self.end - self.at) // 8 or self.num_strings > MAX_STRINGS:
            _refuse(f"{what} claims {count} strings, which the file cannot hold")
        data, at, last, size_at = self.data, self.at, self.end - 8, U64.unpack_from
        for _ in range(count):
            if at > last:
                _refuse(f"it ends inside the {what}")
            at += 8 + size_at(data, at)[0]
        self.at = at
        self.take(0, what)


def fail(path: Path, why: str) -> NoReturn:
    """Raise the StartupError for a file that breaks the format's rules."""
    raise StartupError(f"{path} is no valid GGUF file: {why}; download it again", path.name)


def shown(value: object) -> str:
    """A value as a message shows it, shortened."""
    text = repr(value[:8] if isinstance(value, list) else value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(why: str) -> NoReturn:
    raise Malformed(why)
