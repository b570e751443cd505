"""Writer: an answer's pieces become content blocks, and the events of a stream that tells how they grow."""

from __future__ import annotations

import hashlib

from pydantic_core import from_json

from octavo.serve.pieces import CallPiece, Piece
from octavo.serve.service import new_id
from octavo.serve.sse import encode


class Writer:
    """The content of one message as it is written. `shows_thinking`: else thinking blocks stay empty."""

    def __init__(self, shows_thinking: bool) -> None:
        self.content: list[dict[str, object]] = []  # the finished blocks
        self._shows_thinking = shows_thinking
        self._open: dict[str, object] | None = None
        self._texts: list[str] = []
        self._call: int | None = None  # index of the call that is open

    def push(self, piece: Piece) -> bytes:
        """The events of what is new; empty when nothing is."""
        events: list[bytes] = []
        if piece.reasoning:
            events += self._in({"type": "thinking", "thinking": "", "signature": ""})
            if self._shows_thinking:
                events.append(self._add(piece.reasoning, "thinking_delta", "thinking"))
        if piece.content:
            events += self._in({"type": "text", "text": ""})
            events.append(self._add(piece.content, "text_delta", "text"))
        for call in piece.calls:
            events += self._in_call(call)
            if call.arguments:
                events.append(self._add(call.arguments, "input_json_delta", "partial_json"))
        return b"".join(events)

    def finish(self) -> bytes:
        """The events that end what is open."""
        return b"".join(self._end())

    def _in(self, block: dict[str, object]) -> list[bytes]:
        """Begin `block` unless one of its type is open."""
        if self._open is not None and self._open["type"] == block["type"]:
            return []
        return self._begin(block)

    def _in_call(self, call: CallPiece) -> list[bytes]:
        """Begin the block of `call` unless it is open."""
        if self._open is not None and self._call == call.index:
            return []
        block: dict[str, object] = {
            "type": "tool_use",
            "id": call.id or new_id("toolu_"),
            "name": call.name or "",
            "input": {},
        }
        events = self._begin(block)
        self._call = call.index
        return events

    def _begin(self, block: dict[str, object]) -> list[bytes]:
        events = self._end()
        self._open, self._texts, self._call = block, [], None
        return [*events, event("content_block_start", index=len(self.content), content_block=block)]

    def _add(self, text: str, kind: str, name: str) -> bytes:
        self._texts.append(text)
        return event("content_block_delta", index=len(self.content), delta={"type": kind, name: text})

    def _end(self) -> list[bytes]:
        block, index = self._open, len(self.content)
        if block is None:
            return []
        events: list[bytes] = []
        whole = "".join(self._texts)
        if block["type"] == "thinking":
            # Clients send a block back only with a signature; nothing is checked when it comes.
            signature = hashlib.sha256(whole.encode()).hexdigest()
            self.content.append(block | {"thinking": whole, "signature": signature})
            delta = {"type": "signature_delta", "signature": signature}
            events.append(event("content_block_delta", index=index, delta=delta))
        elif block["type"] == "text":
            self.content.append(block | {"text": whole})
        else:
            self.content.append(block | {"input": parsed(whole)})
        self._open = self._call = None
        return [*events, event("content_block_stop", index=index)]


def parsed(arguments: str) -> dict[str, object]:
    """A call's arguments; as far as they go when the answer was cut off inside them."""
    try:
        found = from_json(arguments or "{}", allow_partial=True)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def event(kind: str, **fields: object) -> bytes:
    """One event."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encode({"type": kind, **fields}))
