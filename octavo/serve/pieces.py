"""Pieces: what is new of an answer's choices, as every dialect writes it: content, reasoning and tool calls apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from octavo.errors import EngineDead
from octavo.frontend.output import CompletionOutput
from octavo.frontend.tools.sink import CallArguments, CallStart, Content, Event, Reasoning


@dataclass(frozen=True, slots=True)
class CallPiece:
    """What is new of one tool call. `id` and `name` come once, with its first piece; `arguments` is JSON text."""

    index: int  # of the call within its choice
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one choice, in this order: reasoning, text, tool calls.

    `output` holds its ids, log-probabilities and index. `finish_reason` comes with the last piece: stop, length or
    tool_calls.
    """

    output: CompletionOutput
    content: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True)
class Pieces:
    """Makes pieces of outputs. `most_calls`: later ones are left out. `call_id` makes ids for calls that have none."""

    call_id: Callable[[], str]
    most_calls: int
    shows_reasoning: bool
    stops_at_call: bool  # finish_reason is tool_calls when there are calls
    is_whole: bool  # one piece for a choice, whatever the order of things in it

    def of(self, output: CompletionOutput, called: set[int]) -> list[Piece]:
        """The pieces of one choice; `called` remembers which have made calls."""
        if output.events is None:
            return [Piece(output, output.text, finish_reason=finish(output))]
        groups = [output.events] if self.is_whole else list(runs(output.events))
        drafts = [self._draft(events) for events in groups] or [Draft()]
        if any(draft.calls for draft in drafts):
            called.add(output.index)
        reason = finish(output)
        if reason == "stop" and self.stops_at_call and output.index in called:
            reason = "tool_calls"
        # The ids and log-probabilities are told once, with the last piece.
        empty = CompletionOutput(output.index, "", [], logprobs=None if output.logprobs is None else [])
        return [
            *(draft.piece(empty, None) for draft in drafts[:-1]),
            drafts[-1].piece(output, reason),
        ]

    def _draft(self, events: list[Event]) -> Draft:
        draft = Draft()
        for event in events:
            if isinstance(event, Content):
                draft.content.append(event.text)
            elif isinstance(event, Reasoning):
                if self.shows_reasoning:
                    draft.reasoning.append(event.text)
            elif event.index < self.most_calls:
                self._call(draft, event)
        return draft

    def _call(self, draft: Draft, event: CallStart | CallArguments) -> None:
        if isinstance(event, CallStart):
            draft.calls[event.index] = CallPiece(event.index, "", event.id or self.call_id(), event.name)
        else:
            before = draft.calls.get(event.index, CallPiece(event.index))
            text = before.arguments + event.text
            draft.calls[event.index] = CallPiece(event.index, text, before.id, before.name)


class Draft:
    """A piece that is being put together."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, CallPiece] = {}

    def piece(self, output: CompletionOutput, reason: str | None) -> Piece:
        """The piece."""
        return Piece(output, "".join(self.content), "".join(self.reasoning), tuple(self.calls.values()), reason)


def runs(events: list[Event]) -> Iterator[list[Event]]:
    """The events cut where their order would be another in one piece."""
    run: list[Event] = []
    last = 0
    for event in events:
        rank = 0 if isinstance(event, Reasoning) else 1 if isinstance(event, Content) else 2
        if rank < last:
            yield run
            run = []
        run.append(event)
        last = rank
    if run:
        yield run


def finish(output: CompletionOutput) -> str | None:
    """The finish reason a client may be told; EngineDead for one that neither the model nor its owner chose (R1)."""
    if output.finish_reason == "error":
        raise EngineDead("the request was ended by the server before it was finished")
    return output.finish_reason
