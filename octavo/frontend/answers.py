"""How a model's answers are read: the conventions of its tool calls and its reasoning, and a parser for each answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from octavo.frontend import reasoning
from octavo.frontend.reasoning import ReasoningFormat
from octavo.frontend.tokenizer import Tokenizer
from octavo.frontend.tools import harmony, registry
from octavo.frontend.tools.reader import Feed, Reader
from octavo.frontend.tools.registry import ToolFormat
from octavo.frontend.tools.sink import (
    CallArguments,
    CallStart,
    Content,
    Event,
    Functions,
    Reasoning,
    Sink,
    functions_of,
)


@dataclass(frozen=True)
class AnswerFormat:
    """A model's conventions, each None when it has none; `origin` says how they were found, for people."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, template: str, tool_parser: str = "auto", reasoning_parser: str = "auto") -> AnswerFormat:
        """The conventions by name; "auto" is what the chat template's text shows, "none" none. StartupError else."""
        tools: ToolFormat | None = None
        thoughts: ReasoningFormat | None = None
        if tool_parser == "auto":
            tools = registry.find(template)
        elif tool_parser != "none":
            tools = registry.named(tool_parser)
        if reasoning_parser == "auto":
            is_harmony = tools is not None and tools.name == "openai"
            thoughts = reasoning.HARMONY if is_harmony else reasoning.find(template)
        elif reasoning_parser != "none":
            thoughts = reasoning.named(reasoning_parser)
        return cls(
            tools,
            thoughts,
            {
                "tool calls": said(tools.name if tools else None, tool_parser),
                "reasoning": said(thoughts.name if thoughts else None, reasoning_parser),
            },
        )

    def reading(
        self,
        prompt: str,
        tools: Sequence[Mapping[str, Any]] | None,
        visible: frozenset[int] = frozenset(),
        is_continued: bool = False,
    ) -> AnswerReading | None:
        """How answers to `prompt` are read, which offers `tools`; None when there is nothing to be read apart."""
        calls = self.tools if tools else None
        if calls is None and self.reasoning is None:
            return None
        form = self.reasoning
        is_inside = form is not None and bool(form.starts) and form.begins_inside(prompt, is_continued)
        return AnswerReading(calls, form, functions_of(tools), is_inside, visible)

    def visible(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The special tokens that are part of a convention: an answer's text must show them to its parser."""
        marks = (*(self.tools.marks if self.tools else ()), *(self.reasoning.marks if self.reasoning else ()))
        spelled = ((id, tokenizer.token_text(id)) for id in tokenizer.special_ids)
        return frozenset(id for id, text in spelled if text and any(text in mark for mark in marks))


def said(name: str | None, flag: str) -> str:
    """A line of the plan."""
    if name is None:
        return "none in the chat template" if flag == "auto" else "not parsed, as asked"
    return f"{name} (from the chat template)" if flag == "auto" else f"{name} (as asked)"


@dataclass(frozen=True)
class AnswerReading:
    """How the answers to one request are read. `functions` are its tools, none when calls are not wanted."""

    tools: ToolFormat | None
    reasoning: ReasoningFormat | None
    functions: Functions
    is_inside: bool  # the prompt ends inside reasoning
    visible: frozenset[int]  # special tokens that the text must show

    @property
    def is_harmony(self) -> bool:
        """Whether reasoning and calls are told apart by one parser."""
        return self.reasoning is reasoning.HARMONY or (self.tools is not None and self.tools.name == "openai")

    @property
    def begin_marks(self) -> tuple[str, ...]:
        """Behind which of these texts content begins; none when it begins at once."""
        if self.is_harmony:
            return (harmony.FINAL,)
        return self.reasoning.ends if self.reasoning is not None else ()

    @property
    def thinking_marks(self) -> tuple[str, str] | None:
        """What begins and ends reasoning, None when it is not told apart."""
        form = self.reasoning
        if form is reasoning.HARMONY:
            return harmony.ANALYSIS, harmony.ENDS[0]
        return (form.starts[0], form.ends[0]) if form is not None else None

    def parser(self) -> AnswerParser:
        """A parser for one answer."""
        return AnswerParser(self)


class AnswerParser:
    """Turns the text of one answer into events as it arrives. However it is cut, the events joined are the same."""

    def __init__(self, how: AnswerReading) -> None:
        self.sink = sink = Sink(has_calls=how.tools is not None)
        self._feeds: list[Feed] = []
        if how.is_harmony:
            reader = Reader()
            self._feeds.append(Feed(reader, harmony.read(reader, sink, how.functions)))
            return
        content = sink.content
        opens: tuple[str, ...] = ()
        if how.tools is not None:
            reader = Reader()
            calls = Feed(reader, how.tools.read(reader, sink, how.functions))
            self._feeds.append(calls)
            content = calls.push
            opens = how.tools.opens
        if how.reasoning is not None:
            reader = Reader()
            sink.thinking = how.is_inside
            self._feeds.insert(0, Feed(reader, reasoning.split(reader, sink, content, how.reasoning, opens)))

    @property
    def thinking(self) -> bool:
        """Whether reasoning is going on."""
        return self.sink.thinking

    @property
    def is_plain(self) -> bool:
        """Whether all that comes is content, as it is."""
        return self.sink.is_plain and len(self._feeds) == 1

    def push(self, text: str) -> None:
        """More of the answer."""
        if self.is_plain:
            self.sink.content(text)
        elif text:
            self._feeds[0].push(text)

    def finish(self) -> None:
        """That was all of it."""
        for feed in self._feeds:
            feed.finish()
        self.sink.finish()

    def take(self) -> list[Event]:
        """The events since the last time."""
        return self.sink.take()


@dataclass(frozen=True)
class ToolCall:
    """A call of a function; `arguments` is JSON text, as the model wrote it. `id` only if the model gave one."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True)
class Message:
    """What one answer says."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def merged(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbors of one kind joined."""
    result: list[Event] = []
    parts: list[str] = []
    for event in events:
        last = result[-1] if result else None
        same = type(event) is type(last) and not isinstance(event, CallStart)
        if not same or (isinstance(event, CallArguments) and event.index != last.index):  # type: ignore[union-attr]
            close(result, parts)
            result.append(event)
            parts = []
        if not isinstance(event, CallStart):
            parts.append(event.text)
    close(result, parts)
    return result


def close(result: list[Event], parts: list[str]) -> None:
    """Give the last event the text of all its parts."""
    if len(parts) < 2:
        return
    last, text = result[-1], "".join(parts)
    if isinstance(last, CallArguments):
        result[-1] = CallArguments(last.index, text)
    elif not isinstance(last, CallStart):
        result[-1] = type(last)(text)


def message(events: Iterable[Event]) -> Message:
    """An answer's events as a whole."""
    content: list[str] = []
    thoughts: list[str] = []
    starts: list[CallStart] = []
    arguments: list[list[str]] = []
    for event in events:
        if isinstance(event, Content):
            content.append(event.text)
        elif isinstance(event, Reasoning):
            thoughts.append(event.text)
        elif isinstance(event, CallStart):
            starts.append(event)
            arguments.append([])
        else:
            arguments[event.index].append(event.text)
    calls = (ToolCall(one.name, "".join(parts), one.id) for one, parts in zip(starts, arguments, strict=True))
    return Message("".join(content), "".join(thoughts), tuple(calls))


def read_answer(text: str, how: AnswerReading) -> Message:
    """What a whole answer says."""
    parser = how.parser()
    parser.push(text)
    parser.finish()
    return message(parser.take())
