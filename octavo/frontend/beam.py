"""Beam search over an engine that continues sequences by one token and tells log-probabilities.

Each step asks for one more token of every beam; the beams share the pages of what they have in common through the
prefix cache. The search is Transformers' with its default `early_stopping=False`: it ends when there are `beam_width`
finished beams and the best running one, at its present length, is no better than the worst of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from octavo.beams import BeamSearchParams
from octavo.errors import InvalidRequest
from octavo.frontend.detokenizer import Detokenizer
from octavo.frontend.output import CompletionOutput, PositionLogprobs
from octavo.frontend.tokenizer import Tokenizer
from octavo.limits import DEFAULT, Limits
from octavo.sampling import RequestOutputKind, SamplingParams


@dataclass(frozen=True)
class Beam:
    """A continuation: its ids, the sum of their log-probabilities, what was told of each."""

    ids: tuple[int, ...] = ()
    cumulative_logprob: float = 0.0
    logprobs: tuple[PositionLogprobs, ...] = ()
    finish_reason: str | None = None

    def and_then(self, id: int, logprob: float, told: PositionLogprobs, kept: int, finish_reason: str | None) -> Beam:
        """The beam with one more token. Of what was `told` of its place, the token and the `kept` likeliest stay."""
        others = {k: v for k, v in told.items() if k != id and v.rank is not None and v.rank <= kept} if kept else {}
        told = {id: told[id]} | others
        return Beam((*self.ids, id), self.cumulative_logprob + logprob, (*self.logprobs, told), finish_reason)


@dataclass
class BeamSearch:
    """One search. While not `done`: continue each of `prompts()` by one token under `step`, `advance` by the answers.

    `room` is how many tokens fit behind the prompt; `eos` the ids that end a beam.
    """

    prompt_ids: list[int]
    params: BeamSearchParams
    eos: Iterable[int]
    room: int
    vocab_size: int
    limits: Limits = DEFAULT
    beams: list[Beam] = field(default_factory=lambda: [Beam()])
    finished: list[tuple[float, Beam]] = field(default_factory=list)
    num_steps: int = 0
    num_computed: int = 0  # tokens asked of the engine
    done: bool = False

    def __post_init__(self) -> None:
        self._ends = frozenset(() if self.params.ignore_eos else self.eos)
        self._length = min(self.params.max_tokens or self.room, self.room)
        told = self.params.beam_width * self._length * (1 + (self.params.logprobs or 0))
        if told > self.limits.logprob_values:
            raise InvalidRequest(
                f"the beams may hold {told} log-probabilities; at most {self.limits.logprob_values} fit one request: "
                "lower max_tokens, n or logprobs",
                "max_tokens",
            )
        # Enough candidates that `beam_width` of them go on even if every end of every beam is among them.
        self._width = max(2, 1 + len(self._ends)) * self.params.beam_width

    @property
    def step(self) -> SamplingParams:
        """How to ask for one more token of each beam."""
        allowed = self.params.allowed_token_ids
        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            logprobs=max(min(self._width, self.vocab_size), self.params.logprobs or 0),
            logprob_token_ids=sorted({*allowed, *self._ends}) if allowed else None,
        )

    def prompts(self) -> list[list[int]]:
        """What to continue: a prompt for each running beam."""
        return [[*self.prompt_ids, *beam.ids] for beam in self.beams]

    def advance(self, told: Sequence[PositionLogprobs]) -> None:
        """Go on with the likeliest of all continuations of all beams; `told` are those of each beam, in order."""
        self.num_steps += 1
        self.num_computed += len(told)
        width = self.params.beam_width
        found = self._candidates(told)
        self._finish(found[:width])
        self.beams = [beam for beam in found if beam.finish_reason is None][:width]
        if len(self.finished) == width and self.beams:
            self.done = self._score(self.beams[0]) <= self.finished[-1][0]
        self.done |= not self.beams

    def _candidates(self, told: Sequence[PositionLogprobs]) -> list[Beam]:
        """The likeliest continuations of all beams, best first; equal ones in the order of beams and ranks."""
        allowed = self.params.allowed_token_ids
        allowed = None if allowed is None else self._ends.union(allowed)
        tried = [
            (beam.cumulative_logprob + one.logprob, beam, id, one.logprob, position)
            for beam, position in zip(self.beams, told, strict=True)
            for id, one in position.items()
            if allowed is None or id in allowed
        ]
        tried.sort(key=lambda item: item[0], reverse=True)
        is_last = self.num_steps >= self._length
        kept = self.params.logprobs or 0
        return [
            beam.and_then(id, logprob, position, kept, "stop" if id in self._ends else "length" if is_last else None)
            for _, beam, id, logprob, position in tried[: self._width]
        ]

    def _finish(self, found: list[Beam]) -> None:
        self.finished += [(self._score(beam), beam) for beam in found if beam.finish_reason is not None]
        self.finished.sort(key=lambda item: item[0], reverse=True)
        del self.finished[self.params.beam_width :]

    def _score(self, beam: Beam) -> float:
        return beam.cumulative_logprob / len(beam.ids) ** self.params.length_penalty

    def outputs(self, tokenizer: Tokenizer | None) -> list[CompletionOutput]:
        """The finished beams, best first."""
        return [self._output(index, beam, tokenizer) for index, (_, beam) in enumerate(self.finished)]

    def _output(self, index: int, beam: Beam, tokenizer: Tokenizer | None) -> CompletionOutput:
        hides_end = beam.finish_reason == "stop" and not self.params.include_stop_str_in_output
        shown = beam.ids[:-1] if hides_end else beam.ids
        text = ""
        if tokenizer is not None:
            writer = Detokenizer(tokenizer, self.prompt_ids, skip_special_tokens=self.params.skip_special_tokens)
            text = writer.push(shown) + writer.finish()
        return CompletionOutput(
            index,
            text,
            list(beam.ids),
            beam.cumulative_logprob,
            None if self.params.logprobs is None else list(beam.logprobs),
            beam.finish_reason,
        )


@dataclass(frozen=True)
class BeamSearchSequence:
    """One beam as vLLM returns it: `tokens` are prompt and continuation."""

    tokens: list[int]
    text: str | None
    cum_logprob: float
    logprobs: list[PositionLogprobs]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True)
class BeamSearchOutput:
    """The beams of one prompt, best first."""

    sequences: list[BeamSearchSequence]


def as_sequences(search: BeamSearch, tokenizer: Tokenizer | None) -> BeamSearchOutput:
    """A finished search in vLLM's shape."""
    return BeamSearchOutput(
        [
            BeamSearchSequence(
                [*search.prompt_ids, *beam.ids],
                output.text,
                beam.cumulative_logprob,
                list(beam.logprobs),
                beam.finish_reason,
            )
            for output, (_, beam) in zip(search.outputs(tokenizer), search.finished, strict=True)
        ]
    )
