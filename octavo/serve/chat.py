"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.responses import Response

from octavo.frontend.output import CompletionOutput, RequestOutput
from octavo.sampling import SamplingParams
from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.conversation import Conversation
from octavo.serve.docs import describe
from octavo.serve.generation import about_prompt, reply_id
from octavo.serve.logprobs import TokenNames, num_logprobs, prompt_logprobs
from octavo.serve.pieces import CallPiece, Piece
from octavo.serve.reply import written
from octavo.serve.schema import ChatRequest
from octavo.serve.service import Service
from octavo.serve.sse import Events


def routes(service: Service) -> APIRouter:
    """The endpoint of this module."""
    router = APIRouter()

    @router.post("/v1/chat/completions", **describe(ChatRequest, "Answer a conversation"))
    async def chat_completions() -> Response:
        return Answer(service, ChatRequest, answer)

    return router


@dataclass(frozen=True)
class Chat:
    """What the reply to a conversation looks like."""

    id: str
    created: int
    model: str
    fingerprint: str
    role: str
    body: ChatRequest
    names: TokenNames | None  # None: no log-probabilities
    top: int
    service: Service
    echo: str  # what every choice begins with

    @classmethod
    def of(cls, service: Service, body: ChatRequest, params: SamplingParams) -> Chat:
        """The reply to a checked conversation that is continued as `params` say."""
        by_id = bool(body.return_tokens_as_token_ids)
        return cls(
            reply_id("chatcmpl-", body.request_id),
            int(time.time()),
            service.model(body.model),
            service.fingerprint,
            service.server.response_role,
            body,
            TokenNames(service.llm.tokenizer, by_id, params.logprob_token_ids) if body.logprobs else None,
            params.logprobs or 0,
            service,
            echoed(body, service.server.response_role),
        )

    @property
    def head(self) -> dict[str, object]:
        """The fields every event and reply begins with."""
        kind = "chat.completion.chunk" if self.body.stream else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    @property
    def is_legacy(self) -> bool:
        """Whether the request speaks of functions instead of tools."""
        return self.body.functions is not None

    def reason(self, piece: Piece) -> str | None:
        """The finish reason in the words of the request."""
        return "function_call" if self.is_legacy and piece.finish_reason == "tool_calls" else piece.finish_reason

    def logprobs(self, output: CompletionOutput) -> dict[str, object] | None:
        """The output's log-probabilities, if they were asked for."""
        return self.names.chat(output.logprobs or (), self.top) if self.names else None


async def answer(service: Service, body: ChatRequest, caller: Caller) -> Reply:
    """Check, render, generate; one JSON body or events."""
    conversation = await Conversation.open(service, body, caller)
    chat = Chat.of(service, body, conversation.params)
    caller.named(chat.id)
    if body.stream:
        return Reply(events=stream(chat, conversation))
    return Reply(await whole(chat, conversation))


async def whole(chat: Chat, conversation: Conversation) -> bytes:
    """The reply in one piece."""
    output, pieces = await conversation.whole()

    def build() -> dict[str, object]:
        reply = chat.head | {
            "choices": [choice(chat, piece) for piece in pieces],
            **conversation.account.totals(),
            "service_tier": None,
        }
        if output.prompt_logprobs is not None:
            reply["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
        return reply | about_prompt(chat.service, chat.body, output)

    return await written(build, num_logprobs(output))


def choice(chat: Chat, piece: Piece) -> dict[str, object]:
    """One continuation of a reply in one piece."""
    content = chat.echo + piece.content
    message: dict[str, object] = {"role": chat.role, "content": content, "refusal": None}
    if piece.calls or piece.reasoning:
        message["content"] = content or None
    if piece.calls and chat.is_legacy:
        message["function_call"] = call(piece.calls[0])["function"]
    elif piece.calls:
        message["tool_calls"] = [call(one) for one in piece.calls]
    if piece.reasoning:
        message |= spelled_twice(piece.reasoning)
    result: dict[str, object] = {
        "index": piece.output.index,
        "message": message,
        "logprobs": None,
        "finish_reason": chat.reason(piece),
        "stop_reason": piece.output.stop_reason,
    }
    if chat.names:
        # Made while they are written: all at once they would be more objects than the rest of the server has.
        result["logprobs"] = {"content": chat.names.entries(piece.output.logprobs or (), chat.top), "refusal": None}
    if chat.body.return_token_ids:
        result["token_ids"] = piece.output.token_ids
    return result


def echoed(body: ChatRequest, role: str) -> str:
    """With `echo`: the text of the last message, if it has the role of the answer."""
    last = body.messages[-1]  # type: ignore[index]  # Conversation.open checked them
    if not body.echo or last.get("role") != role:
        return ""
    content = last.get("content")
    parts = [content] if isinstance(content, str) else [part.get("text") for part in content or ()]
    return "".join(part for part in parts if isinstance(part, str))


def call(piece: CallPiece) -> dict[str, object]:
    """A whole tool call."""
    return {"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": piece.arguments}}


def call_delta(piece: CallPiece) -> dict[str, object]:
    """What is new of a tool call, as events carry it."""
    if piece.name is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    return {"index": piece.index, **call(piece)}


async def stream(chat: Chat, conversation: Conversation) -> AsyncGenerator[bytes, None]:
    """The reply as events: the role first, then text as it grows, then the usage if it was asked for."""
    options = chat.body.stream_options
    continuous = options is not None and options.continuous_usage_stats
    events = Events(chat.head, b'"delta":{"content":', b"}", options is not None and options.include_usage)
    account = conversation.account
    plain = not (chat.names or chat.body.return_token_ids or continuous)
    begun: set[int] = set()
    async with aclosing(conversation.pieces()) as items:
        async for output, pieces in items:
            parts: list[bytes] = []
            for piece in pieces:
                index = piece.output.index
                if index not in begun:
                    begun.add(index)
                    parts.append(events.raw(index, opening(chat, output, first=len(begun) == 1)))
                if plain and piece.finish_reason is None and not piece.reasoning and not piece.calls:
                    if piece.content:
                        parts.append(events.text(index, piece.content))
                else:
                    usage = account.usage() if continuous else None
                    parts.append(events.raw(index, {"delta": delta(chat, piece), **fields(chat, piece)}, usage))
            if parts:
                yield b"".join(parts)
    if totals := account.totals(options is not None and options.include_usage):
        yield events.last(totals)


def opening(chat: Chat, output: RequestOutput, first: bool) -> dict[str, object]:
    """The choice of a continuation's first event."""
    result: dict[str, object] = {
        "delta": {"role": chat.role, "content": chat.echo},
        "logprobs": None,
        "finish_reason": None,
    }
    return result | (about_prompt(chat.service, chat.body, output) if first else {})


def spelled_twice(reasoning: str) -> dict[str, object]:
    """Reasoning in vLLM's word and in the one that DeepSeek began with; clients know one or the other."""
    return {"reasoning": reasoning, "reasoning_content": reasoning}


def delta(chat: Chat, piece: Piece) -> dict[str, object]:
    """What an event says is new: text (empty when there is nothing else), reasoning, calls."""
    result: dict[str, object] = {}
    if piece.reasoning:
        result |= spelled_twice(piece.reasoning)
    if piece.calls and chat.is_legacy:
        first = piece.calls[0]
        result["function_call"] = ({} if first.name is None else {"name": first.name}) | {"arguments": first.arguments}
    elif piece.calls:
        result["tool_calls"] = [call_delta(one) for one in piece.calls]
    if piece.content or not result:
        result["content"] = piece.content
    return result


def fields(chat: Chat, piece: Piece) -> dict[str, object]:
    """What an event's choice holds besides what is new."""
    result: dict[str, object] = {"logprobs": chat.logprobs(piece.output), "finish_reason": chat.reason(piece)}
    if piece.finish_reason is not None:
        result["stop_reason"] = piece.output.stop_reason
    if chat.body.return_token_ids:
        result["token_ids"] = piece.output.token_ids
    return result
