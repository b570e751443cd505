"""Kimi K2: `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>` in a section."""

from __future__ import annotations

from octavo.frontend.tools.reader import Marks, Reader, Reading
from octavo.frontend.tools.sink import MAX_NAME, Arguments, Functions, Sink, attempt
from octavo.frontend.tools.tagged import arguments

SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
MARKS = Marks(SECTION, CALL)
NAME_ENDS = Marks(ARGUMENTS)


def read(r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
    """Read an answer."""
    while (yield from r.until(MARKS, sink.content)):
        yield from attempt(r, sink, calls(r, sink))


def calls(r: Reader, sink: Sink) -> Reading[None]:
    """A section; its opening mark may be missing."""
    yield from r.accept(SECTION)
    while True:
        yield from r.spaces()
        if (yield from r.accept(SECTION_END)) or not (yield from r.accept(CALL)):
            return
        id, _ = yield from r.short(NAME_ENDS, MAX_NAME)
        id = id.strip()
        # The template puts the id back as it was, and the model counts on it.
        name = id.removeprefix("functions.")
        head, _, number = name.rpartition(":")
        yield from r.spaces()
        sent = Arguments(sink, r, head if head and number.isdigit() else name, id)
        yield from arguments(r, sent)
        yield from r.spaces()
        yield from r.accept(CALL_END)
        sent.end()
