"""Chat templates in processes of their own, each render bounded in time and memory (R22, R37).

A template is a program that came with a checkpoint, and messages are its input. Most renders take well under a
millisecond and go to processes that give up after `SOON_S`; those that need longer begin again in others, which stand
back where cores are scarce. So a slow render keeps no other waiting.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from octavo import log
from octavo.bounded import Bounded, Bounds, CallFailed, Exceeded, serve
from octavo.errors import InvalidRequest, OctavoError
from octavo.frontend.chat import ChatTemplate, Rendered
from octavo.frontend.template import TooLong

logger = log.get(__name__)

SOON_S = 0.05
MEMORY_BYTES = 256 << 20
SOON = Bounds(seconds=0.5, memory_bytes=MEMORY_BYTES)
LONG = Bounds(seconds=2.0, memory_bytes=MEMORY_BYTES, nice=5)
MOST_SOON, MOST_LONG = 2, 2  # processes
HUGE = 1 << 20  # bytes of a request that is not tried in a hurry


class Setup(msgspec.Struct):
    """What a process is told once; it gives up on a render after `patience_s`."""

    sources: dict[str, str]
    special_tokens: dict[str, str]
    control: list[str]
    patience_s: float


class Chat(msgspec.Struct, array_like=True):
    """A render's arguments, as of ChatTemplate.render."""

    messages: Any
    tools: Any
    add_generation_prompt: bool
    continue_final_message: bool
    kwargs: Any


class Reply(msgspec.Struct, array_like=True, omit_defaults=True):
    """A render's outcome: a text, an error of the request's, or neither when it takes longer."""

    text: str | None = None
    spelled: list[tuple[int, int]] = []
    error: str | None = None
    field: str | None = None


class Renderer:
    """A chat template at work elsewhere. Belongs to the running event loop."""

    def __init__(self, template: ChatTemplate, soon_s: float = SOON_S) -> None:
        def setup(patience_s: float) -> bytes:
            told = Setup(template.sources, template.special_tokens, template.control, patience_s)
            return msgspec.msgpack.encode(told)

        self._soon = Bounded(__name__, setup(soon_s), SOON, MOST_SOON)
        self._long = Bounded(__name__, setup(math.inf), LONG, MOST_LONG)

    @property
    def killed(self) -> int:
        """Processes that were ended because a render passed a bound."""
        return self._soon.killed + self._long.killed

    def start(self) -> None:
        """Begin a process now, so that the first chat need not wait for it."""
        self._soon.start()

    def stop(self) -> None:
        """End the processes."""
        self._soon.stop()
        self._long.stop()

    async def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """As ChatTemplate.render; InvalidRequest also for what takes too long, Overloaded when too many wait."""
        frame = _frame(Chat(messages, tools, add_generation_prompt, continue_final_message, kwargs))
        try:
            reply = await self._call(frame)
        except Exceeded as error:
            raise InvalidRequest(
                f"the chat template passes a limit on these messages: {_LIMITS[error.what]}", "messages"
            ) from None
        except CallFailed:
            raise OctavoError("a chat template could not be rendered") from None
        if reply.error is not None:
            raise InvalidRequest(reply.error, reply.field)
        assert reply.text is not None
        return Rendered(reply.text, reply.spelled)

    async def _call(self, frame: bytes) -> Reply:
        if len(frame) < HUGE:
            try:
                reply = _REPLIES.decode(await self._soon.call(frame))
                if reply.text is not None or reply.error is not None:
                    return reply
            except Exceeded as error:
                if error.what != "time":
                    raise
        return _REPLIES.decode(await self._long.call(frame))


_LIMITS = {
    "time": f"it takes longer than {LONG.seconds:g} seconds",
    "memory": f"it needs more than {MEMORY_BYTES >> 20} MiB",
    "size": "it writes too much",
    "death": "its process died",
}
_REPLIES = msgspec.msgpack.Decoder(Reply)
_CHATS = msgspec.msgpack.Decoder(Chat)
AS_JSON = b"\xc1"  # never the first byte of msgpack


def _frame(chat: Chat) -> bytes:
    try:
        return msgspec.msgpack.encode(chat)
    except OverflowError:  # an integer of more than 64 bits, which JSON may hold
        return AS_JSON + msgspec.json.encode(msgspec.to_builtins(chat))
    except UnicodeEncodeError:
        raise InvalidRequest("messages hold a lone surrogate, which is not valid Unicode", "messages") from None
    except (TypeError, RecursionError) as error:
        raise InvalidRequest(f"messages hold what JSON cannot: {error}", "messages") from None


def _chat(frame: bytes) -> Chat:
    return msgspec.convert(json.loads(frame[1:]), Chat) if frame[:1] == AS_JSON else _CHATS.decode(frame)


def _open(setup: bytes) -> Callable[[bytes], bytes]:
    told = msgspec.msgpack.decode(setup, type=Setup)
    template = ChatTemplate(told.sources, told.special_tokens, control=told.control)

    def handle(frame: bytes) -> bytes:
        until = time.monotonic() + told.patience_s
        try:
            chat = _chat(frame)
            found = template.render(
                chat.messages,
                tools=chat.tools,
                add_generation_prompt=chat.add_generation_prompt,
                continue_final_message=chat.continue_final_message,
                kwargs=chat.kwargs,
                until=until,
            )
            return msgspec.msgpack.encode(Reply(found.text, found.spelled))
        except UnicodeEncodeError:
            reply = Reply(
                error="the chat template writes a lone surrogate, which is not valid Unicode", field="messages"
            )
        except TooLong:
            reply = Reply()
        except InvalidRequest as error:
            reply = Reply(error=error.message, field=error.field)
        return msgspec.msgpack.encode(reply)

    return handle


if __name__ == "__main__":
    serve(_open)
