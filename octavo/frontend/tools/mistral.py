"""Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, and since 2025 `[TOOL_CALLS]name[ARGS]{…}` for each."""

from __future__ import annotations

import secrets
import string

from octavo.frontend.tools.reader import Marks, Reader, Reading
from octavo.frontend.tools.sink import MAX_NAME, Arguments, Functions, Sink, attempt
from octavo.frontend.tools.tagged import Keys, arguments, objects

START = "[TOOL_CALLS]"
MARKS = Marks(START)
NAME_ENDS = Marks("[ARGS]", "[CALL_ID]", "{", "<", "\n")
ARGS = Marks("[ARGS]")


def call_id() -> str:
    """Nine letters or digits: templates of this family refuse any other id."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def read(r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
    """Read an answer."""
    while (yield from r.until(MARKS, sink.content)):
        yield from attempt(r, sink, calls(r, sink))


def calls(r: Reader, sink: Sink) -> Reading[None]:
    """What stands behind the mark."""
    r.take(len(START))
    yield from r.spaces()
    if (yield from r.peek()) in "[{":
        yield from objects(r, sink, Keys())
        return
    id: str | None = None
    name = yield from unread(r)
    if (yield from r.accept("[CALL_ID]")):
        id, _ = yield from r.short(ARGS, MAX_NAME)
    else:
        yield from r.accept("[ARGS]")
    yield from r.spaces()
    sent = Arguments(sink, r, name, id)
    yield from arguments(r, sent)
    sent.end()


def unread(r: Reader) -> Reading[str]:
    """The name; what ends it stays."""
    parts: list[str] = []
    yield from r.until(NAME_ENDS, parts.append)
    return "".join(parts)
