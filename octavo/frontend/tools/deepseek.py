"""DeepSeek V3, R1 and V3.1: calls between marks, the arguments plain or as a fenced block of JSON.

V3 and R1: `<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{…}\n```<｜tool▁call▁end｜>`;
V3.1: `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`.
"""

from __future__ import annotations

from octavo.frontend.tools.reader import Malformed, Marks, Reader, Reading
from octavo.frontend.tools.sink import MAX_NAME, Arguments, Functions, Sink, attempt
from octavo.frontend.tools.tagged import arguments

START, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
MARKS = Marks(START)
SEPARATORS = Marks(SEPARATOR, CALL_END)
FENCE = "```"
FENCES = Marks(FENCE, "<", "{")


def read(r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
    """Read an answer."""
    while (yield from r.until(MARKS, sink.content)):
        yield from attempt(r, sink, calls(r, sink))


def calls(r: Reader, sink: Sink) -> Reading[None]:
    """What stands between the outer marks."""
    r.take(len(START))
    while True:
        yield from r.spaces()
        if (yield from r.accept(END)) or not (yield from r.accept(CALL)):
            return
        yield from call(r, sink)


def call(r: Reader, sink: Sink) -> Reading[None]:
    """One call, behind its mark."""
    name, mark = yield from r.short(SEPARATORS, MAX_NAME)
    if mark != SEPARATOR:
        raise Malformed("no separator")
    yield from r.spaces()
    fenced = (yield from r.peek()) != "{"
    if fenced:
        name, mark = yield from r.short(FENCES, MAX_NAME)
        if mark != FENCE:
            raise Malformed("no block")
        yield from r.accept("json")
        yield from r.spaces()
    sent = Arguments(sink, r, name)
    yield from arguments(r, sent)
    yield from r.spaces()
    if fenced:
        yield from r.accept(FENCE)
        yield from r.spaces()
    yield from r.accept(CALL_END)
    sent.end()
