"""POST /v1/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import APIRouter
from starlette.responses import Response

from octavo.errors import InvalidRequest
from octavo.frontend.infill import infill
from octavo.frontend.inputs import TokensPrompt
from octavo.frontend.output import CompletionOutput, RequestOutput
from octavo.frontend.tokenizer import Tokenizer
from octavo.limits import Limits
from octavo.sampling import INT_MAX, SamplingParams, check_ids, shown
from octavo.serve.answer import Answer, Caller, Reply, check_stream_options
from octavo.serve.docs import describe
from octavo.serve.generation import Generation, about_prompt, generation, reply_id
from octavo.serve.logprobs import TokenNames, num_logprobs, prompt_logprobs
from octavo.serve.pieces import finish
from octavo.serve.reply import written
from octavo.serve.schema import CompletionRequest, count
from octavo.serve.service import Service
from octavo.serve.sse import Account, Events

DEFAULT_MAX_TOKENS = 16  # OpenAI's
Prompt = str | list[int]


def routes(service: Service) -> APIRouter:
    """The endpoint of this module."""
    router = APIRouter()

    @router.post("/v1/completions", **describe(CompletionRequest, "Continue texts"))
    async def completions() -> Response:
        return Answer(service, CompletionRequest, answer)

    return router


@dataclass(frozen=True)
class Completion:
    """A checked request: what the reply's shape depends on."""

    id: str
    created: int
    model: str
    fingerprint: str
    body: CompletionRequest
    params: SamplingParams
    prompts: list[Prompt]
    names: TokenNames | None  # None: no log-probabilities
    account: Account
    service: Service
    offsets: dict[int, int] = field(default_factory=dict)  # of the next token in each streamed choice's text

    @property
    def head(self) -> dict[str, object]:
        """The fields every event and reply begins with."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.service.llm.tokenizer

    def index(self, prompt: int, output: CompletionOutput) -> int:
        """The index of a choice among those of all prompts."""
        return prompt * self.params.n + output.index

    def text(self, prompt: int, request: RequestOutput, output: CompletionOutput, first: bool) -> str:
        """The text of a choice, or its next part."""
        if not first or not self.body.echo:
            return output.text
        asked = self.prompts[prompt]
        if not isinstance(asked, str) or self.params.truncate_prompt_tokens is not None:
            asked = self.tokenizer.decode(request.prompt_token_ids)
        return asked + output.text

    def logprobs(
        self, prompt: int, request: RequestOutput, output: CompletionOutput, first: bool
    ) -> dict[str, object] | None:
        """The log-probabilities of what `text` returns, if they were asked for."""
        if self.names is None:
            return None
        ids, positions = output.token_ids, output.logprobs or []
        if first and self.body.echo:
            ids, positions = request.prompt_token_ids + ids, [*(request.prompt_logprobs or ()), *positions]
        index = self.index(prompt, output)
        offset = self.offsets.get(index, 0)
        self.offsets[index] = offset + sum(len(self.names.tokenizer.token_text(id)) for id in ids)
        return self.names.completion(ids, positions, self.params.logprobs or 0, offset)


async def answer(service: Service, body: CompletionRequest, caller: Caller) -> Reply:
    """Check, generate for every prompt; one JSON body or events."""
    model = service.model(body.model)
    check_stream_options(body.stream, body.stream_options)
    prompts = split(body.prompt, service.limits)
    is_scored = body.max_tokens == 0 and type(body.max_tokens) is int
    asked = completion_generation(service, scoring(body) if is_scored else body)
    params, tokenizer = asked.params, service.llm.tokenizer
    if len(prompts) * params.num_sequences > service.limits.sequences:
        count = len(prompts) * params.num_sequences
        raise InvalidRequest(f"n x prompts is {count}; at most {service.limits.sequences} fit one request", "n")
    sent = prompts if body.suffix is None else filled(service, body, prompts, params)
    completion = Completion(
        caller.named(reply_id("cmpl-", body.request_id)),
        int(time.time()),
        model,
        service.fingerprint,
        body,
        params,
        prompts,
        TokenNames(tokenizer, bool(body.return_tokens_as_token_ids), params.logprob_token_ids)
        if params.logprobs is not None
        else None,
        service.account(caller.tenant, body.include_metrics, params.n),
        service,
    )
    inputs = [prompt if isinstance(prompt, str) else TokensPrompt(prompt_token_ids=prompt) for prompt in sent]
    outputs = [asked.run(service, one, body, caller, f"{caller.id}-{i}") for i, one in enumerate(inputs)]
    if is_scored:
        outputs = [unanswered(one) for one in outputs]
    if body.stream:
        return Reply(events=stream(completion, outputs))
    return Reply(await whole(completion, outputs))


def split(prompt: object, limits: Limits) -> list[Prompt]:
    """The prompts of a request, one or many; InvalidRequest for what is none. The engine's door checks token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest(f"prompt must be text, token ids, or a list of either; got {shown(prompt)}", "prompt")
    if type(prompt[0]) is int:
        return [prompt]
    if len(prompt) > limits.prompts:
        raise InvalidRequest(f"prompt allows {limits.prompts} prompts in one request, got {len(prompt)}", "prompt")
    for one in prompt:
        if not isinstance(one, str | list) or type(one) is not type(prompt[0]):
            raise InvalidRequest(f"prompt must hold texts or lists of token ids only, got {shown(one)}", "prompt")
    return prompt


def completion_generation(service: Service, body: CompletionRequest) -> Generation:
    """What the request asks for."""
    logprobs = count("logprobs", body.logprobs, 0, service.limits.logprobs)
    asked = generation(service, body, logprobs, DEFAULT_MAX_TOKENS)
    if body.echo and logprobs is not None:
        if body.suffix is not None:
            raise InvalidRequest("echo with logprobs is not available with suffix; leave one of them out", "echo")
        if asked.beams is not None:
            raise InvalidRequest("echo with logprobs is not available with use_beam_search", "echo")
        if asked.params.prompt_logprobs is None:
            asked.params.prompt_logprobs = logprobs
    return asked


def scoring(body: CompletionRequest) -> CompletionRequest:
    """What max_tokens=0 asks of the engine: the prompt's log-probabilities, and one token that is not told."""
    if not body.echo and body.prompt_logprobs is None:  # type: ignore[attr-defined]
        raise InvalidRequest(
            "max_tokens must be at least 1; 0 is for scoring a prompt, with echo or prompt_logprobs", "max_tokens"
        )
    for name in ("stream", "use_beam_search", "suffix"):
        if getattr(body, name):
            raise InvalidRequest(f"max_tokens=0 is not available with {name}", "max_tokens")
    # Several answers without a token would all be the same.
    return body.model_copy(update={"max_tokens": 1, "n": None, "best_of": None, "min_tokens": None})


async def unanswered(outputs: AsyncIterator[RequestOutput]) -> AsyncGenerator[RequestOutput, None]:
    """The outputs without the one token they hold."""
    async with aclosing(outputs):  # type: ignore[type-var]
        async for output in outputs:
            for one in output.outputs:
                one.text, one.token_ids, one.stop_reason = "", [], None
                one.logprobs = None if one.logprobs is None else []
                one.finish_reason = one.finish_reason and "length"
            yield output


def filled(service: Service, body: CompletionRequest, prompts: list[Prompt], params: SamplingParams) -> list[Prompt]:
    """The prompts as a model sees them that fills in what stands before `suffix`; its marks end the answer."""
    how = infill(service.llm.tokenizer)
    params.stop_token_ids = sorted({*(params.stop_token_ids or ()), *how.ends})
    assert body.suffix is not None
    for prompt in prompts:
        if isinstance(prompt, list):
            check_ids("prompt", prompt, INT_MAX)
    return [how.prompt(prompt, body.suffix, body.add_special_tokens) for prompt in prompts]


async def merged(streams: Sequence[AsyncIterator[RequestOutput]]) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """The outputs of several requests as they come, each with its request's index. The first error ends all."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:  # type: ignore[type-var]
            async for output in only:
                yield 0, output
        return
    queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]] = asyncio.Queue(2 * len(streams))

    async def pump(index: int, outputs: AsyncIterator[RequestOutput]) -> None:
        try:
            async with aclosing(outputs):  # type: ignore[type-var]
                async for output in outputs:
                    await queue.put((index, output))
            await queue.put((index, None))
        except Exception as error:  # carried over to the reader
            await queue.put((index, error))

    tasks = [asyncio.create_task(pump(i, outputs)) for i, outputs in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def whole(completion: Completion, outputs: Sequence[AsyncIterator[RequestOutput]]) -> bytes:
    """The reply in one piece."""
    finished: dict[int, RequestOutput] = {}
    async with aclosing(merged(outputs)) as all_outputs:
        async for prompt, output in all_outputs:
            finished[prompt] = output
    for prompt in sorted(finished):
        completion.account.add(prompt, finished[prompt])
    totals = completion.account.totals()

    def build() -> dict[str, object]:
        choices = [
            choice(completion, prompt, finished[prompt], one)
            for prompt in sorted(finished)
            for one in finished[prompt].outputs
        ]
        return completion.head | {"choices": choices} | totals

    return await written(build, sum(map(num_logprobs, finished.values())))


def choice(completion: Completion, prompt: int, request: RequestOutput, output: CompletionOutput) -> dict[str, object]:
    """One continuation of a reply in one piece."""
    result: dict[str, object] = {
        "index": completion.index(prompt, output),
        "text": completion.text(prompt, request, output, first=True),
        "logprobs": completion.logprobs(prompt, request, output, first=True),
        "finish_reason": finish(output),
        "stop_reason": output.stop_reason,
    }
    if completion.body.prompt_logprobs is not None:  # type: ignore[attr-defined]
        result["prompt_logprobs"] = prompt_logprobs(request.prompt_logprobs)
    if completion.body.return_token_ids:
        result["token_ids"] = output.token_ids
    return result | about_prompt(completion.service, completion.body, request)


async def stream(
    completion: Completion, outputs: Sequence[AsyncIterator[RequestOutput]]
) -> AsyncGenerator[bytes, None]:
    """The reply as events, the usage last if it was asked for."""
    options = completion.body.stream_options
    continuous = options is not None and options.continuous_usage_stats
    events = Events(completion.head, b'"text":', b"", options is not None and options.include_usage)
    account = completion.account
    body = completion.body
    tells = body.return_token_ids or body.return_prompt_text or body.return_token_offsets
    plain = not (completion.names or tells or continuous)
    begun: set[int] = set()
    async with aclosing(merged(outputs)) as all_outputs:
        async for prompt, request in all_outputs:
            account.add(prompt, request)
            parts: list[bytes] = []
            for one in request.outputs:
                index = completion.index(prompt, one)
                first = index not in begun
                begun.add(index)
                text = completion.text(prompt, request, one, first)
                if plain and one.finish_reason is None:
                    if text:
                        parts.append(events.text(index, text))
                else:
                    shown_usage = account.usage() if continuous else None
                    parts.append(events.full(index, text, fields(completion, prompt, request, one, first), shown_usage))
            if parts:
                yield b"".join(parts)
    if totals := account.totals(options is not None and options.include_usage):
        yield events.last(totals)


def fields(
    completion: Completion, prompt: int, request: RequestOutput, output: CompletionOutput, first: bool
) -> dict[str, object]:
    """What an event's choice holds besides text."""
    result: dict[str, object] = {
        "logprobs": completion.logprobs(prompt, request, output, first),
        "finish_reason": finish(output),
    }
    if output.finish_reason is not None:
        result["stop_reason"] = output.stop_reason
    if completion.body.return_token_ids:
        result["token_ids"] = output.token_ids
    if first:
        result |= about_prompt(completion.service, completion.body, request)
    return result
