"""Replies in one piece, however long: spelled off the event loop, in slices that let other threads run (R22)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from octavo.serve.sse import encode

LONG = 2000  # numbers and texts; fewer take less time than a thread
MOST_CHOICES = 1024  # each of which may be long
SLICE = 64  # items of a list that are encoded in one go


async def written(build: Callable[[], Mapping[str, object]], num_values: int) -> bytes:
    """The JSON of what `build` returns, which holds about `num_values` values. `build` may run in another thread."""
    if num_values < LONG:
        return encode(build())
    return await asyncio.to_thread(lambda: b"".join(parts(build())))


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
            for start in range(0, len(items), SLICE):
                yield b"," * bool(start) + encode(items[start : start + SLICE])[1:-1]
        yield b"]"
    else:
        yield encode(value)
