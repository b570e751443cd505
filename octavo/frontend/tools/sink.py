"""Sink: what an answer says, as events in order: content, reasoning, tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from octavo.frontend.tools.reader import Malformed, Reader, Reading

Functions: TypeAlias = Mapping[str, Mapping[str, Any]]  # the request's tools: name -> JSON schema of the arguments
MAX_NAME = 256  # characters of a function's name


class Content(Struct, frozen=True):
    """Text for the reader of the answer."""

    text: str


class Reasoning(Struct, frozen=True):
    """What the model thinks before it answers."""

    text: str


class CallStart(Struct, frozen=True):
    """Tool call number `index` of the answer begins; `id` if the model gave it one."""

    index: int
    name: str
    id: str | None = None


class CallArguments(Struct, frozen=True):
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


Event: TypeAlias = Content | Reasoning | CallStart | CallArguments


class Sink:
    """Collects events. `thinking` is whether reasoning is going on.

    With `has_calls`, white space between content and calls belongs to neither: at the end of content it waits until
    more content comes. `is_plain`: from here on, all is content.
    """

    def __init__(self, has_calls: bool = True) -> None:
        self.is_plain = False
        self._has_calls = has_calls
        self.events: list[Event] = []
        self.thinking = False
        self.calls = 0
        self.is_open = False  # a call has begun and not ended
        self._spaces: list[str] = []
        self._after_call = False

    def content(self, text: str) -> None:
        """More content."""
        if not self._has_calls:
            if text:
                self.events.append(Content(text))
            return
        if self._after_call:
            text = text.lstrip()
            if not text:
                return
            self._after_call = False
        shown = text.rstrip()
        if shown:
            self.events.append(Content("".join((*self._spaces, shown))))
            self._spaces.clear()
        if len(shown) < len(text):
            self._spaces.append(text[len(shown) :])

    def reasoning(self, text: str) -> None:
        """More reasoning."""
        if text:
            self.events.append(Reasoning(text))

    def start(self, name: str, id: str | None = None) -> None:
        """A call begins."""
        self.is_open = True
        self._spaces.clear()
        self._after_call = True
        self.events.append(CallStart(self.calls, name, id))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that is open."""
        if text:
            self.events.append(CallArguments(self.calls - 1, text))

    def end(self) -> None:
        """The call is complete."""
        self.is_open = False

    def finish(self) -> None:
        """Nothing more comes."""
        if self._spaces:
            self.events.append(Content("".join(self._spaces)))
            self._spaces.clear()

    def take(self) -> list[Event]:
        """The events since the last time."""
        events, self.events = self.events, []
        return events


class Arguments:
    """One call on its way to the sink: it begins with the first key of its arguments, or with their end.

    Until then the text may turn out to be no call; nothing can be taken back afterwards.
    """

    def __init__(self, sink: Sink, reader: Reader, name: str, id: str | None = None) -> None:
        self._sink = sink
        self._reader = reader
        self._name = checked(name)
        self._id = id
        self._parts: list[str] = []
        self._begun = False

    def __call__(self, text: str) -> None:
        """More JSON text of the arguments."""
        if self._begun:
            self._sink.arguments(text)
            return
        self._parts.append(text)
        if '"' in text or "}" in text:
            self._begin()

    def _begin(self) -> None:
        self._begun = True
        self._reader.release()
        self._sink.start(self._name, self._id)
        self._sink.arguments("".join(self._parts))

    def end(self) -> None:
        """They are complete."""
        assert self._begun
        self._sink.end()
        self._reader.hold()


def checked(name: str) -> str:
    """A function's name; Malformed when it cannot be one."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise Malformed(name[:20])
    return name


def attempt(reader: Reader, sink: Sink, parser: Reading[None]) -> Reading[None]:
    """Read one or several calls. What is not one becomes content, as far as it was not sent."""
    reader.hold()
    try:
        yield from parser
    except Malformed:
        sink.is_open = False
        sink.content(reader.release())
    reader.release()


def schema_of(functions: Functions, name: str, key: str) -> Mapping[str, Any]:
    """The JSON schema of one argument, empty when it is unknown."""
    properties: object = functions.get(name, {}).get("properties")
    found: object = properties.get(key) if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def functions_of(tools: Sequence[Mapping[str, Any]] | None) -> Functions:
    """The functions among a request's tools."""
    found: dict[str, Mapping[str, Any]] = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            parameters = function.get("parameters")
            found[function["name"]] = parameters if isinstance(parameters, Mapping) else {}
    return found
