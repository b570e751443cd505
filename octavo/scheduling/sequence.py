"""Sequence: one stream of token ids the engine extends, as the core knows it: confirmed tokens, counts and pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.errors import InvalidRequest
from octavo.messages import Finish, Logprobs, SequenceSpec, Timeline, Timing, unpack_ids
from octavo.scheduling.timeline import EventLog

LENGTH = Finish("length")
WHOLE = Finish("stop", is_whole=True)


class Constraint(Protocol):
    """What a sequence's output must match (grammar/masks.py)."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""
        ...

    def fill(self, row: NDArray[np.int32]) -> None:
        """Set the bits of the tokens that may come next in a row of a mask, clear all others."""
        ...

    def accept(self, token: int, ends: bool) -> str | None:
        """Go on with a token, or end with it; an error's line when that is not possible."""
        ...


class Status(Enum):
    """Where a sequence is. HELD ones wait for another sequence: a follower for its leader, a suspect for its turn."""

    WAITING = 0
    HELD = 1
    RUNNING = 2
    ENDED = 3


@dataclass(slots=True, eq=False)
class Sequence:
    """One stream of tokens. The core counts, the worker owns the values that are not confirmed yet.

        0 ......... computed ......... reached ......... len(tokens) ......... expected ......... limit
          confirmed          in flight                    known                 will exist

    A step may be launched on a token whose value only the worker knows, hence `reached` may pass len(tokens).
    """

    id: int
    spec: SequenceSpec
    tokens: list[int]  # prompt and output, confirmed
    prompt_len: int
    limit: int  # tokens at which it ends by length
    stops: frozenset[int]
    min_tokens: int
    arrival: int  # order of arrival
    arrived: float  # seconds
    urgency: tuple[int, ...] = ()
    status: Status = Status.WAITING
    epoch: int = 0  # raised when a life ends, so that results still in flight are recognized as stale
    computed: int = 0  # positions whose KV is confirmed
    reached: int = 0  # positions computed or in flight
    expected: int = 0  # tokens known or about to be sampled by a step in flight
    pages: list[list[int]] = field(default_factory=list)  # per cache group; NO_PAGE where the window has passed
    capacity: int = 0  # positions that `pages` hold in every group
    keys: list[bytes] = field(default_factory=list)  # of its full pages, as far as they were needed
    published: int = 0  # pages that are findable
    commit_at: int = 0  # `computed` from which there is something to publish or to release
    behind: list[int] = field(default_factory=list)  # per cache group, pages the window has passed
    is_arriving: bool = False  # its pages are on their way to the device; its first step is a later one
    swapped: list[list[int]] = field(default_factory=list)  # per cache group, host pages kept for its return
    family: int | None = None  # the leader's id, for leaders with followers and for followers
    cached: int = 0  # prompt tokens that needed no computing when it was first admitted
    prompt_logprobs: Logprobs | None = None  # gathered until the first token
    scored: int = 0  # prompt tokens whose log-probabilities are gathered or told
    probation: int = 0  # tokens to emit, after a failed step, until it is trusted again
    preemptions: int = 0
    preempted_at: int = -1  # how many sequences had ended when it was preempted last
    admitted: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    log: EventLog = field(default_factory=EventLog)
    waits_at: dict[str, float] = field(default_factory=dict)  # reading of the WaitClock when it began to wait
    passed_at: int = 0  # admissions until then
    stalled: int = 0  # steps that had no share for it
    constraint: Constraint | None = None

    @property
    def owes_prompt_logprobs(self) -> bool:
        """Whether logits at prompt positions are still needed, so that those positions must be computed."""
        return self.spec.sampling.prompt_logprobs is not None and self.scored < self.prompt_len - 1

    @property
    def needs_every_position(self) -> bool:
        """Whether its prompt must be computed from the beginning, whatever is cached."""
        pooling = self.spec.pooling
        skips_cache = self.spec.sampling.skip_reading_prefix_cache
        return skips_cache or self.owes_prompt_logprobs or (pooling is not None and pooling.every_position)

    @property
    def timing(self) -> Timing:
        """When things happened to it; what has not happened yet reads as its arrival."""
        admitted = self.arrived if self.admitted is None else self.admitted
        first = admitted if self.first_token is None else self.first_token
        return Timing(self.arrived, admitted, first, self.preemptions)

    def timeline(self, ahead: int = 0) -> Timeline:
        """Its story so far."""
        generated = len(self.tokens) - self.prompt_len
        state = self.status.name.lower()
        bound = self.limit - self.prompt_len
        return Timeline(self.id, state, self.prompt_len, generated, bound, self.log.events, self.stalled, ahead)

    def accept(self, token: int) -> Finish | None:
        """Append a sampled token; returns why the sequence ends with it, if it does."""
        self.tokens.append(token)
        length = len(self.tokens)
        ends = token in self.stops and length - self.prompt_len > self.min_tokens
        if self.constraint is not None:
            error = self.constraint.accept(token, ends)
            if error is not None:
                return Finish("error", message=error, field="structured_outputs")
        if ends:
            return Finish("stop", None if token in self.spec.eos else token)
        if self.constraint is not None and self.constraint.is_finished:
            return WHOLE
        return LENGTH if length >= self.limit else None

    def score_prompt(self, upto: int, scores: Logprobs) -> None:
        """Gather log-probabilities of the prompt tokens that end before position `upto`, but none a second time."""
        last = min(upto, self.prompt_len - 1)
        known = max(0, self.scored - (last - len(scores.ids)))
        self.scored = max(self.scored, last)
        fresh = Logprobs(scores.ids[known:], scores.values[known:], scores.ranks[known:])
        if self.prompt_logprobs is None:
            self.prompt_logprobs = fresh
        else:
            self.prompt_logprobs.extend(fresh)

    def restart(self) -> None:
        """Begin a new life in which everything known is computed again. Its pages must have been released."""
        self.epoch += 1
        self.computed = self.reached = self.capacity = self.published = self.commit_at = 0
        self.expected = len(self.tokens)
        self.is_arriving = False


def make_sequence(spec: SequenceSpec, arrival: int, arrived: float, max_model_len: int) -> Sequence:
    """The sequence a spec asks for, of at most `max_model_len` tokens; raises InvalidRequest if its ids are cut."""
    if len(spec.tokens) % 4:
        raise InvalidRequest(f"token ids take 4 bytes each, got {len(spec.tokens)} bytes", "prompt")
    tokens = unpack_ids(spec.tokens)
    return Sequence(
        id=spec.id,
        spec=spec,
        tokens=tokens,
        prompt_len=len(tokens),
        limit=len(tokens) + 1 if spec.pooling is not None else min(len(tokens) + spec.max_tokens, max_model_len),
        stops=frozenset(spec.eos) | frozenset(spec.sampling.stop_token_ids or ()),
        min_tokens=spec.sampling.min_tokens,
        arrival=arrival,
        arrived=arrived,
        expected=len(tokens),
        family=spec.leader,
    )
