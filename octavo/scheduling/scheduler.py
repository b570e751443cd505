"""Scheduler: what each step computes, within one budget of tokens, and what becomes of its results. Counts only."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter

from octavo.errors import InvalidRequest, StartupError
from octavo.messages import (
    BatchMessage,
    Finish,
    NewRow,
    RowResult,
    RowWork,
    SequenceSpec,
    StepResult,
    TokenDelta,
    pack_ids,
)
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.policy import Policy
from octavo.scheduling.sequence import Sequence, Status, make_sequence

# Tokens: recomputation after a failed step emits the first, and a step like the one that failed the second.
PROBATION = 2
BY_URGENCY = attrgetter("urgency")


@dataclass
class Batch:
    """One step: its rows with their sequences, and ids whose worker rows may be dropped first."""

    seqs: list[Sequence]
    rows: list[RowWork]
    gone: list[int] = field(default_factory=list)

    @property
    def message(self) -> BatchMessage:
        """What the workers get."""
        return BatchMessage(self.rows, self.gone)

    @property
    def num_tokens(self) -> int:
        """T, the tokens computed in this step."""
        return sum(row.num_tokens for row in self.rows)


@dataclass
class Counts:
    """What happened since the start; the names are those of messages.Stats."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    aborted: int = 0
    errors: int = 0
    late: int = 0


class Scheduler:
    """Chooses each step's rows: running ones first, then admissions, in the policy's order.

    A sequence that does not find pages preempts the least urgent one, which gives up its pages and is computed again
    later. After a failed step its sequences are tried again one at a time, so that one that breaks every step it is in
    takes no other with it.
    """

    def __init__(
        self,
        cache: CacheManager,
        policy: Policy,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
    ) -> None:
        for name, value in (("max_num_seqs", max_num_seqs), ("max_num_batched_tokens", max_num_batched_tokens)):
            if value < 1:
                raise StartupError(f"{name} must be at least 1, got {value}", name)
        self.cache = cache
        self.policy = policy
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        self.max_chunk = min(max_num_batched_tokens, cache.max_chunk)
        self.live: dict[int, Sequence] = {}
        self.running: dict[int, Sequence] = {}  # in order of admission
        self.waiting: list[Sequence] = []  # most urgent first
        self.followers: dict[int, list[Sequence]] = {}  # by leader, until its prompt is computed
        self.suspects: deque[Sequence] = deque()  # to be tried again, one at a time
        self.suspect: Sequence | None = None  # the one being tried
        self.gone: list[int] = []
        self.arrivals = 0
        self.ends = 0
        self.counts = Counts()

    # The four things that are asked of a scheduler.

    def add(self, spec: SequenceSpec, now: float) -> TokenDelta | None:
        """Queue a sequence; one that can never run is refused by the returned delta. A known id is ignored."""
        if spec.id in self.live:
            self.counts.late += 1
            return None
        try:
            seq = self._check(make_sequence(spec, self.arrivals, now, self.max_model_len))
        except InvalidRequest as error:
            self.counts.errors += 1
            return TokenDelta(spec.id, [], finish=Finish("error", message=error.message, field=error.field))
        self.arrivals += 1
        seq.urgency = self.policy.urgency(seq, now)
        self.live[seq.id] = seq
        self.counts.prompt_tokens += seq.prompt_len
        leader = self.live.get(spec.leader) if spec.leader is not None else None
        if leader is not None and leader is not seq:
            leader.family = leader.id
        if leader is not None and leader is not seq and leader.computed < leader.prompt_len:
            seq.status = Status.HELD
            self.followers.setdefault(leader.id, []).append(seq)
        else:
            self._wait(seq)
        return None

    def abort(self, id: int) -> None:
        """Forget a sequence at whatever phase it is. Its pages are free at once; an unknown id is counted."""
        seq = self.live.get(id)
        if seq is None:
            self.counts.late += 1
            return
        self.counts.aborted += 1
        self._end(seq)

    def schedule(self, now: float) -> Batch | None:
        """The next step, or None if there is nothing to launch now."""
        batch = Batch([], [])
        preemptions = self.counts.preemptions
        budget = self._run(batch)
        if self.counts.preemptions == preemptions and budget:
            self._admit(batch, budget, now)
        if not batch.rows:
            return None
        batch.gone, self.gone = self.gone, []
        return batch

    def update(self, batch: Batch, result: StepResult, now: float) -> list[TokenDelta]:
        """Take in what a step produced; returns what is new for each sequence. Stale results are ignored."""
        deltas = []
        for seq, work, row in zip(batch.seqs, batch.rows, self._match(batch, result), strict=True):
            if seq.epoch != work.epoch:  # ended or preempted since
                continue
            if row.error is not None or len(row.tokens) != work.emit:
                surplus = f"the worker sampled {len(row.tokens)} tokens, not {work.emit:d}"
                deltas.append(self._fail(seq, row.error or surplus))
                continue
            seq.computed += work.num_tokens
            if row.prompt_logprobs is not None:
                seq.score_prompt(seq.computed, row.prompt_logprobs)
            delta = self._emit(seq, row, now) if work.emit else None
            if seq.computed >= seq.commit_at:
                self.cache.commit(seq)
            if delta is not None:
                deltas.append(delta)
                if delta.finish is not None:
                    self.counts.finished += 1
                    self._end(seq)
            if seq.id in self.followers and seq.computed >= seq.prompt_len:
                self._release_followers(seq.id)
        return deltas

    # What failure and idleness ask of it.

    def fail(self, batch: Batch, reason: str) -> list[TokenDelta]:
        """A step produced nothing: its sequences are tried again one at a time, or ended if that was such a trial."""
        deltas = []
        # The workers may not have read them; but those that run now have been admitted again, behind this step.
        self.gone += [id for id in batch.gone if id not in self.running]
        for seq, work in zip(batch.seqs, batch.rows, strict=True):
            if seq.epoch != work.epoch:
                continue
            if seq.probation:
                self.cache.discard(seq)
                deltas.append(self._fail(seq, reason))
                continue
            del self.running[seq.id]
            self.cache.discard(seq)
            self._restart(seq)
            seq.probation = PROBATION
            seq.status = Status.HELD
            self.suspects.append(seq)
        self._try_suspect()
        return deltas

    def end_stall(self) -> list[TokenDelta]:
        """Fail the most urgent sequence: nothing is in flight and nothing can be launched, which must not happen."""
        seq = min(self.live.values(), key=BY_URGENCY)
        return [self._fail(seq, "the scheduler found no way to run this sequence; please report this")]

    @property
    def has_work(self) -> bool:
        """Whether a sequence lives."""
        return bool(self.live)

    def check_books(self) -> list[str]:
        """What is wrong with pages and places (R12); empty when all is well."""
        wrong = self.cache.check(list(self.live.values()))
        places = len(self.running) + len(self.waiting) + len(self.suspects) + sum(map(len, self.followers.values()))
        if places != len(self.live):
            wrong.append(f"{len(self.live)} sequences live but {places} have a place")
        if len(self.running) > self.max_num_seqs:
            wrong.append(f"{len(self.running)} sequences run, more than max_num_seqs={self.max_num_seqs}")
        for seq in self.live.values():
            runs = seq.status is Status.RUNNING
            if runs != (seq.id in self.running) or runs != bool(seq.pages):
                wrong.append(f"sequence {seq.id} is {seq.status.name} with {len(seq.pages)} page tables")
            if not seq.computed <= seq.reached <= seq.capacity or seq.reached > seq.expected:
                wrong.append(f"sequence {seq.id}: {seq.computed=} {seq.reached=} {seq.capacity=} {seq.expected=}")
        return wrong

    # Choosing rows.

    def _run(self, batch: Batch) -> int:
        """Give running sequences their share of the step; returns the budget that is left."""
        budget = self.max_num_batched_tokens
        rows, seqs, no_pages, chunk = batch.rows, batch.seqs, self.cache.no_pages, self.max_chunk
        for seq in list(self.running.values()):
            if not budget:
                break
            if seq.expected >= seq.limit or seq.status is not Status.RUNNING:
                continue
            num_tokens = min(seq.expected - seq.reached, budget, chunk)
            if not num_tokens:
                continue
            end = seq.reached + num_tokens
            pages: list[list[int]] | None = no_pages
            if end > seq.capacity:
                before = len(rows)
                pages = self._make_room(seq, end, batch)
                if len(rows) != before:  # rows were withdrawn
                    budget = self.max_num_batched_tokens - batch.num_tokens
                if pages is None:
                    continue
            emit = end == seq.expected
            rows.append(RowWork(seq.id, seq.epoch, num_tokens, emit, pages))
            seqs.append(seq)
            seq.reached = end
            if emit:
                seq.expected += 1
            budget -= num_tokens
        return budget

    def _make_room(self, seq: Sequence, upto: int, batch: Batch) -> list[list[int]] | None:
        """New pages for a running sequence, at the cost of less urgent ones; None if it has to wait."""
        while (pages := self.cache.reserve(seq, upto)) is None:
            if self.cache.has_windows and seq.reached > seq.computed:
                return None  # steps in flight hold pages that its window will pass
            victim = max(self.running.values(), key=BY_URGENCY)
            self._preempt(victim, batch)
            if victim is seq:
                return None
        return pages

    def _admit(self, batch: Batch, budget: int, now: float) -> None:
        """Start waiting sequences, strictly in order, while rows, pages and budget last."""
        while self.waiting and budget:
            seq = self.waiting[0]
            if seq.preempted_at == self.ends and self.running:
                return  # what took its pages still runs: it would only be preempted again
            chunk = min(budget, self.max_chunk)
            preemptions = self.counts.preemptions
            while len(self.running) >= self.max_num_seqs or not self.cache.admit(seq, chunk, not self.running):
                if not self._displace(seq, batch):
                    return
            self.waiting.pop(0)
            self._start(seq, now)
            num_tokens = min(chunk, seq.expected - seq.reached)
            seq.reached += num_tokens
            emit = seq.reached == seq.expected
            new = NewRow(seq.spec, pack_ids(seq.tokens), seq.computed)
            pages = [list(table) for table in seq.pages]
            batch.rows.append(RowWork(seq.id, seq.epoch, num_tokens, emit, pages, new))
            batch.seqs.append(seq)
            seq.expected += emit
            budget -= num_tokens
            if self.counts.preemptions != preemptions:  # what gave way is not put back in the same step
                return

    def _start(self, seq: Sequence, now: float) -> None:
        seq.status = Status.RUNNING
        self.running[seq.id] = seq
        if seq.admitted is None:
            seq.admitted = now
            seq.cached = min(seq.computed, seq.prompt_len)
            self.counts.cached_tokens += seq.cached

    def _displace(self, seq: Sequence, batch: Batch) -> bool:
        """Preempt the least urgent running sequence if the policy lets `seq` take its place."""
        victim = max(self.running.values(), key=BY_URGENCY, default=None)
        if victim is None or not self.policy.displaces(seq, victim):
            return False
        self._preempt(victim, batch)
        return True

    def _preempt(self, seq: Sequence, batch: Batch) -> None:
        """Take back a running sequence's pages, its row, and its share of `batch`; it waits to be computed again."""
        if seq in batch.seqs:
            i = batch.seqs.index(seq)
            del batch.seqs[i], batch.rows[i]
        del self.running[seq.id]
        self.cache.release(seq)
        self._restart(seq)
        seq.preemptions += 1
        seq.preempted_at = self.ends
        self.counts.preemptions += 1
        self._wait(seq)

    # Results.

    def _match(self, batch: Batch, result: StepResult) -> list[RowResult]:
        """The results in the order of the batch; what does not belong to it is counted, what is missing is an error."""
        rows, works = result.rows, batch.rows
        if len(rows) == len(works):
            for work, row in zip(works, rows, strict=True):
                if row.id != work.id or row.epoch != work.epoch:
                    break
            else:
                return rows
        given = {(row.id, row.epoch): row for row in reversed(rows)}
        missing = "the worker returned no result for this sequence"
        keys = [(work.id, work.epoch) for work in works]
        matched = [given.pop(key, None) or RowResult(*key, [], error=missing) for key in keys]
        self.counts.late += len(rows) - sum(row.error is not missing for row in matched)
        return matched

    def _emit(self, seq: Sequence, row: RowResult, now: float) -> TokenDelta:
        """The delta for a token that was sampled."""
        finish = seq.accept(row.tokens[0])
        self.counts.generated_tokens += 1
        if seq.probation:
            seq.probation -= 1
            if not seq.probation:
                self._try_suspect()
        delta = TokenDelta(seq.id, row.tokens, row.logprobs, None, finish)
        if seq.first_token is None:
            seq.first_token = now
            delta.prompt_logprobs, seq.prompt_logprobs = seq.prompt_logprobs, None
            delta.cached = seq.cached
            delta.timing = seq.timing
        elif finish is not None:
            delta.timing = seq.timing
        return delta

    # Places. Every live sequence has exactly one.

    def _check(self, seq: Sequence) -> Sequence:
        """The sequence, if it can run; raises InvalidRequest."""
        if not seq.tokens:
            raise InvalidRequest("the prompt has no tokens; give at least one", "prompt")
        if seq.prompt_len >= self.max_model_len:
            raise InvalidRequest(
                f"the prompt has {seq.prompt_len} tokens, which leaves no room to answer within "
                f"max_model_len={self.max_model_len}; shorten it",
                "prompt",
            )
        if seq.spec.max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, got {seq.spec.max_tokens}", "max_tokens")
        self.cache.check_fits(seq)
        return seq

    def _wait(self, seq: Sequence) -> None:
        seq.status = Status.WAITING
        insort(self.waiting, seq, key=BY_URGENCY)

    def _restart(self, seq: Sequence) -> None:
        seq.restart()
        self.gone.append(seq.id)

    def _fail(self, seq: Sequence, reason: str) -> TokenDelta:
        """End a sequence by an error of its own or of its step."""
        self.counts.errors += 1
        self._end(seq)
        return TokenDelta(seq.id, [], finish=Finish("error", message=reason), timing=seq.timing)

    def _end(self, seq: Sequence) -> None:
        """Take a sequence out of wherever it is."""
        if seq.status is Status.RUNNING:
            del self.running[seq.id]
            self.cache.release(seq)
            self.gone.append(seq.id)
        elif seq.status is Status.WAITING:
            del self.waiting[bisect_left(self.waiting, seq.urgency, key=BY_URGENCY)]
        elif seq in self.suspects:
            self.suspects.remove(seq)
        elif seq.spec.leader is not None:
            self.followers[seq.spec.leader].remove(seq)
        seq.status = Status.ENDED
        seq.epoch += 1
        self.ends += 1
        del self.live[seq.id]
        self._release_followers(seq.id)
        if seq is self.suspect:
            self._try_suspect()

    def _release_followers(self, leader: int) -> None:
        for seq in self.followers.pop(leader, ()):
            self._wait(seq)

    def _try_suspect(self) -> None:
        """Let the next suspect run if the one before it has been cleared or has ended."""
        current = self.suspect
        if current is not None and current.probation and current.status is not Status.ENDED:
            return
        self.suspect = self.suspects.popleft() if self.suspects else None
        if self.suspect is not None:
            self._wait(self.suspect)
