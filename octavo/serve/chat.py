"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic_core import from_json
from starlette.responses import Response

from octavo.errors import EngineDead, InvalidRequest
from octavo.frontend.output import CompletionOutput, RequestOutput
from octavo.limits import Limits
from octavo.sampling import RULES, SamplingParams, shown
from octavo.serve.answer import Answer, Caller, Reply, check_stream_options
from octavo.serve.docs import describe
from octavo.serve.logprobs import TokenNames, prompt_logprobs
from octavo.serve.schema import ChatRequest, TokenizeRequest, count, sampling
from octavo.serve.service import Service, new_id
from octavo.serve.sse import Account, Events, encode

LONG_CHAT = 16_384  # bytes; longer ones are rendered off the event loop (R22)


def routes(service: Service) -> APIRouter:
    """The endpoint of this module."""
    router = APIRouter()

    @router.post("/v1/chat/completions", **describe(ChatRequest, "Answer a conversation"))
    async def chat_completions() -> Response:
        return Answer(service, ChatRequest, answer)

    return router


@dataclass(frozen=True)
class Chat:
    """A checked request: what the reply's shape depends on."""

    id: str
    created: int
    model: str
    role: str
    body: ChatRequest
    params: SamplingParams
    names: TokenNames | None  # None: no log-probabilities
    top: int
    account: Account

    @property
    def head(self) -> dict[str, object]:
        """The fields every event and reply begins with."""
        kind = "chat.completion.chunk" if self.body.stream else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def logprobs(self, output: CompletionOutput) -> dict[str, object] | None:
        """The output's log-probabilities, if they were asked for."""
        return self.names.chat(output.logprobs or (), self.top) if self.names else None


async def answer(service: Service, body: ChatRequest, caller: Caller) -> Reply:
    """Check, render, generate; one JSON body or events."""
    model = service.model(body.model)
    check(body, service.limits)
    params = chat_params(service, body)
    text = await render(service, body)
    outputs = service.llm.generate(
        text,
        params,
        caller.id,
        priority=body.priority or 0,
        cache_salt=service.salt(caller.key, body.cache_salt),
        add_special_tokens=body.add_special_tokens,
    )
    chat = Chat(
        new_id("chatcmpl-"),
        int(time.time()),
        model,
        service.server.response_role,
        body,
        params,
        TokenNames(service.llm.tokenizer, bool(body.return_tokens_as_token_ids)) if body.logprobs else None,
        params.logprobs or 0,
        Account(service.metrics, service.server.enable_prompt_tokens_details),
    )
    if body.stream:
        return Reply(events=stream(chat, outputs))
    return Reply(await whole(chat, outputs))


def check(body: ChatRequest, limits: Limits) -> None:
    """InvalidRequest for the first field that asks for what is not there yet, or contradicts another."""
    check_stream_options(body.stream, body.stream_options)
    check_messages(body.messages, limits)
    check_tools(body.tools)
    if body.tool_choice not in (None, "none", "auto"):
        raise InvalidRequest(f"tool_choice can only be none or auto yet, got {shown(body.tool_choice)}", "tool_choice")
    if body.response_format is not None and body.response_format != {"type": "text"}:
        what = shown(body.response_format)
        raise InvalidRequest(f'response_format can only be {{"type": "text"}} yet, got {what}', "response_format")
    if body.modalities not in (None, ["text"]):
        raise InvalidRequest(f'modalities can only be ["text"], got {shown(body.modalities)}', "modalities")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs=true", "top_logprobs")
    count("top_logprobs", body.top_logprobs, 0, limits.logprobs)
    if body.max_completion_tokens is not None:
        RULES["max_tokens"].check("max_completion_tokens", body.max_completion_tokens)


def check_messages(messages: object, limits: Limits) -> None:
    """InvalidRequest unless `messages` are objects with a role; their content is the template's to judge."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(f"messages must be a list of at least one message, got {shown(messages)}", "messages")
    if len(messages) > limits.messages:
        raise InvalidRequest(f"messages allows {limits.messages} of them, got {len(messages)}", "messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(f"messages[{i}] must be an object with a role, got {shown(message)}", f"messages[{i}]")
        role = message.get("role")
        if not isinstance(role, str) or not 0 < len(role) <= limits.id_chars:
            raise InvalidRequest(f"messages[{i}].role must be a short text, got {shown(role)}", f"messages[{i}].role")
        if not isinstance(message.get("content"), str | list | None):
            got = shown(message["content"])
            raise InvalidRequest(f"messages[{i}].content must be text or parts, got {got}", f"messages[{i}].content")
        check_calls(message.get("tool_calls"), i)


def check_calls(calls: object, i: int) -> None:
    """InvalidRequest unless message i's tool calls are well-formed; arguments become objects, as templates want."""
    if calls is None:
        return
    field = f"messages[{i}].tool_calls"
    if not isinstance(calls, list):
        raise InvalidRequest(f"{field} must be a list, got {shown(calls)}", field)
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"{field} must hold functions with a name, got {shown(call)}", field)
        if isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = from_json(function["arguments"] or "{}")
            except ValueError:
                raise InvalidRequest(
                    f"{field}: the arguments of {shown(function['name'])} are not JSON", field
                ) from None


def check_tools(tools: object) -> None:
    """InvalidRequest unless `tools` is None or a list of functions."""
    if tools is None:
        return
    if not isinstance(tools, list) or len(tools) > 1024:
        raise InvalidRequest("tools must be a list of at most 1024 functions", "tools")
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            what = f'tools[{i}] must be {{"type": "function", "function": {{"name": …}}}}, got {shown(tool)}'
            raise InvalidRequest(what, f"tools[{i}]")


def chat_params(service: Service, body: ChatRequest) -> SamplingParams:
    """The request's SamplingParams."""
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = sampling(body, service.defaults, service.limits, logprobs, None)  # type: ignore[arg-type]  # check() counted it
    if body.max_completion_tokens is not None:
        params.max_tokens = body.max_completion_tokens  # type: ignore[assignment]
        params.check(service.limits)
    return params


async def render(service: Service, body: ChatRequest | TokenizeRequest) -> str:
    """The conversation as prompt text."""
    hidden = isinstance(body, ChatRequest) and body.tool_choice == "none"

    def work() -> str:
        return service.llm.render(
            body.messages,  # type: ignore[arg-type]
            tools=None if hidden else body.tools or None,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            kwargs=body.chat_template_kwargs,
        )

    if len(encode(body.messages)) < LONG_CHAT:
        return work()
    return await asyncio.to_thread(work)


async def blamed(outputs: AsyncIterator[RequestOutput]) -> AsyncGenerator[RequestOutput, None]:
    """The outputs; what is wrong with the prompt is said of `messages`, which is what the client sent."""
    async with aclosing(outputs):  # type: ignore[type-var]
        try:
            async for output in outputs:
                yield output
        except InvalidRequest as error:
            if error.field != "prompt":
                raise
            raise InvalidRequest(error.message, "messages") from error


async def whole(chat: Chat, outputs: AsyncIterator[RequestOutput]) -> bytes:
    """The reply in one piece."""
    async with aclosing(blamed(outputs)) as all_outputs:
        output = [output async for output in all_outputs][-1]
    chat.account.add(0, output)
    choices = [choice(chat, one) for one in output.outputs]
    reply = chat.head | {
        "choices": choices,
        "usage": chat.account.usage(),
        "service_tier": None,
        "system_fingerprint": None,
    }
    if output.prompt_logprobs is not None:
        reply["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
    if chat.body.return_token_ids:
        reply["prompt_token_ids"] = output.prompt_token_ids
    return encode(reply)


def choice(chat: Chat, output: CompletionOutput) -> dict[str, object]:
    """One continuation of a reply in one piece."""
    result: dict[str, object] = {
        "index": output.index,
        "message": {"role": chat.role, "content": output.text, "refusal": None},
        "logprobs": chat.logprobs(output),
        "finish_reason": finish(output),
        "stop_reason": output.stop_reason,
    }
    if chat.body.return_token_ids:
        result["token_ids"] = output.token_ids
    return result


def finish(output: CompletionOutput) -> str | None:
    """The finish reason a client may be told; EngineDead for one the model did not earn (R1)."""
    if output.finish_reason in ("abort", "error"):
        raise EngineDead("the request was ended by the server before it was finished")
    return output.finish_reason


async def stream(chat: Chat, outputs: AsyncIterator[RequestOutput]) -> AsyncGenerator[bytes, None]:
    """The reply as events: the role first, then text as it grows, then the usage if it was asked for."""
    options = chat.body.stream_options
    continuous = options is not None and options.continuous_usage_stats
    events = Events(chat.head, b'"delta":{"content":', b"}", options is not None and options.include_usage)
    account = chat.account
    plain = not (chat.names or chat.body.return_token_ids or continuous)
    begun: set[int] = set()
    async with aclosing(blamed(outputs)) as all_outputs:
        async for output in all_outputs:
            account.add(0, output)
            parts: list[bytes] = []
            for one in output.outputs:
                if one.index not in begun:
                    begun.add(one.index)
                    parts.append(events.raw(one.index, opening(chat, output, first=len(begun) == 1)))
                if plain and one.finish_reason is None:
                    if one.text:
                        parts.append(events.text(one.index, one.text))
                else:
                    shown_usage = account.usage() if continuous else None
                    parts.append(events.full(one.index, one.text, fields(chat, one), shown_usage))
            if parts:
                yield b"".join(parts)
    if options is not None and options.include_usage:
        yield events.usage(account.usage())


def opening(chat: Chat, output: RequestOutput, first: bool) -> dict[str, object]:
    """The choice of a continuation's first event."""
    result: dict[str, object] = {
        "delta": {"role": chat.role, "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    if chat.body.return_token_ids and first:
        result["prompt_token_ids"] = output.prompt_token_ids
    return result


def fields(chat: Chat, output: CompletionOutput) -> dict[str, object]:
    """What an event's choice holds besides text."""
    result: dict[str, object] = {"logprobs": chat.logprobs(output), "finish_reason": finish(output)}
    if output.finish_reason is not None:
        result["stop_reason"] = output.stop_reason
    if chat.body.return_token_ids:
        result["token_ids"] = output.token_ids
    return result
