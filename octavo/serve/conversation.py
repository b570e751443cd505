"""Conversation: a checked chat request and its answer as typed pieces, whichever dialect asked for it.

Chat completions, Responses, Anthropic's Messages and batches translate their bodies into a `ChatRequest`, open a
conversation, and write what comes back in their own words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from msgspec import structs
from pydantic_core import from_json

from octavo.errors import InvalidRequest
from octavo.frontend.answers import AnswerFormat, AnswerReading
from octavo.frontend.inputs import TokensPrompt
from octavo.frontend.output import RequestOutput
from octavo.frontend.reasoning import HARMONY
from octavo.frontend.tools.registry import call_id
from octavo.limits import HIGHEST, Limits
from octavo.sampling import RULES, SamplingParams, shown
from octavo.serve.answer import Caller, check_stream_options
from octavo.serve.generation import Generation, generation
from octavo.serve.offer import Offer, modern
from octavo.serve.pieces import Piece, Pieces
from octavo.serve.schema import EFFORTS, ChatRequest, TokenizeRequest, count
from octavo.serve.service import Service
from octavo.serve.sse import Account


class Conversation:
    """One chat request that was checked, rendered and is being answered. Make one with `open`."""

    def __init__(
        self,
        body: ChatRequest,
        params: SamplingParams,
        outputs: AsyncIterator[RequestOutput],
        account: Account,
        pieces: Pieces,
    ) -> None:
        self.body = body
        self.params = params
        self.account = account
        self._outputs = outputs
        self._pieces = pieces
        self._called: set[int] = set()  # choices that have called a tool

    @classmethod
    async def open(cls, service: Service, body: ChatRequest, caller: Caller) -> Conversation:
        """Check and render `body`; InvalidRequest names the field that is wrong. Nothing runs until pieces are read."""
        service.model(body.model)
        offer = check(body, service.limits)
        asked = chat_generation(service, body)
        prompt = await render(service, body, offer.tools)
        how = offer.reading(service.llm.reading(prompt, offer.tools, body.continue_final_message))
        constrain(asked.params, offer, how, service.limits, body.reasoning_effort != "none")
        outputs = asked.run(service, prompt, body, caller, caller.id, how)
        account = service.account(caller.tenant, body.include_metrics, asked.params.n)
        return cls(body, asked.params, outputs, account, pieces(body, offer, how))

    async def pieces(self) -> AsyncGenerator[tuple[RequestOutput, list[Piece]], None]:
        """The answer as it grows (as a whole, in one item, unless `body.stream`).

        One piece for each choice that changed, or several when it went from a call back to text. Closing the generator
        aborts the request. EngineDead or StepFailed at any time.
        """
        async with aclosing(blamed(self._outputs)) as outputs:
            async for output in outputs:
                self.account.add(0, output)
                yield output, [piece for one in output.outputs for piece in self._pieces.of(one, self._called)]

    async def whole(self) -> tuple[RequestOutput, list[Piece]]:
        """The answer in one item; only without `body.stream`."""
        assert not self.body.stream
        async with aclosing(self.pieces()) as items:
            return [item async for item in items][-1]


def check(body: ChatRequest, limits: Limits) -> Offer:
    """What the body offers; InvalidRequest for the first field that asks for the impossible, or contradicts another."""
    check_stream_options(body.stream, body.stream_options)
    check_messages(body.messages, limits)
    offer = Offer.of(body, limits)
    if body.reasoning_effort not in (None, *EFFORTS):
        what = f"reasoning_effort must be one of {', '.join(EFFORTS)}; got {shown(body.reasoning_effort)}"
        raise InvalidRequest(what, "reasoning_effort")
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
    return offer


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


async def render(
    service: Service, body: ChatRequest | TokenizeRequest, tools: list[dict[str, Any]] | None
) -> TokensPrompt:
    """The conversation as a prompt that shows these tools."""
    return await service.llm.prompt(
        modern(body.messages),  # type: ignore[arg-type]
        add_special_tokens=bool(body.add_special_tokens),
        tools=tools or None,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        kwargs=template_variables(body, service.llm.answers),
    )


def template_variables(body: ChatRequest | TokenizeRequest, answers: AnswerFormat) -> dict[str, object]:
    """The variables a request brings for the chat template, by whatever field."""
    found = dict(body.chat_template_kwargs or {})
    if isinstance(body, ChatRequest):
        if isinstance(body.reasoning_effort, str):
            found = effort(body.reasoning_effort, answers.reasoning is HARMONY) | found
        named = {"documents": body.documents, "verbosity": body.verbosity}
        found |= {name: value for name, value in named.items() if value is not None}
    return found


def effort(wanted: str, is_harmony: bool) -> dict[str, object]:
    """The variables by which templates know how much to think: a word, or a switch of either name."""
    if is_harmony:
        return {
            "reasoning_effort": {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}.get(wanted, wanted)
        }
    thinks = wanted != "none"
    return {"reasoning_effort": wanted, "enable_thinking": thinks, "thinking": thinks}


def constrain(
    params: SamplingParams, offer: Offer, how: AnswerReading | None, limits: Limits, may_think: bool = True
) -> None:
    """Make the sampler write calls as they must be, and let every constraint begin where reasoning ends.

    Unless it `may_think`, it begins at once, if the prompt has not begun reasoning.
    """
    asked, calls = params.structured_outputs, offer.constraint(how)
    if asked is not None and calls is not None and offer.must:
        name = asked.source or "structured_outputs"
        raise InvalidRequest(f"{name} and a tool_choice that asks for a call contradict each other", name)
    wanted = calls if asked is None else offer.or_else(asked, how)
    if wanted is None:
        return
    # gpt-oss writes reasoning and calls in one go, and what constrains its calls lets text come before them.
    begins = how.begin_marks if how is not None and (asked is not None or not how.is_harmony) else ()
    if how is not None and begins and wanted.begin_after is None and (may_think or how.is_inside):
        opening = None if how.is_inside or how.is_harmony else how.thinking_marks
        wanted = structs.replace(wanted, begin_after=list(begins), opening=opening and opening[0])
    wanted.check(limits)
    params.structured_outputs = wanted


def pieces(body: ChatRequest, offer: Offer, how: AnswerReading | None) -> Pieces:
    """How this request's outputs become pieces."""
    tools = how.tools if how is not None else None
    return Pieces(
        tools.id if tools is not None else call_id,
        HIGHEST if offer.several else 1,
        body.include_reasoning is not False,
        not offer.is_named,
        not body.stream,
    )


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
