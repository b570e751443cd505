"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.responses import Response

from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.anthropic.events import Writer, event
from octavo.serve.anthropic.schema import CountTokensRequest, MessagesRequest, chat_of, words
from octavo.serve.conversation import Conversation, check, render
from octavo.serve.docs import describe
from octavo.serve.pieces import Piece
from octavo.serve.service import Service, new_id
from octavo.serve.sse import encode

PING = event("ping")


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()

    @router.post("/v1/messages", **describe(MessagesRequest, "Answer a conversation in Anthropic's words"))
    async def messages() -> Response:
        return Answer(service, MessagesRequest, answer)

    @router.post("/v1/messages/count_tokens", **describe(CountTokensRequest, "Count the tokens of such a request"))
    async def count_tokens() -> Response:
        return Answer(service, CountTokensRequest, count, admitted=False)

    return router


async def answer(service: Service, body: MessagesRequest, caller: Caller) -> Reply:
    """Check, render, generate; one JSON body or events."""
    with words():
        conversation = await Conversation.open(service, chat_of(body, service.limits), caller)
    display = body.thinking.get("display") if isinstance(body.thinking, dict) else None
    message = Message(service.model(body.model), conversation, Writer(display != "omitted"))
    caller.named(message.id)
    if body.stream:
        return Reply(events=message.events(), done=b"")
    return Reply(await message.whole())


async def count(service: Service, body: CountTokensRequest, caller: Caller) -> Reply:
    """How many tokens the prompt of such a request has."""
    service.model(body.model)
    with words():
        chat = chat_of(body, service.limits)
        prompt = await render(service, chat, check(chat, service.limits).tools)
    return Reply(encode({"input_tokens": len(prompt["prompt_token_ids"])}))


class Message:
    """An answer while it is made."""

    def __init__(self, model: str, conversation: Conversation, writer: Writer) -> None:
        self.id = new_id("msg_")
        self._model = model
        self._conversation = conversation
        self._writer = writer
        self._last: Piece | None = None

    async def whole(self) -> bytes:
        """The message in one piece."""
        with words():
            _, pieces = await self._conversation.whole()
        self._push(pieces)
        self._writer.finish()
        return encode(self._message() | self._ending() | {"usage": self._usage()})

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The message as events."""
        begun = False
        with words():
            async with aclosing(self._conversation.pieces()) as items:
                async for _, pieces in items:
                    if not begun:
                        begun = True
                        yield event("message_start", message=self._message() | {"usage": self._usage()}) + PING
                    if new := self._push(pieces):
                        yield new
        last = self._writer.finish()
        yield last + event("message_delta", delta=self._ending(), usage=self._usage()) + event("message_stop")

    def _push(self, pieces: list[Piece]) -> bytes:
        self._last = pieces[-1]
        return b"".join(self._writer.push(piece) for piece in pieces)

    def _message(self) -> dict[str, object]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": self._writer.content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _ending(self) -> dict[str, object]:
        """Why the answer ended."""
        last = self._last
        assert last is not None
        if last.finish_reason in ("length", "abort"):
            reason = self._length() if last.finish_reason == "length" else "pause_turn"
        elif any(block["type"] == "tool_use" for block in self._writer.content):  # chat says stop of a call it forced
            reason = "tool_use"
        elif isinstance(last.output.stop_reason, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": last.output.stop_reason}
        else:
            reason = "end_turn"
        return {"stop_reason": reason, "stop_sequence": None}

    def _length(self) -> str:
        """Which length it was that ended the answer."""
        generated = self._conversation.account.usage()["completion_tokens"]
        is_asked = generated == self._conversation.params.max_tokens
        return "max_tokens" if is_asked else "model_context_window_exceeded"

    def _usage(self) -> dict[str, object]:
        """Anthropic's usage object: cached tokens are not counted as input."""
        usage = self._conversation.account.usage()
        details = (usage.get("prompt_tokens_details"), usage.get("completion_tokens_details"))
        asked, generated = (one if isinstance(one, dict) else {} for one in details)
        cached = asked.get("cached_tokens") or 0
        prompt = usage["prompt_tokens"]
        assert isinstance(prompt, int)
        result: dict[str, object] = {
            "input_tokens": prompt - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
        }
        if "reasoning_tokens" in generated:
            result["output_tokens_details"] = {"thinking_tokens": generated["reasoning_tokens"]}
        return result
