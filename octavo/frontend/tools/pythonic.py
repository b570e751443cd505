"""Calls as Python writes them: `[get_weather(city="Paris"), now()]` (Llama 4, OLMo 3, LFM2, Llama 3.2 …).

Without marks around them an answer may be a list for its own sake, so it must begin with a call, of a function that was
offered and with arguments by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from octavo.frontend.tools.reader import Malformed, Marks, Reader, Reading
from octavo.frontend.tools.sink import MAX_NAME, Arguments, Functions, Sink, attempt
from octavo.frontend.tools.values import PYTHON, value

NAME = re.compile(r"[-.\w]*")


@dataclass(frozen=True)
class Pythonic:
    """Calls stand between `start` and `end`; `is_bare`: the answer may also begin with them. `brackets` are around."""

    start: str
    end: str
    is_bare: bool = False

    def __call__(self, r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
        """Read an answer."""
        if self.is_bare:
            yield from attempt(r, sink, self._bare(r, sink, functions))
        starts = Marks(self.start)
        while (yield from r.until(starts, sink.content)):
            yield from attempt(r, sink, self._tagged(r, sink))

    def _bare(self, r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
        yield from r.spaces()
        yield from r.expect("[")
        yield from calls(r, sink, functions or None)
        yield from r.expect("]")

    def _tagged(self, r: Reader, sink: Sink) -> Reading[None]:
        r.take(len(self.start))
        yield from r.spaces()
        has_brackets = yield from r.accept("[")
        yield from calls(r, sink, None)
        if has_brackets:
            yield from r.expect("]")
        yield from r.spaces()
        yield from r.accept(self.end)


def calls(r: Reader, sink: Sink, only: Collection[str] | None) -> Reading[None]:
    """Read one or several calls, with commas or line ends between."""
    while True:
        yield from r.spaces()
        yield from call(r, sink, only)
        yield from r.spaces()
        yield from r.accept(",")
        yield from r.spaces()
        if not NAME.match((yield from r.peek())).group():  # type: ignore[union-attr]
            return


def call(r: Reader, sink: Sink, only: Collection[str] | None) -> Reading[None]:
    """Read one call: `name(key=value, …)`."""
    name = r.take(len((yield from r.run(NAME, MAX_NAME))))
    yield from r.spaces()
    yield from r.expect("(")
    if only is not None and name not in only:
        raise Malformed(name)
    sent = Arguments(sink, r, name)
    opening = "{"
    while True:
        yield from r.spaces()
        if (yield from r.accept(")")):
            break
        key = yield from r.run(NAME, MAX_NAME)
        r.take(len(key))
        yield from r.spaces()
        if not key or not (yield from r.accept("=")):
            raise Malformed("no keyword")
        sent(f'{opening}"{key}": ')
        opening = ", "
        yield from r.spaces()
        yield from value(r, sent, PYTHON)
        yield from r.spaces()
        if not (yield from r.accept(",")) and (yield from r.peek()) != ")":
            raise Malformed("no comma")
    sent("{}" if opening == "{" else "}")
    sent.end()
