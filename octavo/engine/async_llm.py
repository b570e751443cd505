"""AsyncLLM: the engine as an async iterator of outputs, its core supervised in a process of its own."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any, Literal, Unpack

from octavo.checkpoint import Checkpoint
from octavo.config import EngineConfig
from octavo.embedder import Embedder
from octavo.engine.compiler import GrammarCompiler
from octavo.engine.questions import Questions
from octavo.engine.supervisor import Supervisor
from octavo.engine.trial import Setup
from octavo.errors import EngineDead, InvalidRequest, OctavoError, StepFailed
from octavo.frontend.answers import AnswerReading
from octavo.frontend.inputs import InputProcessor, Prompt, RequestExtras, TokensPrompt, split
from octavo.frontend.journal import Journal
from octavo.frontend.output import OutputProcessor, RequestOutput, RequestState
from octavo.frontend.pooling import Feed, Pair, PoolingInputs, PoolingPrompt
from octavo.frontend.prompts import ChatOptions, Messages, Prompts, PromptsAside
from octavo.frontend.tokenizer import LONG_TEXT
from octavo.messages import (
    Abort,
    Add,
    AskStats,
    AskTimelines,
    CacheReset,
    Control,
    Deltas,
    EngineInfo,
    Finish,
    Grammar,
    ResetCache,
    Stats,
    StatsReply,
    Timeline,
    Timelines,
    ToFrontend,
    total,
)
from octavo.pooling import PoolingOutput, PoolingParams, PoolingRequestOutput, Task
from octavo.sampling import RequestOutputKind, SamplingParams
from octavo.thinking import ThinkingBudget

STEPS_AHEAD = 4  # of a request with many prompts to embed; others' prompts wait behind no more
ANSWER_S = 2.0  # the core answers between two steps

State = Literal["loading", "ready", "restarting", "draining", "dead"]


class Mailbox:
    """Wakes one consumer when its request changed. Changes merge while it is away, so nothing piles up per step."""

    def __init__(self) -> None:
        self.touched: set[int] = set()
        self.error: OctavoError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def notify(self, touched: set[int]) -> None:
        """Sequences with these indices changed."""
        self.touched |= touched
        self._wake()

    def fail(self, error: OctavoError) -> None:
        """End the consumer with `error`."""
        self.error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> set[int]:
        """The indices that changed since the last call; raises what `fail` was given once those are told."""
        while not self.touched and self.error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self.touched and self.error is not None:
            raise self.error
        touched, self.touched = self.touched, set()
        return touched


class AsyncLLM:
    """An engine in its own process, for servers and async programs. Make one with `launch` inside a running loop."""

    def __init__(self, config: EngineConfig, checkpoint: Checkpoint, heartbeat_s: float) -> None:
        self.config = config
        self.checkpoint = checkpoint
        self.model_name = checkpoint.name
        self._mailboxes: dict[str, Mailbox] = {}
        self._inputs: InputProcessor | None = None
        self._pooling: PoolingInputs | None = None
        self._compiler: GrammarCompiler | None = None
        self._draining = False
        self.num_prompt_tokens = 0  # of requests being answered
        self.journal = Journal()
        self.last_stats = Stats()  # of the engine process there is,
        self.stats_at = time.monotonic()  # and when they came
        self.past_stats = Stats()  # of those that were lost
        self._idle = asyncio.Event()
        self._idle.set()
        # First, so that the engine process loads its libraries while this one reads the tokenizer.
        self._supervisor = Supervisor(config, checkpoint, heartbeat_s, self._on_message, self._on_down)
        self._questions = Questions(self._supervisor.send)
        try:
            self._read_tokenizer()
        except BaseException:
            self._supervisor.abandon()
            raise

    def _read_tokenizer(self) -> None:
        self._prompts = Prompts(self.config, self.checkpoint)
        self._aside = PromptsAside(self._prompts)
        self.tokenizer = self._prompts.tokenizer
        self.chat_template = self._prompts.template
        self.default_params = self._prompts.defaults
        self.reading = self._prompts.reading
        self.answers = self._prompts.answers
        self._outputs = OutputProcessor(self.tokenizer)

    @classmethod
    def launch(cls, config: EngineConfig | None = None, heartbeat_s: float = 5.0, **options: Any) -> AsyncLLM:
        """Start the engine process and return at once; options as in `LLM`. StartupError for an unknown model."""
        config = config or EngineConfig.of(**options)
        config.check()
        return cls(config, Checkpoint.resolve(config.model.model, config.model.revision), heartbeat_s)

    @property
    def state(self) -> State:
        """Where the engine is in its life."""
        return "draining" if self._draining and self._supervisor.state != "dead" else self._supervisor.state

    @property
    def is_healthy(self) -> bool:
        """Whether the engine process lives and its loop turns (R4)."""
        return self._supervisor.is_healthy

    @property
    def info(self) -> EngineInfo | None:
        """The engine's limits and plan, once it was ready."""
        return self._supervisor.info

    @property
    def supervisor(self) -> Supervisor:
        """The process's keeper: its pid, restarts and loading progress."""
        return self._supervisor

    @property
    def num_open(self) -> int:
        """Requests being answered."""
        return len(self._mailboxes)

    async def ready(self) -> None:
        """Wait until the engine takes requests; StartupError when it cannot."""
        await self._supervisor.ready()
        self._aside.start()

    def _input_processor(self) -> InputProcessor:
        if self._inputs is None:
            info = self.info
            assert info is not None, "ready() comes first"
            self._inputs = self._prompts.inputs(info)
        return self._inputs

    async def _compile(self, params: SamplingParams, cache_salt: str | None) -> Grammar | None:
        """What the output must match, tried out in a process of its own; InvalidRequest when it is refused (R38)."""
        if params.structured_outputs is None:
            return None
        if self._compiler is None:
            info = self.info
            assert info is not None, "ready() comes first"
            self._compiler = GrammarCompiler(Setup.of(self.config, self.checkpoint, info.vocab_size))
        grammar = await self._compiler.compile(params.structured_outputs, cache_salt or "")
        self._check_ready()
        return grammar

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; long ones are tokenized off the event loop."""
        return await self._aside.run(len(text), self.tokenizer.encode, text, add_special_tokens)

    async def prompt(
        self, messages: Messages, *, add_special_tokens: bool = False, **options: Unpack[ChatOptions]
    ) -> TokensPrompt:
        """The chat as a prompt, made off the event loop (R22).

        InvalidRequest when the model has no chat template, when it refuses the messages, takes too long for them, or
        makes more of them than the context holds. Overloaded when too many chats wait to be rendered.
        """
        inputs = await self.inputs()
        check = partial(inputs.check_text, field="messages")
        return await self._aside.chat(messages, check, add_special_tokens, **options)

    async def inputs(self) -> InputProcessor:
        """What turns this engine's prompts into tokens; EngineDead when it takes none."""
        if self._supervisor.state == "loading":
            await self.ready()
        self._check_ready()
        return self._input_processor()

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        add_special_tokens: bool = True,
        trusted: bool = False,
        reading: AnswerReading | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs as they grow, as `params.output_kind` wants them. Closing the iterator aborts the request.

        `trusted` parameters are our own and not held to the limits of a request. `reading` (of `self.reading`) takes
        tool calls and reasoning out of a chat's answers: they are the outputs' `events`. Raises InvalidRequest before
        the first output; EngineDead or StepFailed at any time.
        """
        inputs = await self.inputs()
        if self.info is not None:
            self.info.abilities.check_generates()
        length = len(prompt) if isinstance(prompt, str) else 0
        text, ids = await self._aside.run(length, inputs.ids, prompt, add_special_tokens, params)
        self._check_ready()
        params = params or SamplingParams()
        grammar = await self._compile(params, cache_salt)
        request_id = self._free_id(request_id)
        extras = RequestExtras(priority, cache_salt, trusted, reading, grammar)
        request, specs = inputs.build(request_id, text, ids, params, extras)
        mailbox = Mailbox()
        self._outputs.open(request, specs)
        if not trusted:  # the steps of a beam search are no requests
            self.journal.open(request, specs)
        self._mailboxes[request_id] = mailbox
        self._idle.clear()
        self.num_prompt_tokens += len(ids)
        try:
            self._supervisor.send(Add(specs))
            async for output in follow(request, mailbox):
                yield output
        finally:
            self.num_prompt_tokens -= len(ids)
            self._close(request_id)
            self.journal.close(request_id, "error" if mailbox.error is not None else "abort")

    async def pool(
        self,
        task: Task,
        prompts: Sequence[PoolingPrompt],
        params: PoolingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """What `task` makes of each prompt, in order. Cancelling aborts them all; errors as in `generate`."""
        pooling = self._pooling_inputs(await self.inputs())
        request_id = self._free_id(request_id)
        extras = RequestExtras(priority, cache_salt)
        build = partial(pooling.build, request_id, task, prompts, params or PoolingParams(), extras)
        if is_long(prompts):
            request, specs = await asyncio.to_thread(build)
            self._check_ready()
        else:
            request, specs = build()
        mailbox = Mailbox()
        num_tokens = sum(map(len, request.prompts))
        feed = Feed(request, specs, STEPS_AHEAD * max(1, self.info.step_tokens if self.info else 0))
        otherwise = "abort"
        self._outputs.open(request, specs)
        self.journal.open_pooled(request_id, specs, num_tokens)
        self._mailboxes[request_id] = mailbox
        self._idle.clear()
        self.num_prompt_tokens += num_tokens
        try:
            while not request.finished:
                if more := feed.next():
                    self._supervisor.send(Add(more))
                await mailbox.wait()
                if request.error is not None:
                    raise failure(request.error)
            otherwise = "stop"
            return request.outputs()
        except OctavoError:
            otherwise = "error"
            raise
        finally:
            self.num_prompt_tokens -= num_tokens
            self._outputs.forget(feed.unsent())
            self._close(request_id)
            self.journal.close(request_id, otherwise)

    async def encode(
        self,
        prompt: Prompt,
        pooling_params: PoolingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> AsyncGenerator[PoolingRequestOutput[PoolingOutput], None]:
        """The pooled prompt, as vLLM's method of this name yields it; the task is the params' or an embedding."""
        params = pooling_params or PoolingParams()
        for output in await self.pool(params.task or "embed", [prompt], params, request_id, priority=priority):
            yield output

    def _free_id(self, request_id: str | None) -> str:
        """The id, or a new one; InvalidRequest when a running request has it."""
        if request_id in self._mailboxes:
            raise InvalidRequest(f"request_id {request_id!r} is in use by a running request", "request_id")
        return request_id or uuid.uuid4().hex

    def _pooling_inputs(self, inputs: InputProcessor) -> PoolingInputs:
        if self._pooling is None:
            info = self.info
            assert info is not None, "ready() comes first"
            self._pooling = PoolingInputs(inputs, info.abilities, Embedder.of(self.checkpoint))
        return self._pooling

    def _check_ready(self) -> None:
        if self.state != "ready":
            raise EngineDead(f"the engine is {self.state}; try again soon")

    def _close(self, request_id: str) -> None:
        del self._mailboxes[request_id]
        if not self._mailboxes:
            self._idle.set()
        running = self._outputs.close(request_id)
        if running and self._supervisor.state == "ready":
            self._supervisor.send(Abort(running))

    async def abort(self, request_id: str) -> None:
        """End a request; its iterator yields a last output with finish_reason "abort". Unknown ids are ignored."""
        running = self._outputs.running(request_id)
        if running and self._supervisor.state == "ready":
            self._supervisor.send(Abort(running))
            self._on_message(Deltas(self._outputs.aborted(running)))

    async def stats(self, limit_s: float = ANSWER_S) -> Stats:
        """The core's counters and gauges; EngineDead when it does not answer within `limit_s`."""
        reply = await self._questions.ask(AskStats, limit_s)
        assert isinstance(reply, StatsReply)
        return reply.stats

    async def timelines(self, ids: list[int]) -> list[Timeline]:
        """What the core remembers of these sequences; EngineDead when it does not answer."""
        reply = await self._questions.ask(lambda number: AskTimelines(number, ids), ANSWER_S)
        assert isinstance(reply, Timelines)
        return reply.timelines

    async def control(
        self,
        ids: list[int],
        cancel: bool = False,
        max_tokens: int | None = None,
        thinking: ThinkingBudget | None = None,
    ) -> list[Timeline]:
        """Change running sequences between two steps; what is known of them afterwards.

        `cancel` ends them with finish_reason "abort" and what they have. InvalidRequest when the change cannot be made.
        """
        reply = await self._questions.ask(lambda number: Control(number, ids, cancel, max_tokens, thinking), ANSWER_S)
        assert isinstance(reply, Timelines)
        if reply.refused is not None:
            raise InvalidRequest(reply.refused, reply.field)
        return reply.timelines

    def no_thinking(self, request: RequestState) -> ThinkingBudget:
        """What ends a running request's reasoning; InvalidRequest when octavo cannot tell where that ends."""
        return self._input_processor().no_thinking(request.reading)

    async def reset_prefix_cache(self) -> int:
        """Forget the cached prefixes that no running request holds; how many pages that were."""
        reply = await self._questions.ask(ResetCache, ANSWER_S)
        assert isinstance(reply, CacheReset)
        return reply.pages

    @property
    def frames_dropped(self) -> int:
        """Frames from the engine that did not decode."""
        return self._supervisor.frames_dropped

    @property
    def late(self) -> int:
        """Deltas for requests that had gone, ignored."""
        return self._outputs.late

    def start_draining(self) -> None:
        """Take no new requests from now on."""
        self._draining = True

    async def drained(self, limit_s: float) -> None:
        """Wait for running requests, at most `limit_s`; then fail the rest."""
        try:
            await asyncio.wait_for(self._idle.wait(), limit_s)
        except TimeoutError:
            self._on_down(EngineDead("the server is shutting down and the time to finish is over"))

    async def shutdown(self) -> None:
        """End the engine process. Open requests fail with EngineDead."""
        self._on_down(EngineDead("the engine was shut down"))
        self._aside.stop()
        if self._compiler is not None:
            self._compiler.stop()
        await self._supervisor.stop()

    def _on_message(self, message: ToFrontend) -> None:
        if isinstance(message, Deltas):
            changed, aborts = self._outputs.push(message.deltas)
            for request, touched in changed:
                mailbox = self._mailboxes.get(request.request_id)
                if mailbox is not None:
                    mailbox.notify(touched)
            if aborts:
                self._supervisor.send(Abort(aborts))
        elif isinstance(message, StatsReply):
            self.last_stats, self.stats_at = message.stats, time.monotonic()
            self._questions.answer(message)
        elif isinstance(message, (Timelines, CacheReset)):
            self._questions.answer(message)

    def _on_down(self, error: EngineDead) -> None:
        for mailbox in self._mailboxes.values():
            mailbox.fail(error)
        self._questions.fail(error)
        self.past_stats, self.last_stats = total(self.past_stats, self.last_stats), Stats()


async def follow(request: RequestState, mailbox: Mailbox) -> AsyncGenerator[RequestOutput, None]:
    """The request's outputs until it has finished; raises the error that ended it."""
    final_only = request.params.output_kind is RequestOutputKind.FINAL_ONLY
    while not request.finished or mailbox.touched:
        touched = await mailbox.wait()
        if request.error is not None:
            raise failure(request.error)
        if (request.finished or not final_only) and (due := request.due(touched)):
            yield request.output(due)


def is_long(prompts: Sequence[PoolingPrompt]) -> bool:
    """Whether tokenizing these would hold up the event loop."""
    size = 0
    for prompt in prompts:
        texts = (prompt.first, prompt.second) if isinstance(prompt, Pair) else split(prompt)
        size += sum(len(text) for text in texts if text is not None)
    return size >= LONG_TEXT


def failure(finish: Finish) -> OctavoError:
    """The exception for a sequence that ended in an error: the request's own fault if it names a field."""
    message = finish.message or "the engine failed while computing this request"
    return InvalidRequest(message, finish.field) if finish.field else StepFailed(message)
