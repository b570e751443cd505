"""Conversation: a checked chat request and its answer as typed pieces, whichever dialect asked for it.

Chat completions, Responses, Anthropic's Messages and batches translate their bodies into a `ChatRequest`, open a
conversation, and write what comes back in their own words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from pydantic_core import from_json

from octavo.errors import EngineDead, InvalidRequest
from octavo.frontend.inputs import TokensPrompt
from octavo.frontend.output import CompletionOutput, RequestOutput
from octavo.limits import Limits
from octavo.sampling import RULES, SamplingParams, shown
from octavo.serve.answer import Caller, check_stream_options
from octavo.serve.generation import Generation, generation
from octavo.serve.schema import ChatRequest, TokenizeRequest, count
from octavo.serve.service import Service
from octavo.serve.sse import Account


@dataclass(frozen=True, slots=True)
class CallPiece:
    """What is new of one tool call. `id` and `name` come once, with its first piece; `arguments` is JSON text."""

    index: int  # of the call within its choice
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one choice: text, reasoning, tool calls; `output` holds its ids, log-probabilities and index.

    `finish_reason` comes with the last piece: stop, length or tool_calls.
    """

    output: CompletionOutput
    content: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish_reason: str | None = None


class Conversation:
    """One chat request that was checked, rendered and is being answered. Make one with `open`."""

    def __init__(
        self, body: ChatRequest, params: SamplingParams, outputs: AsyncIterator[RequestOutput], account: Account
    ) -> None:
        self.body = body
        self.params = params
        self.account = account
        self._outputs = outputs

    @classmethod
    async def open(cls, service: Service, body: ChatRequest, caller: Caller) -> Conversation:
        """Check and render `body`; InvalidRequest names the field that is wrong. Nothing runs until pieces are read."""
        service.model(body.model)
        check(body, service.limits)
        asked = chat_generation(service, body)
        outputs = asked.run(service, await render(service, body), body, caller, caller.id)
        account = service.account(caller.tenant, body.include_metrics, asked.params.n)
        return cls(body, asked.params, outputs, account)

    async def pieces(self) -> AsyncGenerator[tuple[RequestOutput, list[Piece]], None]:
        """The answer as it grows (as a whole, in one item, unless `body.stream`), one piece per choice that changed.

        Closing the generator aborts the request. EngineDead or StepFailed at any time.
        """
        async with aclosing(blamed(self._outputs)) as outputs:
            async for output in outputs:
                self.account.add(0, output)
                yield output, [Piece(one, one.text, finish_reason=finish(one)) for one in output.outputs]

    async def whole(self) -> tuple[RequestOutput, list[Piece]]:
        """The answer in one item; only without `body.stream`."""
        assert not self.body.stream
        async with aclosing(self.pieces()) as items:
            return [item async for item in items][-1]


def check(body: ChatRequest, limits: Limits) -> None:
    """InvalidRequest for the first field that asks for what is not there yet, or contradicts another."""
    check_stream_options(body.stream, body.stream_options)
    check_messages(body.messages, limits)
    check_tools(body.tools)
    if body.tool_choice not in (None, "none", "auto"):
        raise InvalidRequest(f"tool_choice can only be none or auto yet, got {shown(body.tool_choice)}", "tool_choice")
    check_documents(body.documents, limits)
    if body.verbosity not in (None, "low", "medium", "high"):
        raise InvalidRequest(f"verbosity must be low, medium or high, got {shown(body.verbosity)}", "verbosity")
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


def chat_generation(service: Service, body: ChatRequest) -> Generation:
    """What the request asks for."""
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    if body.max_completion_tokens is not None:
        body = body.model_copy(update={"max_tokens": body.max_completion_tokens})
    return generation(service, body, logprobs, None)  # type: ignore[arg-type]  # check() counted it


def check_documents(documents: object, limits: Limits) -> None:
    """InvalidRequest unless `documents` is None or a list of objects."""
    if documents is None:
        return
    most = limits.documents
    if not isinstance(documents, list) or len(documents) > most or not all(isinstance(one, dict) for one in documents):
        raise InvalidRequest(f"documents must be a list of at most {most} objects, got {shown(documents)}", "documents")


async def render(service: Service, body: ChatRequest | TokenizeRequest) -> TokensPrompt:
    """The conversation as a prompt."""
    hidden = isinstance(body, ChatRequest) and body.tool_choice == "none"
    return await service.llm.prompt(
        body.messages,  # type: ignore[arg-type]
        add_special_tokens=bool(body.add_special_tokens),
        tools=None if hidden else body.tools or None,  # type: ignore[arg-type]
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        kwargs=template_variables(body),
    )


def template_variables(body: ChatRequest | TokenizeRequest) -> dict[str, object]:
    """The variables a request brings for the chat template, by whatever field."""
    found = dict(body.chat_template_kwargs or {})
    if isinstance(body, ChatRequest):
        named = {"documents": body.documents, "verbosity": body.verbosity}
        found |= {name: value for name, value in named.items() if value is not None}
    return found


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


def finish(output: CompletionOutput) -> str | None:
    """The finish reason a client may be told; EngineDead for one that neither the model nor its owner chose (R1)."""
    if output.finish_reason == "error":
        raise EngineDead("the request was ended by the server before it was finished")
    return output.finish_reason
