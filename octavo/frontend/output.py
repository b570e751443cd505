"""What a caller gets back, and how token deltas become it: text, stop strings, log-probabilities, usage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from octavo import log
from octavo.frontend.answers import AnswerReading, Message, merged, message
from octavo.frontend.detokenizer import Detokenizer, StopStrings
from octavo.frontend.repetition import Repetition
from octavo.frontend.stop_regex import StopPatterns, StopRegex
from octavo.frontend.tokenizer import Tokenizer
from octavo.frontend.tools.sink import Event
from octavo.messages import Finish, Logprobs, SequenceSpec, TokenDelta
from octavo.sampling import RequestOutputKind, SamplingParams

logger = log.get(__name__)

REPETITION = "repetition_detected"  # vLLM's stop reason


class Logprob(msgspec.Struct, frozen=True, gc=False):  # there may be millions
    """One candidate at one position: natural-log probability under the model, rank (1 is the likeliest), text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


PositionLogprobs = dict[int, Logprob]  # token id -> Logprob; the chosen token first


@dataclass(slots=True)
class CompletionOutput:
    """One of the `n` continuations. `finish_reason` is None while it runs, `stop_reason` a stop string or token id.

    `events`: what a chat's text says, content, reasoning and tool calls apart; None when there is nothing but content.
    `reasoning_tokens` counts those of the reasoning, of all the tokens so far.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    events: list[Event] | None = None
    reasoning_tokens: int = 0

    @property
    def message(self) -> Message:
        """What a chat's text says: content, reasoning and tool calls apart."""
        return Message(self.text) if self.events is None else message(self.events)

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None


@dataclass(frozen=True)
class RequestTimes:
    """Seconds: queued before admission, to the first token, and in all, as far as they are known.

    `prefill_s` is from admission to the first token by the core's clock; `decode_s` from the first token to the end.
    """

    queued_s: float | None = None
    first_token_s: float | None = None
    total_s: float | None = None
    preemptions: int = 0
    prefill_s: float | None = None

    @property
    def decode_s(self) -> float | None:
        """From the first token to the end."""
        if self.total_s is None or self.first_token_s is None:
            return None
        return self.total_s - self.first_token_s


@dataclass(slots=True)
class RequestOutput:
    """A request as far as it is answered. `num_cached_tokens` prompt tokens needed no computing."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    num_cached_tokens: int = 0
    times: RequestTimes = field(default_factory=RequestTimes)
    num_unseen_tokens: int = 0  # generated for continuations that are not among the outputs (best_of, beam search)


class SequenceOutput:
    """One sequence's text as it grows: detokenizer, stop strings and log-probabilities."""

    def __init__(
        self,
        index: int,
        params: SamplingParams,
        prompt_ids: list[int],
        tokenizer: Tokenizer | None,
        patterns: StopPatterns | None = None,
        reading: AnswerReading | None = None,
    ) -> None:
        self.index = index
        self.reasoning_tokens = 0
        self._parser = reading.parser() if reading is not None and tokenizer is not None else None
        self._events: list[Event] = []
        self.params = params
        self.tokenizer = tokenizer
        self.token_ids: list[int] = []
        self.text: list[str] = []
        self.logprobs: list[PositionLogprobs] | None = [] if params.logprobs is not None else None
        self.cumulative_logprob: float | None = 0.0 if params.logprobs is not None or params.is_ranked else None
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.error: Finish | None = None
        self._sent_tokens = self._sent_text = self._told = 0
        self._stops = (
            StopRegex(patterns, params.include_stop_str_in_output)
            if patterns
            else StopStrings(params.stops, params.include_stop_str_in_output)
        )
        self._repetition = Repetition(params.repetition_detection) if params.repetition_detection else None
        self._detokenizer = (
            Detokenizer(
                tokenizer,
                prompt_ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
                visible=reading.visible if reading is not None else frozenset(),
            )
            if tokenizer is not None and params.detokenize
            else None
        )
        # Nothing looks at the text or the tokens on their way.
        self._is_plain = (
            self._parser is None
            and self._repetition is None
            and self.cumulative_logprob is None
            and not (params.stop or params.stop_regex)
        )

    def push(self, delta: TokenDelta) -> bool:
        """Take in one delta; True when a stop string ended the sequence before the core did."""
        if self.finish_reason is not None:
            return False
        finish = delta.finish
        if self._is_plain and finish is None and delta.logprobs is None and self._detokenizer is not None:
            self.token_ids += delta.tokens
            self.text += map(self._detokenizer.push_one, delta.tokens)
            return False
        for i, token in enumerate(delta.tokens):
            self.token_ids.append(token)
            was_thinking = self._parser is not None and self._parser.thinking
            if delta.logprobs is not None:
                self._add_logprob(delta.logprobs, i)
            last = finish is not None and i == len(delta.tokens) - 1
            if (
                self._detokenizer
                and not (last and self._hidden(finish))
                and self._show(self._detokenizer.push_one(token))
            ):
                return True
            if was_thinking and self._parser is not None and self._parser.thinking:
                self.reasoning_tokens += 1
            if self._repetition and self._repetition.push(token) and len(self.token_ids) >= self.params.min_tokens:
                self._end(Finish("stop"))
                self.stop_reason = self.stop_reason or REPETITION
                return True
        if finish is not None:
            return self._end(finish)
        return False

    def _hidden(self, finish: Finish | None) -> bool:
        """Whether the last token is a stop token whose text must not show."""
        if finish is None or finish.is_whole:
            return False
        return finish.reason == "stop" and not self.params.include_stop_str_in_output

    def _show(self, text: str) -> bool:
        if len(self.token_ids) <= self.params.min_tokens:  # a stop string does not count before min_tokens
            self._say(text)
            return False
        shown, matched = self._stops.push(text)
        if shown:
            self._say(shown)
        if matched is not None:
            self.finish_reason, self.stop_reason = "stop", matched
            if self._parser is not None:
                self._parser.finish()
        return matched is not None

    def _say(self, text: str) -> None:
        self.text.append(text)
        if self._parser is not None:
            self._parser.push(text)

    def _end(self, finish: Finish) -> bool:
        stopped = False
        if self._detokenizer:
            stopped = self._show(self._detokenizer.finish())
            if not stopped:
                self._say(self._stops.flush())
        if not stopped:
            self.finish_reason, self.stop_reason = finish.reason, finish.stop
            if self._parser is not None:
                self._parser.finish()
        if finish.reason == "error":
            self.error = finish
        return False

    def _add_logprob(self, logprobs: Logprobs, i: int) -> None:
        if self.logprobs is not None:
            self.logprobs.append(position_logprobs(logprobs, i, self.tokenizer))
        if self.cumulative_logprob is not None:
            self.cumulative_logprob += logprobs.values[i][0]

    def is_due(self, interval: int) -> bool:
        """Whether this is its first or last token, or `interval` have come since it was told of."""
        count = len(self.token_ids)
        if self._told and self.finish_reason is None and count - self._told < interval:
            return False
        self._told = count
        return True

    def take(self, delta: bool) -> CompletionOutput:
        """What to yield now: everything so far, or only what came since the last call."""
        tokens, texts = 0, 0
        logprobs = None if self.logprobs is None else self.logprobs[:]
        if delta:
            tokens, texts = self._sent_tokens, self._sent_text
            self._sent_tokens, self._sent_text = len(self.token_ids), len(self.text)
            self.logprobs = None if logprobs is None else []  # a long stream's would fill the memory
        elif len(self.text) > 1:
            self.text = ["".join(self.text)]
        return CompletionOutput(
            self.index,
            "".join(self.text[texts:]),
            self.token_ids[tokens:],
            self.cumulative_logprob,
            logprobs,
            self.finish_reason,
            self.stop_reason,
            None if self._parser is None else self._take_events(delta),
            self.reasoning_tokens,
        )

    def _take_events(self, delta: bool) -> list[Event] | None:
        if self._parser is None:
            return None
        events = merged(self._parser.take())
        if delta:
            if self._parser.is_plain:
                self._parser = None  # what is still to come is content, without a look at it
            return events
        self._events = merged(self._events + events)
        return self._events


def position_logprobs(logprobs: Logprobs, i: int, tokenizer: Tokenizer | None) -> PositionLogprobs:
    """Position i as a dictionary: the token itself first, then the likeliest in order, then those asked for by id."""
    result: PositionLogprobs = {}
    likeliest = len(logprobs.ids[i]) - logprobs.named
    for k, (id, value) in enumerate(zip(logprobs.ids[i], logprobs.values[i], strict=True)):
        if id not in result:
            rank = logprobs.ranks[i] if k == 0 else k if k < likeliest else None
            result[id] = Logprob(value, rank, tokenizer.token_text(id) if tokenizer else None)
    return result


class RequestState:
    """One request of n sequences on its way to a RequestOutput."""

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_ids: list[int],
        params: SamplingParams,
        tokenizer: Tokenizer | None,
        reading: AnswerReading | None = None,
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_ids = prompt_ids
        self.reading = reading
        self.params = params
        self.tokenizer = tokenizer
        patterns = StopPatterns(params.stop_patterns, params.stops) if params.stop_regex else None
        self.sequences = [
            SequenceOutput(i, params, prompt_ids, tokenizer, patterns, reading) for i in range(params.num_sequences)
        ]
        self.ids: list[int] = []  # of its sequences in the core, by index
        self.prompt_logprobs: list[PositionLogprobs | None] | None = (
            [None] if params.prompt_logprobs is not None else None
        )
        self.cached = 0
        self.arrived = time.monotonic()
        self._untold: set[int] = set()
        self.first_token_s: float | None = None
        self.queued_s: float | None = None
        self.prefill_s: float | None = None
        self.preemptions = 0
        self.known_times = RequestTimes()
        self.on_first_token: Callable[[float], None] | None = None

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        # Asked several times per token: a generator would take four times as long.
        for sequence in self.sequences:  # noqa: SIM110
            if sequence.finish_reason is None:
                return False
        return True

    @property
    def error(self) -> Finish | None:
        """The first error that ended a sequence, if any."""
        for sequence in self.sequences:
            if sequence.error is not None:
                return sequence.error
        return None

    def push(self, index: int, delta: TokenDelta) -> bool:
        """Take in a delta of sequence `index`; True when the core must be told to abort it (a stop string matched)."""
        if index == 0:
            self.cached = max(self.cached, delta.cached)
        if delta.prompt_logprobs is not None and self.prompt_logprobs is not None and index == 0:
            count = len(delta.prompt_logprobs.ids)
            self.prompt_logprobs += [position_logprobs(delta.prompt_logprobs, i, self.tokenizer) for i in range(count)]
        if delta.timing is not None:
            self.queued_s = delta.timing.admitted - delta.timing.arrived
            self.prefill_s = delta.timing.first_token - delta.timing.admitted
            self.preemptions = max(self.preemptions, delta.timing.preemptions)
            self.known_times = self.times()
        if delta.tokens and self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.arrived
            self.known_times = self.times()
            if self.on_first_token is not None:
                self.on_first_token(self.first_token_s)
        return self.sequences[index].push(delta)

    def due(self, touched: set[int]) -> set[int]:
        """Those of the changed sequences that are to be told now, as stream_interval says; the others come later."""
        interval = self.params.stream_interval
        if interval is None:
            return touched
        self._untold |= touched
        due = {i for i in self._untold if self.sequences[i].is_due(interval)}
        self._untold -= due
        return due

    def fail(self, index: int, finish: Finish) -> bool:
        """End sequence `index` with an error of the frontend's own; True, because the core still runs it."""
        sequence = self.sequences[index]
        sequence.finish_reason, sequence.error = finish.reason, finish
        return True

    def times(self, ended: float | None = None) -> RequestTimes:
        """When things happened to it; `ended` is when it did, by this process's monotonic clock."""
        total_s = None if ended is None else ended - self.arrived
        return RequestTimes(self.queued_s, self.first_token_s, total_s, self.preemptions, self.prefill_s)

    def output(self, touched: set[int] | None = None) -> RequestOutput:
        """The output as the request's `output_kind` wants it; under DELTA only the sequences in `touched`."""
        delta = self.params.output_kind is RequestOutputKind.DELTA
        chosen = self.sequences if not delta or touched is None else [self.sequences[i] for i in sorted(touched)]
        finished = self.finished
        unseen = 0
        if finished and self.params.is_ranked:
            chosen = self._rank()
            unseen = sum(len(one.token_ids) for one in self.sequences) - sum(len(one.token_ids) for one in chosen)
        times = self.times(time.monotonic()) if finished else self.known_times
        return RequestOutput(
            self.request_id,
            self.prompt,
            self.prompt_ids,
            [sequence.take(delta) for sequence in chosen],
            finished,
            self.prompt_logprobs,
            self.cached,
            times,
            unseen,
        )

    def _rank(self) -> list[SequenceOutput]:
        """The `n` sequences whose tokens are the likeliest on average, best first (OpenAI's best_of)."""

        def average(sequence: SequenceOutput) -> float:
            return (sequence.cumulative_logprob or 0.0) / max(1, len(sequence.token_ids))

        best = sorted(self.sequences, key=average, reverse=True)[: self.params.n]
        for index, sequence in enumerate(best):
            sequence.index = index
        return best


class Routed(Protocol):
    """A request as OutputProcessor sees it. `ids` are those of its sequences in the core, by index."""

    request_id: str
    ids: list[int]

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        ...

    def push(self, index: int, delta: TokenDelta) -> bool:
        """Take in a delta; True when the core must be told to abort the sequence."""
        ...

    def fail(self, index: int, finish: Finish) -> bool:
        """End a sequence with an error of the frontend's own; True when the core still runs it."""
        ...


class OutputProcessor:
    """Routes token deltas to their requests. Synchronous and single-threaded; every client owns one."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self.requests: dict[str, Routed] = {}
        self.routes: dict[int, tuple[Routed, int]] = {}
        self.late = 0

    def open(self, request: Routed, specs: list[SequenceSpec]) -> None:
        """Expect deltas for these sequences, one per continuation."""
        self.requests[request.request_id] = request
        request.ids = [spec.id for spec in specs]
        for index, spec in enumerate(specs):
            self.routes[spec.id] = (request, index)

    def close(self, request_id: str) -> list[int]:
        """Forget a request; returns the ids of its sequences that still run, which the core must abort."""
        request = self.requests.pop(request_id, None)
        running = [id for id in request.ids if id in self.routes] if request else []
        for id in running:
            del self.routes[id]
        return running

    def forget(self, ids: Iterable[int]) -> None:
        """Expect nothing of these sequences: the core never heard of them."""
        for id in ids:
            self.routes.pop(id, None)

    def running(self, request_id: str) -> list[int]:
        """The ids of a request's sequences that still run."""
        request = self.requests.get(request_id)
        return [id for id in request.ids if id in self.routes] if request else []

    def aborted(self, ids: list[int]) -> list[TokenDelta]:
        """The deltas that end these sequences as aborted."""
        return [TokenDelta(id, [], finish=Finish("abort")) for id in ids]

    def push(self, deltas: list[TokenDelta]) -> tuple[list[tuple[Routed, set[int]]], list[int]]:
        """Returns the requests that changed with the indices of their changed sequences, and ids to abort."""
        changed: dict[str, tuple[Routed, set[int]]] = {}
        aborts: list[int] = []
        ended: list[Routed] = []
        for delta in deltas:
            route = self.routes.get(delta.id)
            if route is None:
                self.late += 1
                continue
            request, index = route
            try:
                stopped = request.push(index, delta)
            except Exception:  # R9: what one request's text does to its own processing must not reach the others
                logger.exception("request %s failed in output processing", request.request_id)
                finish = Finish("error", message="the engine failed while turning tokens into text")
                stopped = request.fail(index, finish)
            known = changed.get(request.request_id)
            if known is None:
                changed[request.request_id] = request, {index}
            else:
                known[1].add(index)
            if stopped and delta.finish is None:
                aborts.append(delta.id)
            if stopped or delta.finish is not None:
                del self.routes[delta.id]
                ended.append(request)
        for request in ended:
            if request.finished:
                self.requests.pop(request.request_id, None)
        return list(changed.values()), aborts
