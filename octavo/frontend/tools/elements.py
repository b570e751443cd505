"""Calls as elements, one for each argument, its text the value (Qwen3-Coder, GLM, MiniMax, DeepSeek V3.2, Seed)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from octavo.frontend.tools.parameters import StringValue, convert, kinds
from octavo.frontend.tools.reader import Malformed, Marks, Reader, Reading
from octavo.frontend.tools.sink import MAX_NAME, Arguments, Functions, Sink, attempt, schema_of

MAX_HEAD = 512  # characters of an opening element
LINE = re.compile(r"[^\n<{]*")


@dataclass(frozen=True)
class Elements:
    """How the elements are spelled. `starts` begin calls; an `outer` element around them may be there or not.

    A call is `name[0]` NAME `name[1]` (empty: to the end of the line or the next element), arguments, `end`. An
    argument is `key[0]` KEY `key[1]`, `value[0]`, the value, `value[1]`.
    `on_lines`: values stand on lines of their own, and null is never a text. `guesses`: a value of unknown type is JSON
    if it can be. A key that says string="true" or "false" is believed.
    """

    starts: tuple[str, ...]
    outer: tuple[str, str]
    name: tuple[str, str]
    end: str
    key: tuple[str, str]
    value: tuple[str, str]
    on_lines: bool = False
    guesses: bool = False

    def __call__(self, r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
        """Read an answer."""
        starts = Marks(*self.starts)
        while (yield from r.until(starts, sink.content)):
            yield from attempt(r, sink, self._calls(r, sink, functions))

    def _calls(self, r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
        yield from r.accept(self.outer[0])
        yield from r.spaces()
        yield from r.expect(self.name[0])
        while True:
            yield from self._call(r, sink, functions)
            yield from r.spaces()
            if self.outer[1] and (yield from r.accept(self.outer[1])):
                return
            if not (yield from r.accept(self.name[0])):
                return

    def _call(self, r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
        if self.name[1]:
            name, _ = yield from r.short(Marks(self.name[1]), MAX_HEAD)
        else:
            yield from r.spaces()
            name = r.take(len((yield from r.run(LINE, MAX_NAME))))
        name = unquoted(name)
        sent = Arguments(sink, r, name)
        sent("{")
        separator = ""
        while True:
            yield from r.spaces()
            if not (yield from r.accept(self.key[0])):
                break
            head, _ = yield from r.short(Marks(self.key[1]), MAX_HEAD)
            key = unquoted(head)
            sent(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
            separator = ", "
            yield from self._value(r, sent, kinds(schema_of(functions, name, key)), head)
        yield from self._close(r)
        sent("}")
        sent.end()

    def _close(self, r: Reader) -> Reading[None]:
        if (yield from r.accept(self.end)):
            return
        left = len(r.text) - r.at
        if r.ended and 0 < left < len(self.end) and self.end.startswith(r.text[r.at :]):
            r.take(left)
        # This element is often forgotten, the one around it less so.
        elif not self.outer[1] or (yield from r.peek()) != "<":
            raise Malformed("no end")

    def _value(self, r: Reader, sent: Arguments, types: frozenset[str], head: str) -> Reading[None]:
        yield from r.spaces() if self.value[0] else nothing()
        yield from r.expect(self.value[0])
        end = Marks(self.value[1])
        text: StringValue | None = None
        parts: list[str] = []
        if 'string="true"' in head:
            text = StringValue(sent, on_lines=False)
        elif 'string="false"' in head:
            types = frozenset()
        elif types <= {"string", "null"} and (types or not self.guesses):
            text = StringValue(sent, self.on_lines)
        if not (yield from r.until(end, text or parts.append)):
            raise Malformed("the end")
        r.take(len(self.value[1]))
        if text is not None:
            text.end()
        else:
            sent(convert("".join(parts), types, self.on_lines))


def nothing() -> Reading[None]:
    """Read nothing."""
    return
    yield


def unquoted(head: str) -> str:
    """The name in what an opening element says: what comes before a quotation mark."""
    return head.partition('"')[0].strip()


QWEN3_CODER = Elements(
    starts=("<tool_call>", "<function="),
    outer=("<tool_call>", "</tool_call>"),
    name=("<function=", ">"),
    end="</function>",
    key=("<parameter=", ">"),
    value=("", "</parameter>"),
    on_lines=True,
)
SEED = Elements(
    starts=("<seed:tool_call>",),
    outer=("<seed:tool_call>", "</seed:tool_call>"),
    name=("<function=", ">"),
    end="</function>",
    key=("<parameter=", ">"),
    value=("", "</parameter>"),
    on_lines=True,
)
GLM = Elements(
    starts=("<tool_call>",),
    outer=("", ""),
    name=("<tool_call>", ""),
    end="</tool_call>",
    key=("<arg_key>", "</arg_key>"),
    value=("<arg_value>", "</arg_value>"),
    guesses=True,
)
MINIMAX = Elements(
    starts=("<minimax:tool_call>",),
    outer=("<minimax:tool_call>", "</minimax:tool_call>"),
    name=('<invoke name="', ">"),
    end="</invoke>",
    key=('<parameter name="', ">"),
    value=("", "</parameter>"),
)
DSML = Elements(
    starts=("<｜DSML｜function_calls>",),
    outer=("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
    name=('<｜DSML｜invoke name="', ">"),
    end="</｜DSML｜invoke>",
    key=('<｜DSML｜parameter name="', ">"),
    value=("", "</｜DSML｜parameter>"),
)
