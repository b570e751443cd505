"""EngineCore: the turn. The order of a step is decided here and nowhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from octavo import log
from octavo.engine.executors.executor import DeviceLost, Executor, Mask, Step
from octavo.engine.grammars import Constraints, Nursery
from octavo.errors import InvalidRequest
from octavo.messages import (
    STEP_SECONDS,
    STEP_TOKENS,
    AskTimelines,
    Control,
    SequenceSpec,
    Stats,
    Timelines,
    TokenDelta,
)
from octavo.scheduling.cost import StepCost
from octavo.scheduling.scheduler import Batch, Scheduler
from octavo.scheduling.timeline import Tallier

logger = log.get(__name__)

Clock = Callable[[], float]


class EngineCore:
    """Turns sequences into tokens. Synchronous, single-threaded, no torch.

    `steps_in_flight` 1 waits for each step, 2 schedules one while another computes, stages + 1 fills a pipeline.
    `announce` is told, before each launch, the seconds the turn is expected to block. Raises DeviceLost from `turn`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        steps_in_flight: int = 1,
        clock: Clock = time.monotonic,
        announce: Callable[[float], None] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.steps_in_flight = steps_in_flight
        self.clock = clock
        self.announce = announce
        self.nursery = nursery if nursery is not None else Nursery()  # sequences whose grammars are being built
        scheduler.holds_constrained = steps_in_flight > 2
        self.cost = StepCost()
        self.flying: deque[tuple[Batch, Step, float]] = deque()  # with the time of launch
        self.landed_at = 0.0
        self.outbox: list[TokenDelta] = []
        self.steps = 0
        self.books_wrong = 0
        self.step_tokens = Tallier(STEP_TOKENS)
        self.step_seconds = Tallier(STEP_SECONDS)

    def add(self, specs: Iterable[SequenceSpec]) -> None:
        """Queue sequences, in order; those that can never run are refused with the next turn's deltas."""
        now = self.clock()
        for spec in self.nursery.take(specs):
            refusal = self.scheduler.add(spec, now)
            if refusal is not None:
                self.outbox.append(refusal)
        self._admit_built()

    def abort(self, ids: Iterable[int]) -> None:
        """Forget these sequences; their pages are free at once and no delta follows."""
        now = self.clock()
        for id in ids:
            if self.nursery.drop(id):
                self.scheduler.counts.aborted += 1
            else:
                self.scheduler.abort(id, now)

    def control(self, message: Control) -> Timelines:
        """Change running sequences; what ends by it is told with the next turn's deltas."""
        refused: InvalidRequest | None = None
        try:
            self.outbox += self.scheduler.control(message, self.clock())
        except InvalidRequest as error:
            refused = error
        found = self.scheduler.timelines(message.ids)
        return Timelines(message.number, found, refused and refused.message, refused and refused.field)

    def timelines(self, message: AskTimelines) -> Timelines:
        """What is known of these sequences."""
        return Timelines(message.number, self.scheduler.timelines(message.ids))

    @property
    def has_work(self) -> bool:
        """Whether a turn would do anything."""
        return bool(self.outbox or self.flying or self.scheduler.has_work or self.nursery)

    def turn(self) -> list[TokenDelta]:
        """Launch the next step, land the oldest as far as `steps_in_flight` asks; returns what became known."""
        if self.nursery:
            self._admit_built()
        deltas, self.outbox = self.outbox, []
        now = self.clock()
        batch = self.scheduler.schedule(now)
        if batch is None:
            if self.flying:
                deltas += self.land()
            elif self.scheduler.has_work:
                deltas += self.scheduler.end_stall()
            else:
                self.nursery.wait()
            return deltas
        # All tokens are known when nothing flies: the masks are computed beside the forward pass.
        constraints = self._constraints(batch) if not self.flying else None
        mask = self.nursery.begin_mask(constraints) if constraints else None
        if self.announce is not None:
            self.announce(self.expected_s(batch) * (len(self.flying) + 1))
        try:
            step = self.executor.launch(batch.message)  # forward pass queued on the device
        except DeviceLost:
            raise
        except Exception as error:
            return deltas + self._undo(batch, error)
        while self.flying and len(self.flying) + 1 >= self.steps_in_flight:
            deltas += self.land()  # earlier tokens become known; grammars advance
        try:
            step.sample(mask.result() if mask else self._mask(batch))  # sampling queued behind the forward pass
        except DeviceLost:
            raise
        except Exception as error:
            return deltas + self._undo(batch, error)
        self.flying.append((batch, step, now))
        while len(self.flying) >= self.steps_in_flight:
            deltas += self.land()
        return deltas

    def land(self) -> list[TokenDelta]:
        """Wait for the oldest step in flight and take in its results."""
        batch, step, launched_at = self.flying.popleft()
        try:
            result = step.result()
        except DeviceLost:
            raise
        except Exception as error:
            return self._fail(batch, error)
        now = self.clock()
        took_s = now - max(launched_at, self.landed_at)
        self.cost.learn(batch.num_tokens, took_s)
        self.step_tokens.add(batch.num_tokens)
        self.step_seconds.add(took_s)
        self.landed_at = now
        self.steps += 1
        return self.scheduler.update(batch, result, now)

    def _admit_built(self) -> None:
        """Queue the sequences whose grammars have been built since, and refuse those whose grammars cannot be."""
        for spec, constraint, finish in self.nursery.built():
            refusal = TokenDelta(spec.id, [], finish=finish)
            if finish is None:
                refusal = self.scheduler.add(spec, self.clock(), constraint)
            else:
                self.scheduler.counts.errors += 1
            if refusal is not None:
                self.outbox.append(refusal)

    def _constraints(self, batch: Batch) -> Constraints | None:
        """What each emitting row must match; None when no row must match anything."""
        rows = [
            seq.constraint if seq.epoch == work.epoch else None
            for seq, work in zip(batch.seqs, batch.rows, strict=True)
            if work.emit
        ]
        return rows if any(row is not None for row in rows) else None

    def _mask(self, batch: Batch) -> Mask | None:
        """The masks of a step, now that the tokens before it are known."""
        constraints = self._constraints(batch)
        return self.nursery.mask(constraints) if constraints else None

    def expected_s(self, batch: Batch) -> float:
        """How long a step is expected to take, in seconds."""
        return self.cost.estimate(batch.num_tokens)

    def stats(self) -> Stats:
        """Counters and gauges."""
        scheduler, pools = self.scheduler, self.scheduler.cache.pools
        counts, swapping = scheduler.counts, scheduler.cache.swapping
        return Stats(
            running=len(scheduler.running),
            waiting=len(scheduler.live) - len(scheduler.running) + len(self.nursery),
            pages_total=sum(pool.num_pages for pool in pools),
            pages_free=sum(len(pool.free) for pool in pools),
            pages_cached=sum(pool.num_cached for pool in pools),
            steps=self.steps,
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            generated_tokens=counts.generated_tokens,
            preemptions=counts.preemptions,
            finished=counts.finished,
            aborted=counts.aborted,
            errors=counts.errors,
            late=counts.late,
            books_wrong=self.books_wrong,
            preempted=sum(seq.preemptions > 0 for seq in scheduler.waiting) if counts.preemptions else 0,
            held=len(scheduler.suspects) + sum(map(len, scheduler.followers.values())),
            step_tokens=self.step_tokens.tally,
            step_seconds=self.step_seconds.tally,
            gap_seconds=scheduler.gaps.tally,
            **({} if swapping is None else swapping.counts),
        )

    def check_books(self) -> list[str]:
        """What is wrong with the page books (R12): logged and counted, never fatal. Meant for idle moments."""
        wrong = self.scheduler.check_books()
        if wrong:
            self.books_wrong += 1
            logger.error("the page books do not balance: %s", "; ".join(wrong[:5]))
        return wrong

    def _undo(self, batch: Batch, error: Exception) -> list[TokenDelta]:
        """Fail a step that is not in flight yet, after landing those that are: undoing it would make them stale."""
        deltas: list[TokenDelta] = []
        while self.flying:
            deltas += self.land()
        return deltas + self._fail(batch, error)

    def _fail(self, batch: Batch, error: Exception) -> list[TokenDelta]:
        logger.error("a step of %d rows failed: %s", len(batch.rows), error, exc_info=error)
        return self.scheduler.fail(batch, f"the engine failed while computing this request ({type(error).__name__})")
