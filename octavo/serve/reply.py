"""Replies in one piece, however long: spelled off the event loop, in slices that let other threads run (R22)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import cast

import msgspec

LONG = 2000  # numbers and texts; fewer take less time than a thread
MOST_CHOICES = 1024  # each of which may be long
SLICE = 64  # items of a list that are encoded in one go

encode = msgspec.json.Encoder(enc_hook=list).encode  # of iterators


async def written(build: Callable[[], Mapping[str, object]], num_values: int) -> bytes:
    """The JSON of what `build` returns, in which iterators stand for lists, and which holds about `num_values` values.

    `build` may run in another thread.
    """
    if num_values < LONG:
        return encode(build())
    return await asyncio.to_thread(lambda: b"".join(parts(build())))


def slices(items: Iterator[object]) -> Iterator[bytes]:
    """The JSON of a list's items with commas between."""
    comma = b""
    while some := list(islice(items, SLICE)):
        yield comma + encode(some)[1:-1]
        comma = b","


def parts(value: object) -> Iterator[bytes]:
    """The JSON of `value` in parts, none of which takes long to encode."""
    if isinstance(value, Mapping):
        yield b"{"
        for i, (name, item) in enumerate(cast(Mapping[str, object], value).items()):
            yield b"," * bool(i) + encode(name) + b":"
            yield from parts(item)
        yield b"}"
    elif isinstance(value, list):
        items = cast(list[object], value)
        yield b"["
        if len(items) <= SLICE or (len(items) <= MOST_CHOICES and isinstance(items[0], Mapping)):
            for i, item in enumerate(items):
                yield b"," * bool(i)
                yield from parts(item)
        else:
            yield from slices(iter(items))
        yield b"]"
    elif isinstance(value, Iterator):
        yield b"["
        yield from slices(cast(Iterator[object], value))
        yield b"]"
    else:
        yield encode(value)
