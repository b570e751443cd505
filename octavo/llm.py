"""LLM: offline generation and chat, the engine core in this process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from octavo.beams import BeamSearchParams
from octavo.checkpoint import Checkpoint
from octavo.config import EngineConfig
from octavo.embedder import Embedder
from octavo.engine.build import build_core
from octavo.engine.compiler import BlockingCompiler
from octavo.engine.trial import Setup
from octavo.errors import EngineDead, InvalidRequest, StepFailed
from octavo.frontend.answers import AnswerReading
from octavo.frontend.beam import BeamSearch, BeamSearchOutput, as_sequences
from octavo.frontend.inputs import Prompt, RequestExtras
from octavo.frontend.output import OutputProcessor, RequestOutput, RequestState, Routed
from octavo.frontend.pooling import Pair, PoolingInputs, PoolingPrompt, pairs
from octavo.frontend.prompts import Prompts
from octavo.frontend.tokenizer import Tokenizer
from octavo.messages import Finish, Grammar, SequenceSpec, Stats
from octavo.pooling import (
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingParams,
    PoolingRequestOutput,
    ScoringRequestOutput,
    Task,
)
from octavo.sampling import RequestOutputKind, SamplingParams, shown
from octavo.structured import StructuredOutputsParams

Message = Mapping[str, Any]
P = TypeVar("P", bound=PoolingPrompt)

BAR_S = 0.1  # seconds between two changes of a progress bar


class LLM:
    """A model to call from Python: `LLM(model).generate(prompts, SamplingParams(...))`.

    `model` is a folder, a .gguf file or a Hugging Face id; none is the embedded octavo-pocket. Options are those of
    `octavo serve`, with underscores (`max_model_len`, `gpu_memory_utilization`, `dtype`, `seed`, ...). StartupError
    says in one line what is wrong.
    """

    def __init__(self, model: str | None = None, *, use_tqdm_on_load: bool = True, **options: Any) -> None:
        self._open(EngineConfig.of(model=model, **options), use_tqdm_on_load)

    @classmethod
    def of(cls, config: EngineConfig, use_tqdm_on_load: bool = True) -> LLM:
        """The same from a whole config."""
        llm = cls.__new__(cls)
        llm._open(config, use_tqdm_on_load)
        return llm

    def _open(self, config: EngineConfig, use_tqdm_on_load: bool) -> None:
        checkpoint = Checkpoint.resolve(config.model.model, config.model.revision)
        self.config = config
        self.model_name = checkpoint.name
        self._prompts = Prompts(config, checkpoint)
        self._tokenizer = self._prompts.tokenizer
        with bars(use_tqdm_on_load, DownloadColumn(binary_units=True)) as show:
            self._core, self.info = build_core(config, checkpoint, LoadProgress(show))
        self._inputs = self._prompts.inputs(self.info)
        self._pooling = PoolingInputs(self._inputs, self.info.abilities, Embedder.of(checkpoint))
        self._outputs = OutputProcessor(self._tokenizer)
        self._requests = itertools.count()
        self._checkpoint = checkpoint
        self._compiler: BlockingCompiler | None = None
        self._closed = False

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """The checkpoint's own sampling defaults (generation_config.json)."""
        return SamplingParams(**self._prompts.defaults)

    def get_metrics(self) -> Stats:
        """Counters since the start and gauges now."""
        return self._core.stats()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Continue every prompt; outputs in the prompts' order.

        A prompt is text, {"prompt": text}, or {"prompt_token_ids": ids}. One SamplingParams serves all prompts, or one
        each; none means the checkpoint's defaults. InvalidRequest names the field that is wrong, before anything runs.
        """
        many = as_list(prompts)
        return self._run(many, sampling_params, use_tqdm, priority, add_special_tokens=True)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, use_tqdm: bool = False
    ) -> list[BeamSearchOutput]:
        """The `params.beam_width` likeliest continuations of every prompt, best first, in the prompts' order."""
        params.check(self.config.limits)
        searches: list[BeamSearch] = []
        for prompt in as_list(prompts):
            _, ids = self._inputs.ids(prompt)
            room = self.info.max_model_len - len(ids)
            searches.append(
                BeamSearch(ids, params, self._inputs.eos_ids, room, self.info.vocab_size, self.config.limits)
            )
        while running := [search for search in searches if not search.done]:
            asked = [(search.step, search.prompts()) for search in running]
            told = iter(
                self._run(
                    [{"prompt_token_ids": ids} for _, prompts in asked for ids in prompts],
                    [step for step, prompts in asked for _ in prompts],
                    use_tqdm,
                    None,
                    add_special_tokens=False,
                    is_trusted=True,
                )
            )
            for search, (_, continued) in zip(running, asked, strict=True):
                search.advance([(next(told).outputs[0].logprobs or [])[0] for _ in continued])
        return [as_sequences(search, self._tokenizer) for search in searches]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several; each a list of {"role", "content"} messages.

        An output's `message` has its content, its reasoning and its calls of `tools` apart; `text` has them together.
        """
        chats = [messages] if messages and isinstance(messages[0], Mapping) else list(messages)
        prompts = [
            self._prompts.chat(
                [dict(message) for message in chat],  # type: ignore[call-overload]
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                kwargs=chat_template_kwargs,
            )
            for chat in chats
        ]
        readings = [self._prompts.reading(prompt, tools, continue_final_message) for prompt in prompts]
        return self._run(prompts, sampling_params, use_tqdm, None, add_special_tokens=False, readings=readings)

    def encode(
        self,
        prompts: PoolingPrompt | Sequence[PoolingPrompt],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        use_tqdm: bool = True,
        *,
        pooling_task: Task | None = None,
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """What the task makes of each prompt (default: the first the model can), in the prompts' order, as float32.

        One PoolingParams serves all prompts, or one each. InvalidRequest names the field that is wrong, or says what
        the model can do instead, before anything runs.
        """
        if self._closed:
            raise EngineDead("this LLM was shut down; make another")
        many = as_list(prompts)
        each = spread(pooling_params if pooling_params is not None else PoolingParams(), len(many), "pooling_params")
        able = self.info.abilities
        task = pooling_task or (able.tasks[0] if able.tasks else "embed")
        built = [
            self._pooling.build(str(next(self._requests)), task, [prompt], params)
            for prompt, params in zip(many, each, strict=True)
        ]
        self._compute(built, use_tqdm)
        for request, _ in built:
            if request.error is not None:
                raise failed(request.error)
        return [output for request, _ in built for output in request.outputs()]

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[EmbeddingRequestOutput]:
        """One vector for each prompt."""
        pooled = self.encode(prompts, pooling_params, use_tqdm, pooling_task="embed")
        return [EmbeddingRequestOutput.of(output) for output in pooled]

    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[ClassificationRequestOutput]:
        """A score for each label, for each prompt."""
        pooled = self.encode(prompts, pooling_params, use_tqdm, pooling_task="classify")
        return [ClassificationRequestOutput.of(output) for output in pooled]

    def score(
        self,
        data_1: str | Sequence[str],
        data_2: str | Sequence[str],
        use_tqdm: bool = True,
        *,
        pooling_params: PoolingParams | None = None,
    ) -> list[ScoringRequestOutput]:
        """How well the texts of each pair belong together: a cross-encoder's score, or the cosine of two embeddings.

        One text against each of a list, or two lists text by text.
        """
        asked = pairs(data_1, data_2, ("data_1", "data_2"))
        if self.info.abilities.scores_pairs:
            pooled = self.encode(asked, pooling_params, use_tqdm, pooling_task="classify")
            return [ScoringRequestOutput.of(output) for output in pooled]
        self.info.abilities.check_scores()
        texts = list(dict.fromkeys(text for pair in asked for text in (pair.first, pair.second)))
        embedded = dict(zip(texts, self.encode(texts, pooling_params, use_tqdm, pooling_task="embed"), strict=True))
        return [ScoringRequestOutput.between(embedded[pair.first], embedded[pair.second]) for pair in asked]

    def shutdown(self) -> None:
        """Give the device back. The LLM cannot be used afterwards."""
        self._core.executor.stop()
        if self._compiler is not None:
            self._compiler.stop()
        self._closed = True

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _run(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
        priority: Sequence[int] | None,
        add_special_tokens: bool,
        is_trusted: bool = False,
        readings: Sequence[AnswerReading | None] | None = None,
    ) -> list[RequestOutput]:
        if self._closed:
            raise EngineDead("this LLM was shut down; make another")
        self.info.abilities.check_generates()
        each = spread(
            params if params is not None else self.get_default_sampling_params(), len(prompts), "sampling_params"
        )
        priorities = spread(list(priority) if priority is not None else 0, len(prompts), "priority")
        built: list[tuple[RequestState, list[SequenceSpec]]] = []
        how = readings or [None] * len(prompts)
        for prompt, wanted, urgency, reading in zip(prompts, each, priorities, how, strict=True):
            text, ids = self._inputs.ids(prompt, add_special_tokens, wanted)
            grammar = self._compile(wanted.structured_outputs) if wanted.structured_outputs is not None else None
            extras = RequestExtras(urgency, is_trusted=is_trusted, reading=reading, grammar=grammar)
            built.append(self._inputs.build(str(next(self._requests)), text, ids, wanted, extras))
        self._compute(built, use_tqdm)
        return [finished_output(request) for request, _ in built]

    def _compile(self, wanted: StructuredOutputsParams) -> Grammar:
        if self._compiler is None:
            self._compiler = BlockingCompiler(Setup.of(self.config, self._checkpoint, self.info.vocab_size))
        return self._compiler.compile(wanted)

    def _compute(self, built: Sequence[tuple[Routed, list[SequenceSpec]]], use_tqdm: bool) -> None:
        """Run these requests to their ends."""
        for request, specs in built:
            self._outputs.open(request, specs)
        try:
            self._core.add([spec for _, specs in built for spec in specs])
            with bars(use_tqdm) as show:
                self._turn_until_done([request for request, _ in built], BatchProgress(show, len(built)))
        except BaseException:
            # Interrupted (Ctrl-C in a notebook): the next call must find an empty engine.
            self._core.abort([id for request, _ in built for id in self._outputs.close(request.request_id)])
            raise

    def _turn_until_done(self, requests: list[Routed], progress: BatchProgress) -> None:
        left = sum(not request.finished for request in requests)
        while left:
            deltas = self._core.turn()
            changed, aborts = self._outputs.push(deltas)
            if aborts:
                self._core.abort(aborts)
            done = sum(request.finished for request, _ in changed)
            left -= done
            progress(done, sum(len(delta.tokens) for delta in deltas))


def finished_output(request: RequestState) -> RequestOutput:
    """The request's final output, cumulative; StepFailed or InvalidRequest when it ended in an error."""
    if request.error is not None:
        raise failed(request.error)
    request.params.output_kind = RequestOutputKind.CUMULATIVE
    return request.output()


def failed(finish: Finish) -> InvalidRequest | StepFailed:
    """The exception for a sequence that ended in an error."""
    message = finish.message or "the engine failed while computing this request"
    return InvalidRequest(message, finish.field) if finish.field else StepFailed(message)


def as_list(prompts: P | Sequence[P]) -> list[P]:
    """One prompt or several, as a list; a plain list of ints is one prompt of token ids."""
    if isinstance(prompts, (str, Mapping, Pair)):
        return [prompts]  # type: ignore[return-value]
    if not isinstance(prompts, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"prompts must be a prompt or a list of them, got {shown(prompts)}", "prompts")
    many = list(prompts)
    return [many] if many and all(isinstance(item, int) for item in many) else many  # type: ignore[list-item, return-value]


def spread(value: Any, count: int, name: str) -> list[Any]:
    """One value for all prompts, or a list with one each."""
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise InvalidRequest(f"{name} has {len(value)} entries for {count} prompts; give one, or one each", name)
    return list(value)


def bars(enabled: bool, done: ProgressColumn | None = None) -> Progress:
    """Progress bars on stderr that vanish when done; nothing when the output is no terminal or `enabled` is false.

    `done` shows how much of the whole is done; default: as a count.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        done or MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    return Progress(*columns, console=console, transient=True, disable=not enabled or not console.is_terminal)


class LoadProgress:
    """Shows what build_core reports: one bar for each kind of work."""

    def __init__(self, show: Progress) -> None:
        self._show = show
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._show.add_task(what, total=total, speed="")
        self._show.update(self._tasks[what], completed=done, total=total)


class BatchProgress:
    """Shows finished requests and generated tokens per second."""

    def __init__(self, show: Progress, total: int) -> None:
        self._show = show
        self._task = show.add_task("Processed prompts", total=total, speed="")
        self._finished = self._tokens = 0
        self._next = time.monotonic()

    def __call__(self, finished: int, tokens: int) -> None:
        self._finished += finished
        self._tokens += tokens
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + BAR_S
        elapsed = self._show.tasks[0].elapsed or 1e-9
        self._show.update(self._task, completed=self._finished, speed=f"{self._tokens / elapsed:.0f} tok/s")
