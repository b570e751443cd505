"""Writer: an answer's pieces become output items, and the events of a stream that tells how they grow."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from octavo.frontend.output import CompletionOutput
from octavo.serve.logprobs import TokenNames
from octavo.serve.pieces import CallPiece, Piece
from octavo.serve.responses.items import FunctionCall, Item, Message, OutputText, Reasoning, ReasoningText, Status
from octavo.serve.service import new_id
from octavo.serve.sse import encode


@dataclass
class Growing:
    """The item that is being written: what it is now, and what was added to it."""

    item: Item
    place: int  # in the output
    texts: list[str] = field(default_factory=list)
    logprobs: list[msgspec.Raw] = field(default_factory=list)
    call: int | None = None  # index of the call that it is

    def finished(self, status: Status) -> Item:
        """The item as a whole."""
        whole = "".join(self.texts)
        if isinstance(self.item, Message):
            content: list[object] = [OutputText(whole, logprobs=self.logprobs)]
            return msgspec.structs.replace(self.item, content=content, status=status)
        if isinstance(self.item, Reasoning):
            return msgspec.structs.replace(self.item, content=[ReasoningText(whole)], status=status)
        return msgspec.structs.replace(self.item, arguments=whole, status=status)


class Writer:
    """The output of one response as it is written. `names` and `top`: how log-probabilities are told, if at all.

    `log` holds the events by their numbers, if they may be asked for again.
    """

    def __init__(self, names: TokenNames | None, top: int, first: int = 0, keeps_log: bool = False) -> None:
        self.log: list[bytes] | None = [] if keeps_log else None
        self._next = first  # number of the next event
        self._names = names
        self._top = top
        self._done: list[Item] = []
        self._open: Growing | None = None
        self._positions = 0  # whose log-probabilities have come
        self._logprobs: list[msgspec.Raw] = []  # of tokens whose text is still to come

    def output(self, status: Status = "in_progress") -> list[Item]:
        """The items so far, the last one with `status` if it is not finished."""
        return [*self._done, self._open.finished(status)] if self._open else list(self._done)

    def event(self, kind: str, **fields: object) -> bytes:
        """The next event."""
        event = b"event: %s\ndata: %s\n\n" % (
            kind.encode(),
            encode({"type": kind, "sequence_number": self._next, **fields}),
        )
        self._next += 1
        if self.log is not None:
            self.log.append(event)
        return event

    def push(self, piece: Piece) -> bytes:
        """The events of what is new; empty when nothing is."""
        events: list[bytes] = []
        self._logprobs += self._entries(piece.output)
        if piece.reasoning:
            events += self._grow("reasoning", piece.reasoning, [])
        if piece.content:
            events += self._grow("message", piece.content, self._logprobs)
            self._logprobs = []
        for call in piece.calls:
            events += self._call(call)
        return b"".join(events)

    def finish(self, reason: str | None) -> bytes:
        """The events that end what is open; a response that says and calls nothing has an empty message."""
        cut = reason in ("length", "abort")
        said = cut or any(not isinstance(item, Reasoning) for item in self.output())
        events = [] if said else self._begin(Message("assistant", [], new_id("msg_")))
        return b"".join((*events, *self._end("incomplete" if cut else "completed")))

    def _entries(self, output: CompletionOutput) -> list[msgspec.Raw]:
        """The log-probabilities of the output's tokens, without those of reasoning, which come first."""
        if self._names is None:
            return []
        positions = output.logprobs or []
        skipped = max(0, output.reasoning_tokens - self._positions)
        self._positions += len(positions)
        # As JSON they take a tenth of the memory.
        return [msgspec.Raw(encode(entry)) for entry in self._names.entries(positions[skipped:], self._top)]

    def _grow(self, kind: str, text: str, logprobs: list[msgspec.Raw]) -> list[bytes]:
        """Add text to the message or the reasoning that is open, or begin one."""
        events: list[bytes] = []
        if self._open is None or type(self._open.item) is not (Message if kind == "message" else Reasoning):
            id = new_id("msg_" if kind == "message" else "rs_")
            events = self._begin(Message("assistant", [], id) if kind == "message" else Reasoning([], [], id))
        assert self._open is not None
        self._open.texts.append(text)
        self._open.logprobs += logprobs
        at = self._at()
        if kind == "message":
            events.append(self.event("response.output_text.delta", **at, delta=text, logprobs=logprobs))
        else:
            events.append(self.event("response.reasoning_text.delta", **at, delta=text))
        return events

    def _call(self, piece: CallPiece) -> list[bytes]:
        """Add to the call that is open, or begin one."""
        events: list[bytes] = []
        if self._open is None or self._open.call != piece.index:
            call = FunctionCall(piece.id or new_id("call_"), piece.name or "", "", new_id("fc_"))
            events = self._begin(call)
            assert self._open is not None
            self._open.call = piece.index
        if piece.arguments:
            self._open.texts.append(piece.arguments)
            at = {"item_id": self._open.item.id, "output_index": self._open.place}
            events.append(self.event("response.function_call_arguments.delta", **at, delta=piece.arguments))
        return events

    def _at(self) -> dict[str, object]:
        assert self._open is not None
        return {"item_id": self._open.item.id, "output_index": self._open.place, "content_index": 0}

    def _begin(self, item: Item) -> list[bytes]:
        """End what is open and begin `item`."""
        events = self._end("completed")
        self._open = Growing(msgspec.structs.replace(item, status="in_progress"), len(self._done))
        events.append(self.event("response.output_item.added", output_index=len(self._done), item=self._open.item))
        if not isinstance(item, FunctionCall):
            part = OutputText("") if isinstance(item, Message) else ReasoningText("")
            events.append(self.event("response.content_part.added", **self._at(), part=part))
        return events

    def _end(self, status: Status) -> list[bytes]:
        """End what is open."""
        if self._open is None:
            return []
        item, at = self._open.finished(status), self._at()
        if isinstance(item, FunctionCall):
            del at["content_index"]
            done = {"name": item.name, "arguments": item.arguments}
            events = [self.event("response.function_call_arguments.done", **at, **done)]
        else:
            assert isinstance(item, Message | Reasoning) and item.content
            part = item.content[0]
            if isinstance(part, OutputText):
                done = {"text": part.text, "logprobs": part.logprobs}
                events = [self.event("response.output_text.done", **at, **done)]
            else:
                assert isinstance(part, ReasoningText)
                events = [self.event("response.reasoning_text.done", **at, text=part.text)]
            events.append(self.event("response.content_part.done", **at, part=part))
        events.append(self.event("response.output_item.done", output_index=self._open.place, item=item))
        self._done.append(item)
        self._open = None
        return events
