"""GGUF files byte by byte, so that a test can get any one of them wrong."""

from __future__ import annotations

import struct
from collections.abc import Sequence

ALIGNMENT = 32
STRING, ARRAY = 8, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, type: int, payload: bytes) -> bytes:
    """A metadata key and its value."""
    return text(key) + struct.pack("<I", type) + payload


def u32(key: str, value: int) -> bytes:
    return pair(key, 4, struct.pack("<I", value))


def string(key: str, value: str | bytes) -> bytes:
    return pair(key, STRING, text(value))


def strings(key: str, values: Sequence[str | bytes]) -> bytes:
    return pair(key, ARRAY, struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values)))


def info(name: str | bytes, shape: Sequence[int], type: int, offset: int) -> bytes:
    """A tensor's entry; `shape` has the innermost axis first, as in the file."""
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + axes + struct.pack("<IQ", type, offset)


def file(
    pairs: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_tensors: int | None = None,
    num_pairs: int | None = None,
) -> bytes:
    """A whole file; counts are right unless given."""
    counts = len(infos) if num_tensors is None else num_tensors, len(pairs) if num_pairs is None else num_pairs
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head + b"\0" * (-len(head) % ALIGNMENT) + data


def small() -> bytes:
    """A valid file with every type of metadata and several tensors."""
    scalars = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
    pairs = [pair(f"s{type}", type, struct.pack(f"<{code}", 1)) for type, code in scalars.items()]
    pairs += [pair(f"a{t}", ARRAY, struct.pack(f"<IQ3{c}", t, 3, 1, 0, 1)) for t, c in scalars.items()]
    pairs += [string("name", "größe"), strings("words", ["", "a", "日本"]), string("general.architecture", "llama")]
    infos = [
        info("a", (4, 3), 0, 0),
        info("b", (32, 2), 8, 64),
        info("c", (256,), 12, 160),
        info("d", (2, 2, 2), 1, 320),
    ]
    return file(pairs, infos, bytes(range(256)) + bytes(80))
