"""Scheduler: what each step computes, within one budget of tokens, and what becomes of its results. Counts only."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter

import msgspec

from octavo.errors import InvalidRequest, StartupError
from octavo.messages import (
    GAP_SECONDS,
    BatchMessage,
    Control,
    Finish,
    Moves,
    NewRow,
    RowResult,
    RowWork,
    SequenceSpec,
    StepResult,
    Timeline,
    TokenDelta,
    pack_ids,
)
from octavo.scheduling.admission import Admission
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.policy import Policy
from octavo.scheduling.sequence import LENGTH, Constraint, Sequence, Status, make_sequence
from octavo.scheduling.swapping import Swapping
from octavo.scheduling.timeline import History, Tallier, WaitClock

# Tokens: recomputation after a failed step emits the first, and a step like the one that failed the second.
PROBATION = 2
BY_URGENCY = attrgetter("urgency")


@dataclass
class Batch:
    """One step: its rows with their sequences, and ids whose worker rows may be dropped first."""

    seqs: list[Sequence]
    rows: list[RowWork]
    gone: list[int] = field(default_factory=list)
    moves: Moves | None = None

    @property
    def message(self) -> BatchMessage:
        """What the workers get."""
        return BatchMessage(self.rows, self.gone, self.moves)

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
    later, but for what the cache knows or the host keeps of it. After a failed step its sequences are tried again one
    at a time, so that one that breaks every step it is in takes no other with it.
    """

    def __init__(
        self,
        cache: CacheManager,
        policy: Policy,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        whole_prompts: bool = False,
    ) -> None:
        for name, value in (("max_num_seqs", max_num_seqs), ("max_num_batched_tokens", max_num_batched_tokens)):
            if value < 1:
                raise StartupError(f"{name} must be at least 1, got {value}", name)
        self.cache = cache
        self.policy = policy
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_model_len = max_model_len
        self.whole_prompts = whole_prompts  # a prompt is computed in one step or not at all
        self.max_chunk = min(max_num_batched_tokens, cache.max_chunk)
        self.admission: Admission | None = None  # what is asked of sequences besides fitting
        self.holds_constrained = False  # until the token before is known, without which there is no mask
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
        self.now = 0.0  # seconds, when it was asked something last
        self.steps = 0  # batches made
        self.admissions = 0
        self.waits = WaitClock()
        self.gaps = Tallier(GAP_SECONDS)
        self.history = History()

    # The four things that are asked of a scheduler.

    def add(self, spec: SequenceSpec, now: float, constraint: Constraint | None = None) -> TokenDelta | None:
        """Queue a sequence; one that can never run is refused by the returned delta. A known id is ignored."""
        self.now = now
        if spec.id in self.live:
            self.counts.late += 1
            return None
        try:
            seq = self._check(make_sequence(spec, self.arrivals, now, self.max_model_len))
        except InvalidRequest as error:
            self.counts.errors += 1
            return TokenDelta(spec.id, [], finish=Finish("error", message=error.message, field=error.field))
        except MemoryError:  # nothing has changed yet: it ends alone (R26)
            self.counts.errors += 1
            return TokenDelta(spec.id, [], finish=Finish("error", message="there is no memory for this request"))
        seq.constraint = constraint
        self.arrivals += 1
        seq.urgency = self.policy.urgency(seq, now)
        self.live[seq.id] = seq
        self.counts.prompt_tokens += seq.prompt_len
        leader = self.live.get(spec.leader) if spec.leader is not None else None
        if leader is not None and leader is not seq:
            leader.family = leader.id
        if leader is not None and leader is not seq and leader.computed < leader.prompt_len:
            seq.status = Status.HELD
            seq.log.add(now, "held", self.steps, reason="leader")
            self.followers.setdefault(leader.id, []).append(seq)
        else:
            self._wait(seq)
        return None

    def abort(self, id: int, now: float | None = None) -> None:
        """Forget a sequence at whatever phase it is. Its pages are free at once; an unknown id is counted."""
        self.now = self.now if now is None else now
        seq = self.live.get(id)
        if seq is None:
            self.counts.late += 1
            return
        self.counts.aborted += 1
        self._end(seq, "abort")

    def schedule(self, now: float) -> Batch | None:
        """The next step, or None if there is nothing to launch now."""
        self.now = now
        self.waits.tick(now)
        batch = Batch([], [])
        preemptions = self.counts.preemptions
        budget = self._run(batch)
        if self.counts.preemptions != preemptions:
            self.waits.reason = "pages"
        elif not budget:
            self.waits.reason = "budget"
        else:
            self.waits.reason = self._admit(batch, budget, now)
        if not batch.rows and any(seq.is_arriving for seq in self.running.values()):
            self._run(batch)  # there is no other step that their pages could arrive beside
        if not batch.rows:
            return None
        self.steps += 1
        batch.gone, self.gone = self.gone, []
        if self.cache.swapping is not None:
            batch.moves = self.cache.swapping.take()
        return batch

    def update(self, batch: Batch, result: StepResult, now: float) -> list[TokenDelta]:
        """Take in what a step produced; returns what is new for each sequence. Stale results are ignored."""
        self.now = now
        if self.cache.swapping is not None:
            self._land_moves(self.cache.swapping, batch, result)
        told: dict[float, int] = {}  # how many sequences had their last token when
        deltas = []
        for seq, work, row in zip(batch.seqs, batch.rows, self._match(batch, result), strict=True):
            if seq.epoch != work.epoch:  # ended or preempted since
                continue
            if row.error is not None or len(row.tokens) != work.emit:
                deltas.append(self._end_without_token(seq, work, row))
                continue
            seq.computed += work.num_tokens
            if row.prompt_logprobs is not None:
                seq.score_prompt(seq.computed, row.prompt_logprobs)
            if work.emit and seq.first_token is not None:
                told[seq.last_token] = told.get(seq.last_token, 0) + 1
            delta = self._emit(seq, row, now) if work.emit else None
            if seq.computed >= seq.commit_at:
                self.cache.commit(seq)
            if delta is not None:
                deltas.append(delta)
                if delta.finish is not None:
                    self.counts.finished += delta.finish.reason != "error"
                    self.counts.errors += delta.finish.reason == "error"
                    self._end(seq, delta.finish.reason)
            if seq.id in self.followers and seq.computed >= seq.prompt_len:
                self._release_followers(seq.id)
        for then, times in told.items():
            self.gaps.add(now - then, times)
        return deltas

    def _land_moves(self, swapping: Swapping, batch: Batch, result: StepResult) -> None:
        if batch.moves is not None:
            swapping.land(batch.moves)
        if result.moved is not None:
            swapping.link.learn(result.moved)

    # What people ask of it.

    def control(self, message: Control, now: float) -> list[TokenDelta]:
        """Change running sequences; returns the ends this brings. InvalidRequest, and nothing changes, if it cannot be.

        A new `max_tokens` that is reached already ends a sequence with what it has.
        """
        self.now = now
        seqs = [self.live[id] for id in message.ids if id in self.live]
        if message.cancel:
            return [self._finish(seq, Finish("abort")) for seq in seqs]
        deltas = [] if message.max_tokens is None else self._bound(seqs, message.max_tokens)
        if message.thinking is not None:
            for seq in seqs:
                if seq.status is not Status.ENDED:
                    self._respecify(seq, msgspec.structs.replace(seq.spec, thinking=message.thinking))
        return deltas

    def _respecify(self, seq: Sequence, spec: SequenceSpec) -> None:
        """Let a sequence go on under another spec: a running one begins a new life, as after a preemption."""
        seq.spec = spec
        seq.log.add(self.now, "control", self.steps, reason="end_thinking")
        if seq.status is Status.RUNNING:
            del self.running[seq.id]
            self.cache.release(seq)
            self._restart(seq)
            self._wait(seq)

    def _bound(self, seqs: list[Sequence], max_tokens: int) -> list[TokenDelta]:
        """Give sequences a new `max_tokens`; returns the ends this brings."""
        old = [seq.limit for seq in seqs]
        try:
            for seq in seqs:
                seq.limit = min(seq.prompt_len + max_tokens, self.max_model_len)
                self.cache.check_fits(seq)
        except InvalidRequest:
            for seq, limit in zip(seqs, old, strict=False):
                seq.limit = limit
            raise
        deltas = []
        for seq in seqs:
            seq.log.add(self.now, "control", self.steps, max_tokens, reason="max_tokens")
            if len(seq.tokens) >= seq.limit:
                deltas.append(self._finish(seq, LENGTH))
        return deltas

    def timelines(self, ids: list[int]) -> list[Timeline]:
        """What is known of these sequences; those that nobody remembers are left out."""
        found = []
        for id in ids:
            seq = self.live.get(id)
            if seq is not None:
                found.append(seq.timeline(self._ahead(seq) if seq.status is Status.WAITING else 0))
            elif id in self.history.timelines:
                found.append(self.history.timelines[id])
        return found

    def _ahead(self, seq: Sequence) -> int:
        """Waiting sequences that are more urgent."""
        return bisect_left(self.waiting, seq.urgency, key=BY_URGENCY)

    def _end_without_token(self, seq: Sequence, work: RowWork, row: RowResult) -> TokenDelta:
        """The last delta of a row that was not given the token it was launched for: it was pooled, or has failed."""
        if row.error is not None or row.pooled is None or seq.spec.pooling is None or not work.emit:
            surplus = f"the worker sampled {len(row.tokens)} tokens, not {work.emit:d}"
            return self._fail(seq, row.error or surplus, row.field)
        seq.computed += work.num_tokens
        if seq.computed >= seq.commit_at:
            self.cache.commit(seq)
        delta = self._finish(seq, Finish("stop"))
        delta.pooled, delta.cached = row.pooled, seq.cached
        return delta

    def _finish(self, seq: Sequence, finish: Finish) -> TokenDelta:
        """End a sequence between two steps, with what it has."""
        if finish.reason == "abort":
            self.counts.aborted += 1
        else:
            self.counts.finished += 1
        self._end(seq, finish.reason)
        return TokenDelta(seq.id, [], finish=finish, timing=seq.timing)

    # What failure and idleness ask of it.

    def fail(self, batch: Batch, reason: str) -> list[TokenDelta]:
        """A step produced nothing: its sequences are tried again one at a time, or ended if that was such a trial."""
        deltas = []
        if batch.moves is not None:
            self._lose_moves(batch)
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
            seq.log.add(self.now, "failed_step", self.steps)
            seq.log.add(self.now, "held", self.steps, reason="retry")
            self.suspects.append(seq)
        self._try_suspect()
        return deltas

    def _lose_moves(self, batch: Batch) -> None:
        """Nobody may read what a failed step was to copy: who holds it, beside the step's own rows, begins anew."""
        assert self.cache.swapping is not None
        poisoned = self.cache.swapping.lose(self.live.values())
        for pool, pages in zip(self.cache.pools, poisoned, strict=True):
            for page in pages:
                pool.unpublish(page)
        own = {seq.id for seq, work in zip(batch.seqs, batch.rows, strict=True) if seq.epoch == work.epoch}
        for seq in list(self.running.values()):
            reads = any(not lost.isdisjoint(table) for lost, table in zip(poisoned, seq.pages, strict=True))
            if reads and seq.id not in own:
                del self.running[seq.id]
                self.cache.release(seq)
                self._restart(seq)
                self._wait(seq)

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
        running = iter(list(self.running.values()))
        for seq in running:
            if not budget:
                for starved in (seq, *running):
                    starved.stalled += 1
                break
            if seq.expected >= seq.limit or seq.status is not Status.RUNNING:
                continue
            if self.holds_constrained and seq.constraint is not None and seq.expected > len(seq.tokens):
                continue
            num_tokens = min(seq.expected - seq.reached, budget, chunk)
            if not num_tokens:
                continue
            end = seq.reached + num_tokens
            new = None
            pages: list[list[int]] | None = no_pages
            if end > seq.capacity:
                before = len(rows)
                pages = self._make_room(seq, end, batch)
                if len(rows) != before:  # rows were withdrawn
                    budget = self.max_num_batched_tokens - batch.num_tokens
                if pages is None:
                    seq.stalled += 1
                    continue
            if seq.is_arriving:
                seq.is_arriving = False
                new = NewRow(seq.spec, pack_ids(seq.tokens), seq.computed)
                pages = [list(table) for table in seq.pages]
            emit = end == seq.expected
            rows.append(RowWork(seq.id, seq.epoch, num_tokens, emit, pages, new))
            seqs.append(seq)
            seq.reached = end
            if emit:
                seq.expected += 1
            if num_tokens > 1 or not emit or end == seq.prompt_len:
                seq.log.add(self.now, "chunk", self.steps, num_tokens)
            budget -= num_tokens
        return budget

    def _make_room(self, seq: Sequence, upto: int, batch: Batch) -> list[list[int]] | None:
        """New pages for a running sequence, at the cost of less urgent ones; None if it has to wait."""
        while (pages := self.cache.reserve(seq, upto)) is None:
            if self.cache.has_windows and seq.reached > seq.computed:
                return None  # steps in flight hold pages that its window will pass
            victim = max(self.running.values(), key=BY_URGENCY)
            self._preempt(victim, batch, "pages")
            if victim is seq:
                return None
        return pages

    def _admit(self, batch: Batch, budget: int, now: float) -> str:
        """Start waiting sequences, strictly in order, while rows, pages and budget last; returns what the rest lack."""
        while self.waiting and budget:
            seq = self.waiting[0]
            if seq.preempted_at == self.ends and self.running:
                return "pause"  # what took its pages still runs: it would only be preempted again
            if self.whole_prompts and len(seq.tokens) > budget:
                return "budget"
            chunk = min(budget, self.max_chunk)
            preemptions = self.counts.preemptions
            while (full := len(self.running) >= self.max_num_seqs) or not self.cache.admit(
                seq, chunk, not self.running
            ):
                if not self._displace(seq, batch):
                    return "rows" if full else "pages"
            self.waiting.pop(0)
            self._start(seq, now)
            if seq.is_arriving and batch.rows:  # its pages come beside this step, so that it waits for nothing
                if self.counts.preemptions != preemptions:
                    return "pause"
                continue
            seq.is_arriving = False
            num_tokens = min(chunk, seq.expected - seq.reached)
            seq.reached += num_tokens
            emit = seq.reached == seq.expected
            new = NewRow(seq.spec, pack_ids(seq.tokens), seq.computed)
            pages = [list(table) for table in seq.pages]
            batch.rows.append(RowWork(seq.id, seq.epoch, num_tokens, emit, pages, new))
            batch.seqs.append(seq)
            seq.expected += emit
            seq.log.add(now, "chunk", self.steps, num_tokens)
            budget -= num_tokens
            if self.counts.preemptions != preemptions:  # what gave way is not put back in the same step
                return "pause"
        return "budget" if self.waiting else "step"

    def _start(self, seq: Sequence, now: float) -> None:
        seq.status = Status.RUNNING
        self.running[seq.id] = seq
        waits = self.waits.between(seq.waits_at, now)
        seq.log.add(now, "admitted", self.steps, seq.computed, self.admissions - seq.passed_at, waits=waits)
        self.admissions += 1
        if seq.is_arriving:
            seq.log.add(now, "swapped_in", self.steps, seq.computed)
        if seq.admitted is None:
            seq.admitted = now
            seq.cached = min(seq.computed, seq.prompt_len)
            self.counts.cached_tokens += seq.cached

    def _displace(self, seq: Sequence, batch: Batch) -> bool:
        """Preempt the least urgent running sequence if the policy lets `seq` take its place."""
        victim = max(self.running.values(), key=BY_URGENCY, default=None)
        if victim is None or not self.policy.displaces(seq, victim):
            return False
        self._preempt(victim, batch, "priority")
        return True

    def _preempt(self, seq: Sequence, batch: Batch, reason: str) -> None:
        """Take back a running sequence's pages, its row, and its share of `batch`; it waits to be computed again."""
        if seq in batch.seqs:
            i = batch.seqs.index(seq)
            del batch.seqs[i], batch.rows[i]
        del self.running[seq.id]
        seq.log.add(self.now, "preempted", self.steps, seq.computed, reason=reason)
        verdict = self.cache.swap_out(seq)
        if verdict is not None:
            kind = "swapped_out" if verdict.is_kept else "not_swapped"
            seq.log.add(self.now, kind, self.steps, verdict.tokens, reason=verdict.reason)
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
        seq.last_token = now
        if seq.first_token is None:
            seq.first_token = now
            seq.log.add(now, "first_token", self.steps, 1)
            delta.prompt_logprobs, seq.prompt_logprobs = seq.prompt_logprobs, None
            delta.cached = seq.cached
            delta.timing = seq.timing
        elif finish is not None:
            delta.timing = seq.timing
        return delta

    # Places. Every live sequence has exactly one.

    def _check(self, seq: Sequence) -> Sequence:
        """The sequence, if it can run; raises InvalidRequest."""
        if self.admission is not None:
            self.admission.check(seq)
        if not seq.tokens:
            raise InvalidRequest("the prompt has no tokens; give at least one", "prompt")
        room = self.max_model_len if seq.spec.pooling is not None else self.max_model_len - 1
        if seq.prompt_len > room:
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
        seq.waits_at = self.waits.read(self.now)
        seq.passed_at = self.admissions
        ahead = self._ahead(seq)
        seq.log.add(self.now, "queued", self.steps, ahead=ahead)
        self.waiting.insert(ahead, seq)

    def _restart(self, seq: Sequence) -> None:
        seq.restart()
        self.gone.append(seq.id)

    def _fail(self, seq: Sequence, reason: str, field: str | None = None) -> TokenDelta:
        """End a sequence by an error of its own (of its request's `field`) or of its step."""
        self.counts.errors += 1
        self._end(seq, "error")
        return TokenDelta(seq.id, [], finish=Finish("error", message=reason, field=field), timing=seq.timing)

    def _end(self, seq: Sequence, reason: str) -> None:
        """Take a sequence out of wherever it is."""
        if seq.status is Status.RUNNING:
            del self.running[seq.id]
            self.cache.release(seq)
            self.gone.append(seq.id)
        elif seq.status is Status.WAITING:
            if self.cache.swapping is not None:
                self.cache.swapping.forget(seq)
            del self.waiting[bisect_left(self.waiting, seq.urgency, key=BY_URGENCY)]
        elif seq in self.suspects:
            self.suspects.remove(seq)
        elif seq.spec.leader is not None:
            self.followers[seq.spec.leader].remove(seq)
        seq.status = Status.ENDED
        seq.epoch += 1
        seq.log.add(self.now, "ended", self.steps, len(seq.tokens) - seq.prompt_len, reason=reason)
        self.history.keep(seq.timeline())
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
