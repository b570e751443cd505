"""Calls as bare JSON objects: `{"name": …, "parameters": {…}}`, perhaps behind `<|python_tag|>` (Llama 3 and 4).

Without the tag an answer may be JSON for its own sake, so it must begin with a call of a function that was offered.
"""

from __future__ import annotations

from octavo.frontend.tools.reader import Marks, Reader, Reading
from octavo.frontend.tools.sink import Functions, Sink, attempt
from octavo.frontend.tools.tagged import Keys, objects

TAGS = ("<|python_tag|>", "<|python_start|>")
MARKS = Marks(*TAGS)
END = "<|python_end|>"


def read(r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
    """Read an answer."""
    keys = Keys(only=functions or None)
    yield from attempt(r, sink, bare(r, sink, keys))
    while mark := (yield from r.until(MARKS, sink.content)):
        yield from attempt(r, sink, tagged(r, sink, mark))


def read_list(r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
    """Read an answer that was made to be a list of calls."""
    yield from attempt(r, sink, bare(r, sink, Keys()))
    yield from r.rest(sink.content)


def bare(r: Reader, sink: Sink, keys: Keys) -> Reading[None]:
    """Calls at the start of the answer, if it starts with any."""
    yield from r.spaces()
    if (yield from r.peek()) != "<":
        yield from objects(r, sink, keys)
    else:
        sink.content(r.release())


def tagged(r: Reader, sink: Sink, mark: str) -> Reading[None]:
    """Calls behind a tag."""
    r.take(len(mark))
    yield from r.spaces()
    yield from objects(r, sink, Keys())
    yield from r.spaces()
    yield from r.accept(END)
