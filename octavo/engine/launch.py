"""What an engine process is told at its start: apart from the process itself, which its parent need not import."""

from __future__ import annotations

import struct
from typing import BinaryIO

import msgspec

from octavo.config import EngineConfig


class Launch(msgspec.Struct, frozen=True):
    """All a core process is told at its start. `name` is what the model is called; the config names its folder."""

    config: EngineConfig
    name: str
    address: str
    log_level: str


def launch_frame(launch: Launch) -> bytes:
    """The launch frame's bytes: length (4, little-endian) and msgpack."""
    frame = msgspec.msgpack.encode(launch)
    return struct.pack("<I", len(frame)) + frame


def read_launch(stream: BinaryIO) -> Launch:
    """The launch frame from standard input."""
    (length,) = struct.unpack("<I", stream.read(4))
    return msgspec.msgpack.decode(stream.read(length), type=Launch)
