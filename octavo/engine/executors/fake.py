"""The fake device: no model and no torch; the next token is a hash of every visible KV cell.

A wrong page, a lost page, a stale cell or a wrong position changes tokens, so that everything above the worker can be
tested on it in seconds. Cells: one int64 per slot and cache group, zero until written.

`say=TEXT`, which must come last because it takes the rest, makes every sequence answer the tokens of TEXT and then the
end-of-sequence (past it, under ignore_eos: hashes again). `say=@FILE` reads a JSON object {part: text, ...}: a sequence
answers the text whose part comes last in its prompt, else hashes; "" is a part of every prompt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from octavo.engine.executors.executor import DeviceLost, Mask
from octavo.engine.executors.fake_pooling import fake_values
from octavo.errors import StartupError
from octavo.messages import BatchMessage, Logprobs, Moves, RowResult, RowWork, SequenceSpec, StepResult, unpack_ids
from octavo.spec import CacheGroup
from octavo.thinking import Thoughts

Words = NDArray[np.uint64]

MASK = 2**64 - 1
POISON = 0  # a cell nobody wrote
PHASES = ("launch", "sample", "result")
EXIT_CODE = 13  # of a process that `die_at` ended


class FakeFault(Exception):
    """A planned fault, or a step that reads what no device should read."""


@dataclass(frozen=True)
class FakeOptions:
    """What `--device fake:name=value,...` may say. Steps count from 1; 0 is never."""

    step_ms: float = 0.0  # every step takes this long,
    token_us: float = 0.0  # and this per token computed
    low: int = 3  # sampled ids lie in [low, high)
    high: int = 0  # 0: the vocabulary's end. 32 and 127 are printable for a tokenizer whose ids are bytes
    eos_rate: float = 0.0  # chance of each token to be the end-of-sequence
    fail_at: int = 0  # this step and the next ones raise,
    fail_times: int = 1  # so many in all,
    fail_in: str = "launch"  # in this phase: launch, sample or result
    lost_at: int = 0  # the device is lost at this step
    die_at: int = 0  # the process ends at this step, without a word
    hang_at: int = 0  # this step never returns
    row_error: int = -1  # a sequence whose prompt holds this id gets an error of its own
    fail_token: int = -1  # a step with a sequence that holds this id raises
    labels: int = 0  # classify prompts with so many labels, in place of embedding them
    say: str = ""  # what every sequence answers


def parse_options(text: str) -> FakeOptions:
    """The options in a device string such as "fake:step_ms=5,fail_at=17"; raises StartupError naming a wrong one."""
    name, _, rest = text.partition(":")
    if name != "fake":
        raise StartupError(f"device {text!r} is not a fake one; write fake or fake:name=value,...", "device")
    defaults = FakeOptions()
    kinds = {f.name: type(getattr(defaults, f.name)) for f in fields(FakeOptions)}
    values: dict[str, int | float | str] = {}
    rest, _, values["say"] = f",{rest}".partition(",say=")
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if key not in kinds or not equals:
            names = ", ".join(kinds)
            raise StartupError(f"device option {part!r} is unknown; use name=value with one of {names}", "device")
        try:
            values[key] = kinds[key](value)
        except ValueError:
            raise StartupError(f"device option {key} must be {kinds[key].__name__}, got {value!r}", "device") from None
    options = FakeOptions(**values)  # type: ignore[arg-type]
    if options.fail_in not in PHASES:
        phases = ", ".join(PHASES)
        raise StartupError(f"device option fail_in must be one of {phases}, got {options.fail_in!r}", "device")
    return options


def mix(x: int) -> int:
    """A well-spread 64-bit hash of a 64-bit number (SplitMix64: Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def mix_words(x: Words) -> Words:
    """`mix` of each element."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def cells_of(tokens: Sequence[int], positions: Sequence[int] | range) -> Words:
    """What the cells of these tokens at these positions hold; never POISON."""
    ids, at = np.array(tokens, np.uint64), np.array(positions, np.uint64)
    return mix_words((ids << np.uint64(32)) ^ at) | np.uint64(1)


def weights_of(count: int) -> Words:
    """The weight of the cell at each position in a digest: odd, so that no cell's change is lost."""
    return mix_words(np.arange(count, dtype=np.uint64) ^ np.uint64(0xC0FFEE)) | np.uint64(1)


def choose(
    spec: SequenceSpec, value: int, position: int, vocab_size: int, options: FakeOptions, said: Sequence[int] = ()
) -> int:
    """The token for `position`, given a hash of all cells visible to it and, unless greedy, of seed and position.

    `said` are the answer's first tokens, but for an end-of-sequence that min_tokens forbids.
    """
    sampling = spec.sampling
    at = position - len(spec.tokens) // 4
    may_stop = at >= sampling.min_tokens
    if at < len(said) and (may_stop or said[at] not in spec.eos):
        return said[at]
    if options.eos_rate and spec.eos and may_stop and mix(value) / 2**64 < options.eos_rate:
        return spec.eos[0]
    choices = sampling.allowed_token_ids or range(options.low, options.high or vocab_size)
    token = choices[value % len(choices)]
    if not may_stop:
        banned = {*spec.eos, *(sampling.stop_token_ids or ())}
        while token in banned:
            value = mix(value)
            token = choices[value % len(choices)]
    return token


def choose_allowed(spec: SequenceSpec, value: int, position: int, allowed: list[int], token: int) -> int:
    """`token` if it is allowed, else one of those that are, by the hash `value`; -1 when there is none."""
    if position - len(spec.tokens) // 4 < spec.sampling.min_tokens:
        banned = {*spec.eos, *(spec.sampling.stop_token_ids or ())}
        allowed = [id for id in allowed if id not in banned]
    if token in allowed:
        return token
    return allowed[mix(value) % len(allowed)] if allowed else -1


def set_bits(row: Mask, vocab_size: int) -> list[int]:
    """The tokens that a row of a mask allows."""
    return np.flatnonzero(np.unpackbits(row.view(np.uint8), count=vocab_size, bitorder="little")).tolist()


def reference(
    spec: SequenceSpec,
    vocab_size: int,
    windows: Sequence[int | None] = (None,),
    options: FakeOptions | None = None,
    max_model_len: int = 2**31,
) -> list[int]:
    """The tokens a fake device must answer for a lone sequence: no pages, no steps, no arrays."""
    tokens = unpack_ids(spec.tokens)
    prompt_len = len(tokens)
    limit = min(prompt_len + spec.max_tokens, max_model_len)
    stops = {*spec.eos, *(spec.sampling.stop_token_ids or ())}
    products: list[int] = []
    thoughts = Thoughts(spec.thinking) if spec.thinking is not None else None
    while True:
        for p in range(len(products), len(tokens)):
            products.append((mix((tokens[p] << 32) ^ p) | 1) * (mix(p ^ 0xC0FFEE) | 1))
        digest = 0
        for g, window in enumerate(windows):
            visible = products if window is None else products[-window:]
            digest = mix(digest ^ ((sum(visible) + g) & MASK))
        noise = 0 if spec.sampling.greedy else mix((spec.seed & MASK) ^ mix(len(tokens)))
        forced = thoughts.forced() if thoughts is not None else None
        free = choose(spec, mix(digest ^ noise), len(tokens), vocab_size, options or FakeOptions())
        tokens.append(free if forced is None else forced)
        if thoughts is not None:
            thoughts.push(tokens[-1])
        ended = tokens[-1] in stops and len(tokens) - prompt_len > spec.sampling.min_tokens
        if ended or len(tokens) >= limit:
            return tokens[prompt_len:]


def make_logprobs(
    tokens: Sequence[int], digests: Sequence[int], k: int, vocab_size: int, named: Sequence[int] = ()
) -> Logprobs:
    """Made-up log-probabilities: each token is the likeliest, by a margin that its digest decides."""
    k = vocab_size if k < 0 else min(k, vocab_size)
    ids = [[token, *((token + j) % vocab_size for j in range(k))] for token in tokens]
    values = []
    for digest in digests:
        first = -(mix(digest) % 1000) / 1000
        values.append([first, *(first - j / 8 for j in range(k))])
    if named:
        ids = [[*one, *named] for one in ids]
        values = [[*one, *(one[0] - 20 - id / 8 for id in named)] for one in values]
    return Logprobs(ids, values, [1] * len(ids), len(named))


@dataclass
class FakeRow:
    """What a worker keeps of a running sequence: token values, the next position, and a page table per group."""

    spec: SequenceSpec
    tokens: list[int]
    prompt: frozenset[int]
    greedy: bool
    scores: bool  # prompt_logprobs are wanted
    position: int
    tables: list[list[int]]
    arrays: list[NDArray[np.int64]] = field(default_factory=list)  # the tables again, for indexing
    said: Sequence[int] = ()
    thoughts: Thoughts | None = None


class FakeStep:
    """One step: cells are written at launch, tokens chosen by sample, and told by result when its time has passed."""

    def __init__(self, device: FakeExecutor, number: int, batch: BatchMessage, ready_at: float) -> None:
        self.device = device
        self.number = number
        self.batch = batch
        self.ready_at = ready_at
        self.results = [RowResult(work.id, work.epoch, []) for work in batch.rows]
        self.digests: Words = np.zeros(0, np.uint64)  # of what each emitting row sees, in order
        self.sampled = False

    def sample(self, mask: Mask | None) -> None:
        self.device.fault("sample", self.number)
        emits = [(work, result) for work, result in zip(self.batch.rows, self.results, strict=True) if work.emit]
        self.device.sample(emits, self.digests, mask)
        self.sampled = True

    def result(self) -> StepResult:
        if not self.sampled:
            raise FakeFault(f"step {self.number}: result() before sample()")
        delay_s = self.ready_at - time.monotonic()
        if delay_s > 0:
            time.sleep(delay_s)
        self.device.fault("result", self.number)
        return StepResult(self.results)


class FakeExecutor:
    """A device whose memory is an int64 array per cache group, [num_pages[g], page_size]."""

    def __init__(
        self,
        num_pages: Sequence[int],
        page_size: int,
        groups: Sequence[CacheGroup],
        vocab_size: int,
        options: FakeOptions | None = None,
        script: Callable[[SequenceSpec], Sequence[int]] = lambda spec: (),
    ) -> None:
        self.script = script  # what a sequence is to answer, as far as that is laid down
        self.page_size = page_size
        self.windows = [group.spec.window for group in groups]
        self.cells: list[Words] = [np.full((n, page_size), POISON, np.uint64) for n in num_pages]
        self.host: list[dict[int, Words]] = [{} for _ in num_pages]  # pages that were copied to the host
        self.vocab_size = vocab_size
        self.options = options or FakeOptions()
        self.rows: dict[int, FakeRow] = {}
        self.weights = weights_of(1024)
        self.launched = 0
        self.failures = 0
        self.free_at = 0.0  # when the device is done with what it has
        self.stopped = False

    def launch(self, batch: BatchMessage) -> FakeStep:
        if self.stopped:
            raise DeviceLost("the fake device was stopped")
        self.launched += 1
        self.fault("launch", self.launched)
        if batch.moves is not None:
            self._move(batch.moves)
        for id in batch.gone:
            self.rows.pop(id, None)
        rows = [self._place(work) for work in batch.rows]
        options = self.options
        if options.fail_token >= 0 and any(options.fail_token in row.tokens for row in rows):
            raise FakeFault(f"a sequence of the step holds token {options.fail_token}")
        duration_s = (options.step_ms * 1e3 + options.token_us * batch.num_tokens) / 1e6
        self.free_at = max(self.free_at, time.monotonic()) + duration_s
        step = FakeStep(self, self.launched, batch, self.free_at)
        self._write(batch.rows, rows)
        for work, row, result in zip(batch.rows, rows, step.results, strict=True):
            if work.num_tokens > 1 or row.scores:
                self._read_chunk(work, row, result)
            row.position += work.num_tokens
        step.digests = self._digest([row for work, row in zip(batch.rows, rows, strict=True) if work.emit])
        return step

    def _move(self, moves: Moves) -> None:
        """Copy pages to the host, then back."""
        for cells, host, out, back in zip(self.cells, self.host, moves.out, moves.back, strict=True):
            for page, host_page in out:
                host[host_page] = cells[page].copy()
            for page, host_page in back:
                if host_page not in host:
                    raise FakeFault(f"page {host_page} of the host is read, which nothing was copied to")
                cells[page] = host[host_page]

    def stop(self) -> None:
        self.stopped = True
        self.rows.clear()

    def fault(self, phase: str, step: int) -> None:
        """Do the harm that the options plan for this phase of this step."""
        options = self.options
        if phase == "launch":
            if step == options.die_at:
                os._exit(EXIT_CODE)
            if step == options.lost_at:
                raise DeviceLost(f"the fake device was lost at step {step}")
            while step == options.hang_at:
                time.sleep(3600)
        due = options.fail_at and step >= options.fail_at and self.failures < options.fail_times
        if phase == options.fail_in and due:
            self.failures += 1
            raise FakeFault(f"planned fault in {phase} of step {step}")

    def sample(self, emits: list[tuple[RowWork, RowResult]], digests: Words, mask: Mask | None = None) -> None:
        """Choose the rows' next tokens; a row knows its own from now on, the core when the step lands."""
        assert mask is None or len(mask) == len(emits), (mask.shape, len(emits))
        rows = [self.rows[work.id] for work, _ in emits]
        positions = np.array([len(row.tokens) for row in rows], np.uint64)
        seeds = np.array([row.spec.seed & MASK for row in rows], np.uint64)
        noise = mix_words(seeds ^ mix_words(positions))
        noise *= np.array([not row.greedy for row in rows], np.uint64)
        values = mix_words(digests ^ noise).tolist()
        bits: Sequence[Mask | None] = [None] * len(rows) if mask is None else list(mask)
        for (_, result), row, value, digest, allowed in zip(emits, rows, values, digests.tolist(), bits, strict=True):
            if row.spec.pooling is not None:
                seen = self._digests(row, 0, row.position) if row.spec.pooling.per_token else [digest]
                result.pooled = fake_values(row.spec.pooling, seen, self.options.labels)
            else:
                token = choose(row.spec, value, len(row.tokens), self.vocab_size, self.options, row.said)
                if allowed is not None and not (allowed == -1).all():
                    token = choose_allowed(row.spec, value, len(row.tokens), set_bits(allowed, self.vocab_size), token)
                    if token < 0:
                        result.error = "no token may come next"
                        continue
                if row.thoughts is not None:
                    forced = row.thoughts.forced()
                    token = token if forced is None else forced
                    row.thoughts.push(token)
                row.tokens.append(token)
                result.tokens = [token]
                if row.spec.sampling.logprobs is not None:
                    count, named = row.spec.sampling.logprobs, row.spec.sampling.logprob_token_ids or ()
                    result.logprobs = make_logprobs([token], [digest], count, self.vocab_size, named)
            if self.options.row_error in row.prompt:
                result.error = f"the prompt holds token {self.options.row_error}"

    def _place(self, work: RowWork) -> FakeRow:
        """The row of a sequence with its tables extended; a new one is given a row."""
        if work.new is not None:
            tokens = unpack_ids(work.new.tokens)
            spec = work.new.spec
            row = FakeRow(
                spec=spec,
                tokens=tokens,
                prompt=frozenset(unpack_ids(spec.tokens)),
                greedy=spec.sampling.greedy,
                scores=spec.sampling.prompt_logprobs is not None,
                position=work.new.computed,
                tables=[list(pages) for pages in work.new_pages],
                said=self.script(spec),
                thoughts=Thoughts(spec.thinking) if spec.thinking is not None else None,
            )
            if row.thoughts is not None:
                for token in tokens[len(spec.tokens) // 4 :]:
                    row.thoughts.push(token)
            self.rows[work.id] = row
        else:
            row = self.rows[work.id]
            for table, pages in zip(row.tables, work.new_pages, strict=True):
                table += pages
        if work.new is not None or any(work.new_pages):
            row.arrays = [np.array(table, np.int64) for table in row.tables]
        end = row.position + work.num_tokens
        if work.num_tokens < 1 or end > len(row.tokens) or work.emit != (end == len(row.tokens)):
            place = f"sequence {work.id} at {row.position} of {len(row.tokens)}"
            raise FakeFault(f"{place} cannot do {work.num_tokens} tokens with emit={work.emit}")
        return row

    def _write(self, works: Sequence[RowWork], rows: Sequence[FakeRow]) -> None:
        """Fill the cells of all tokens in the step, in every group."""
        tokens: list[int] = []
        positions: list[int] = []
        for work, row in zip(works, rows, strict=True):
            end = row.position + work.num_tokens
            tokens += row.tokens[row.position : end]
            positions += range(row.position, end)
        cells = cells_of(tokens, positions)
        size = self.page_size
        for g, memory in enumerate(self.cells):
            slots: list[int] = []
            for work, row in zip(works, rows, strict=True):
                table = row.tables[g]
                slots += [
                    table[p // size] * size + p % size for p in range(row.position, row.position + work.num_tokens)
                ]
            if min(slots) < 0:
                raise FakeFault(f"a cell of group {g} is to be written to no page")
            memory.reshape(-1)[slots] = cells

    def _read_chunk(self, work: RowWork, row: FakeRow, result: RowResult) -> None:
        """Check what each token of a chunk sees (digests show only the last one's); score the prompt if asked."""
        start, end = row.position, row.position + work.num_tokens
        for g, window in enumerate(self.windows):
            first = 0 if window is None else max(0, start - window + 1)
            wrong = np.flatnonzero(self._read(g, row, first, end) != cells_of(row.tokens[first:end], range(first, end)))
            if len(wrong):
                at = first + int(wrong[0])
                raise FakeFault(f"sequence {work.id}, group {g}: the cell at position {at} is another's")
        wanted = row.spec.sampling.prompt_logprobs
        last = min(end, len(row.spec.tokens) // 4 - 1)  # the last position whose successor is in the prompt
        if wanted is not None and start < last:
            seen = self._digests(row, start, last)
            result.prompt_logprobs = make_logprobs(row.tokens[start + 1 : last + 1], seen, wanted, self.vocab_size)

    def _digest(self, rows: Sequence[FakeRow]) -> Words:
        """A hash of every cell that the newest token of each row sees, read through the page tables."""
        digests = np.zeros(len(rows), np.uint64)
        if not rows:
            return digests
        size = self.page_size
        ends = np.array([row.position for row in rows])
        weights = self._weights((int(ends.max()) // size + 1) * size).reshape(-1, size)
        for g, window in enumerate(self.windows):
            firsts = np.zeros_like(ends) if window is None else np.maximum(0, ends - window)
            spans = list(zip((firsts // size).tolist(), (-(-ends // size)).tolist(), strict=True))
            pages = np.concatenate([row.arrays[g][a:b] for row, (a, b) in zip(rows, spans, strict=True)])
            if pages.min() < 0:
                raise FakeFault(f"a page of group {g} behind the window is read")
            counts = np.array([b - a for a, b in spans])
            owners = np.repeat(np.arange(len(rows)), counts)
            starts = np.cumsum(counts) - counts
            ordinals = np.arange(len(pages)) + (firsts // size - starts)[owners]
            positions = ordinals[:, None] * size + np.arange(size)
            visible = (positions >= firsts[owners, None]) & (positions < ends[owners, None])
            cells = self.cells[g][pages]
            if visible.sum() != (ends - firsts).sum() or (visible & (cells == POISON)).any():
                raise FakeFault(f"group {g}: a row reads a cell that was never written")
            sums = (cells * weights[ordinals] * visible).sum(axis=1, dtype=np.uint64)
            digests = mix_words(digests ^ (np.add.reduceat(sums, starts) + np.uint64(g)))
        return digests

    def _read(self, g: int, row: FakeRow, first: int, end: int) -> Words:
        """The cells at positions [first, end), through the page table."""
        size = self.page_size
        pages = row.arrays[g][first // size : -(-end // size)]
        if self.windows[g] is not None and pages.min() < 0:
            raise FakeFault(f"a page of group {g} behind the window is read")
        offset = first % size
        cells = self.cells[g][pages].reshape(-1)[offset : offset + end - first]
        if len(cells) != end - first or not cells.all():
            raise FakeFault(f"group {g}: a cell in positions {first} to {end} was never written")
        return cells

    def _digests(self, row: FakeRow, start: int, end: int) -> list[int]:
        """The digest of what each position in [start, end) sees."""
        digests = np.zeros(end - start, np.uint64)
        for g, window in enumerate(self.windows):
            first = 0 if window is None else max(0, start - window + 1)
            products = self._read(g, row, first, end) * self._weights(end)[first:]
            sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(products)))
            at = np.arange(start, end)
            lows = np.full(len(at), first) if window is None else np.maximum(0, at - window + 1)
            digests = mix_words(digests ^ (sums[at + 1 - first] - sums[lows - first] + np.uint64(g)))
        return [int(d) for d in digests]

    def _weights(self, count: int) -> Words:
        """The weights of the first `count` positions."""
        if count > len(self.weights):
            self.weights = weights_of(2 * count)
        return self.weights[:count]
