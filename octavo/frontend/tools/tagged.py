"""Calls as JSON objects behind a mark: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, or a list of them.

Hermes, Qwen 2.5 and 3, Granite, Phi-4 mini, InternLM, Jamba, Hunyuan, Command, GigaChat, LongCat, MiniMax M1, Nemotron.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from octavo.frontend.tools.reader import Malformed, Marks, Out, Reader, Reading, drop
from octavo.frontend.tools.sink import MAX_NAME, Arguments, Functions, Sink, attempt
from octavo.frontend.tools.values import JSON, converted, text_value, value

MAX_KEY = 64  # characters
MAX_INNER = 2**20  # characters of arguments inside a string


@dataclass(frozen=True)
class Tagged:
    """Objects stand behind one of `starts`; one of `ends` may close them. `names` and `arguments` are their keys."""

    starts: tuple[str, ...]
    ends: tuple[str, ...] = ()
    names: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")

    def __call__(self, r: Reader, sink: Sink, functions: Functions) -> Reading[None]:
        """Read an answer."""
        starts = Marks(*self.starts)
        while mark := (yield from r.until(starts, sink.content)):
            yield from attempt(r, sink, self._calls(r, sink, mark))

    def _calls(self, r: Reader, sink: Sink, mark: str) -> Reading[None]:
        r.take(len(mark))
        yield from r.spaces()
        keys = Keys(self.names, self.arguments)
        yield from objects(r, sink, keys)
        yield from r.spaces()
        for end in self.ends:
            if (yield from r.accept(end)):
                return


@dataclass(frozen=True)
class Keys:
    """Which keys of a call hold what. With `only`, other functions are not called, nor any without arguments."""

    names: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    only: Collection[str] | None = None


def objects(r: Reader, sink: Sink, keys: Keys) -> Reading[None]:
    """Read calls: a list of objects, or objects with nothing, commas or semicolons between."""
    if (yield from r.accept("[")):
        while True:
            yield from r.spaces()
            yield from call(r, sink, keys)
            yield from r.spaces()
            if not (yield from r.accept(",")):
                break
        yield from r.expect("]")
        return
    while True:
        yield from call(r, sink, keys)
        yield from r.spaces()
        if not (yield from r.accept(",")):
            yield from r.accept(";")
        yield from r.spaces()
        if (yield from r.peek()) != "{":
            return


def call(r: Reader, sink: Sink, keys: Keys) -> Reading[None]:
    """Read one call. Its arguments are sent while they are read if the name comes first."""
    yield from r.expect("{")
    name: str | None = None
    waiting: list[str] = []  # arguments without a name so far
    sent: Arguments | None = None
    while True:
        yield from r.spaces()
        found = yield from text_value(r, MAX_KEY)
        yield from r.spaces()
        yield from r.expect(":")
        yield from r.spaces()
        if found in keys.names and name is None:
            name = yield from text_value(r, MAX_NAME)
            if keys.only is not None and name not in keys.only:
                raise Malformed(name)
        elif found in keys.arguments and sent is None and not waiting:
            sent = Arguments(sink, r, name) if name is not None else None
            yield from arguments(r, sent or waiting.append)
        elif found == "function" and name is None and (yield from r.peek()) == "{":
            yield from call(r, sink, keys)
            yield from r.spaces()
            yield from r.expect("}")
            return
        else:
            yield from value(r, drop)
        yield from r.spaces()
        if not (yield from r.accept(",")):
            break
    # A brace that is forgotten behind complete arguments does no harm.
    if not (yield from r.accept("}")) and sent is None:
        raise Malformed("no end")
    if sent is None:
        if name is None or (keys.only is not None and not waiting):
            raise Malformed("no name")
        sent = Arguments(sink, r, name)
        sent("".join(waiting) or "{}")
    sent.end()


def arguments(r: Reader, out: Out) -> Reading[None]:
    """Read the arguments: an object, an object inside a string, or null for none."""
    char = yield from r.peek()
    if char == "{":
        yield from value(r, out)
    elif char == '"':
        inner = (yield from text_value(r, MAX_INNER)).strip()
        text = converted(inner, JSON)
        if text is None or not inner.startswith("{"):
            raise Malformed(inner[:20])
        out(text)
    else:
        yield from r.expect("null")
        out("{}")
