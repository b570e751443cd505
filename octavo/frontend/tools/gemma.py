"""Gemma: `<|tool_call>call:NAME{key:<|"|>text<|"|>,count:3}<tool_call|>`; FunctionGemma has `<escape>` for quotes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from octavo.frontend.tools.reader import Marks, Reader, Reading
from octavo.frontend.tools.sink import MAX_NAME, Arguments, Functions, Sink, attempt
from octavo.frontend.tools.values import LITERALS, Notation, value

NAME = re.compile(r"[-.\w]*")


@dataclass(frozen=True)
class Gemma:
    """Calls stand between `start` and `end`; `quote` is around texts, and `ignored` may follow a call."""

    start: str
    end: str
    quote: str
    ignored: tuple[str, ...] = ()

    def __call__(self, r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
        """Read an answer."""
        starts = Marks(self.start)
        notation = Notation(LITERALS, {self.quote: "", '"': "json"}, bare_keys=True)
        while (yield from r.until(starts, sink.content)):
            yield from attempt(r, sink, self._call(r, sink, notation))

    def _call(self, r: Reader, sink: Sink, notation: Notation) -> Reading[None]:
        r.take(len(self.start))
        yield from r.spaces()
        yield from r.expect("call:")
        name = r.take(len((yield from r.run(NAME, MAX_NAME))))
        if (yield from r.peek()) != "{":
            yield from r.expect("{")
        sent = Arguments(sink, r, name)
        yield from value(r, sent, notation)
        sent.end()
        yield from r.spaces()
        if (yield from r.accept(self.end)):
            for mark in self.ignored:
                yield from r.accept(mark)


GEMMA4 = Gemma("<|tool_call>", "<tool_call|>", '<|"|>', ("<tool_call|>", "<|tool_response>"))
FUNCTION_GEMMA = Gemma("<start_function_call>", "<end_function_call>", "<escape>", ("<start_function_response>",))
