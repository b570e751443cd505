"""POST /v1/chat/completions/batch: several conversations in one request, one choice for each (vLLM's endpoint)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from fastapi import APIRouter
from starlette.responses import Response

from octavo.errors import InvalidRequest
from octavo.sampling import shown
from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.chat import Chat, choice
from octavo.serve.conversation import Conversation
from octavo.serve.docs import describe
from octavo.serve.generation import reply_id
from octavo.serve.logprobs import num_logprobs
from octavo.serve.reply import written
from octavo.serve.schema import BatchChatRequest, ChatRequest
from octavo.serve.service import Service


def routes(service: Service) -> APIRouter:
    """The endpoint of this module."""
    router = APIRouter()

    @router.post("/v1/chat/completions/batch", **describe(BatchChatRequest, "Answer several conversations at once"))
    async def chat_batch() -> Response:
        return Answer(service, BatchChatRequest, answer)

    return router


async def answer(service: Service, body: BatchChatRequest, caller: Caller) -> Reply:
    """Answer every conversation; choice i is the answer to the i-th. The first error ends all."""
    chats, limits = body.messages, service.limits
    if not isinstance(chats, list) or not chats or not isinstance(chats[0], list):
        raise InvalidRequest(f"messages must be a list of conversations, got {shown(chats)}", "messages")
    if len(chats) > limits.prompts:
        raise InvalidRequest(f"messages allows {limits.prompts} conversations, got {len(chats)}", "messages")
    for name, is_asked in (("n", body.n not in (None, 1)), ("stream", body.stream)):  # type: ignore[attr-defined]
        if is_asked:
            raise InvalidRequest(f"{name} is not available for several conversations at once", name)
    if sum(len(chat) if isinstance(chat, list) else 1 for chat in chats) > limits.messages:
        raise InvalidRequest(f"messages allows {limits.messages} messages in all conversations", "messages")
    bodies = [ChatRequest.model_construct(**{**dict(body), "messages": chat}) for chat in chats]
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(one(service, each, replace(caller, id=f"{caller.id}-{i}")))
                for i, each in enumerate(bodies)
            ]
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    found = [task.result() for task in running]
    usage: dict[str, int] = {}
    for _, counts, _ in found:
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            usage[name] = usage.get(name, 0) + int(counts[name])  # type: ignore[call-overload]
    head = {
        "id": reply_id("chatcmpl-", body.request_id),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": service.model(body.model),
        "system_fingerprint": service.fingerprint,
    }
    choices = [told | {"index": i} for i, (told, _, _) in enumerate(found)]
    num_values = sum(values for *_, values in found)
    return Reply(await written(lambda: head | {"choices": choices, "usage": usage}, num_values))


async def one(service: Service, body: ChatRequest, caller: Caller) -> tuple[dict[str, object], dict[str, object], int]:
    """The choice and the usage of one conversation, and how many log-probabilities it holds."""
    conversation = await Conversation.open(service, body, caller)
    chat = Chat.of(service, body, conversation.params)
    output, [piece] = await conversation.whole()
    return choice(chat, piece), conversation.account.usage(), num_logprobs(output)
