"""Recorded steps: they give what the model's own code gives, whatever is asked, admitted, preempted or in flight."""

from __future__ import annotations

import random
from concurrent.futures import Future
from functools import cache

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.engine.core import EngineCore
from octavo.engine.executors.local import LocalExecutor
from octavo.engine.grammars import Nursery
from octavo.messages import BatchMessage, Logprobs, SequenceSpec
from octavo.platforms.accelerator import Accelerator
from octavo.platforms.cuda import CudaPlatform
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.policy import FCFS
from octavo.scheduling.scheduler import Scheduler
from octavo.worker.graphs.buckets import Buckets
from octavo.worker.runner import ModelRunner

from .fake_cuda import FakeCuda, NoWaiting
from .recordable import RecordableToy, gpu_runner, plain_runner
from .toy import Driver, make_sizes, make_spec

V = 50
MODEL = RecordableToy(64, windows=(None, 6))
STYLES: list[dict] = [
    {"temperature": 0.0},
    {"temperature": 0.9, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 9, "min_p": 0.01},
    {"temperature": 1.2, "top_k": 9, "presence_penalty": 1.0, "frequency_penalty": 0.3},
    {"temperature": 0.0, "repetition_penalty": 1.7, "logprobs": 0, "min_tokens": 4, "eos": (3, 8)},
    {"temperature": 1.0, "top_p": 0.5, "logprobs": 2, "prompt_logprobs": 1},
    {"temperature": 1.0, "allowed_token_ids": list(range(10, 30)), "logprobs": 1},
]
LENGTH = 9


def styled(id: int, kind: int) -> SequenceSpec:
    prompt = [(kind * 7 + i * i) % V for i in range(1 + kind * 2)]
    return make_spec(id, prompt, seed=kind, **STYLES[kind % len(STYLES)])


def told(driver: Driver, id: int) -> list[object]:
    return [(row.tokens, row.logprobs, row.prompt_logprobs, row.error) for row in driver.results[id]]


@pytest.fixture(scope="module")
def alone() -> list[list[object]]:
    """What each kind is told on a CPU, alone."""
    found = []
    for kind in range(len(STYLES) * 2):
        one = Driver(plain_runner(MODEL, make_sizes()))
        one.generate(styled(0, kind), LENGTH)
        found.append(told(one, 0))
    return found


@pytest.mark.parametrize("kind", range(len(STYLES)))
def test_a_recorded_sequence_is_told_what_it_is_told_on_a_cpu(alone, kind):
    runner, gpu = gpu_runner(MODEL, make_sizes())
    one = Driver(runner)
    one.generate(styled(0, kind), LENGTH)
    assert told(one, 0) == alone[kind]
    assert gpu.num_replays >= LENGTH - 1


class Rhythm:
    """A grammar for tests: each token and the place it stands at decide which residues modulo 3 may follow."""

    is_finished = False

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def allowed(self) -> list[int]:
        wanted = (len(self.tokens) + (self.tokens[-1] if self.tokens else 0)) % 3
        return [id for id in range(V) if id % 3 == wanted]

    def fill(self, row: np.ndarray) -> None:
        row[:] = 0
        for id in self.allowed():
            row.view(np.uint32)[id // 32] |= np.uint32(1 << (id % 32))

    def accept(self, token: int, ends: bool) -> str | None:
        if token not in self.allowed():
            return f"{token} does not follow {self.tokens}"
        self.tokens.append(token)
        return None


def mask_of(constraints: list[Rhythm | None]) -> np.ndarray:
    mask = np.full((len(constraints), -(-V // 32)), -1, np.int32)
    for row, constraint in zip(mask, constraints, strict=True):
        if constraint is not None:
            constraint.fill(row)
    return mask


class Masks(Nursery):
    """Masks in a moment, without a grammar library."""

    def begin_mask(self, constraints):
        future = Future()
        future.set_result(mask_of(constraints))
        return future

    def mask(self, constraints):
        return mask_of(constraints)


Told = tuple[list[int], Logprobs, Logprobs]


@cache
def reference(kind: int, is_constrained: bool) -> Told:
    """Tokens and log-probabilities of a kind, computed alone on a CPU."""
    one = Driver(plain_runner(MODEL, make_sizes()))
    one.add(styled(0, kind))
    constraint = Rhythm() if is_constrained else None
    samples, prompt = Logprobs([], [], []), Logprobs([], [], [])
    while len(one.results[0]) < LENGTH:
        (row,) = one.step({0: 1000}, None if constraint is None else mask_of([constraint])).rows
        samples.extend(row.logprobs or Logprobs([], [], []))
        prompt.extend(row.prompt_logprobs or Logprobs([], [], []))
        if constraint is not None:
            assert constraint.accept(row.tokens[0], False) is None
    return [row.tokens[0] for row in one.results[0]], samples, prompt


class Holder:
    """What LocalExecutor asks of a worker."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner


class Engine:
    """The real core over a runner on a fake GPU."""

    def __init__(
        self,
        rng: random.Random,
        flight: int,
        buckets: tuple[int, ...],
        model: RecordableToy = MODEL,
        gpu: Accelerator | None = None,
    ) -> None:
        page = rng.choice((1, 3, 4, 16))
        rows = rng.choice((1, 3, 8))
        longest = 48
        slack = rng.choice((0, 1, 4, 200))
        num_pages = (-(-longest // page) + slack, -(-6 // page) + 3 + -(-longest // page) + slack)
        sizes = make_sizes(rows=rows, tokens=rng.choice((rows, 16, 64)) if rows < 16 else 64, length=longest, page=page)
        runner, self.gpu = gpu_runner(model, sizes, max(num_pages), buckets, gpu=gpu)
        cache = CacheManager(MODEL.groups, num_pages, page, rng.random() < 0.7, b"toy")
        scheduler = Scheduler(cache, FCFS(), rows, sizes.max_num_batched_tokens, longest)
        executor = LocalExecutor(Holder(runner))  # type: ignore[arg-type]
        self.turns = 0
        self.core = EngineCore(scheduler, executor, flight, clock=lambda: float(self.turns), nursery=Masks())
        self.rng = rng
        self.kinds: dict[int, tuple[int, bool]] = {}
        self.ends: dict[int, tuple[int, ...]] = {}
        self.told: dict[int, Told] = {}
        self.ended: set[int] = set()

    def add(self, kind: int, is_constrained: bool) -> None:
        id = len(self.kinds)
        spec = styled(id, kind)
        ends = spec.eos or tuple(self.rng.sample(range(V), self.rng.choice((0, 0, 5))))
        spec = msgspec.structs.replace(spec, max_tokens=LENGTH, eos=ends)
        self.ends[id] = ends
        self.kinds[id] = kind, is_constrained
        self.told[id] = [], Logprobs([], [], []), Logprobs([], [], [])
        assert self.core.scheduler.add(spec, float(self.turns), Rhythm() if is_constrained else None) is None

    def turn(self) -> None:
        self.turns += 1
        for delta in self.core.turn():
            tokens, samples, prompt = self.told[delta.id]
            tokens += delta.tokens
            samples.extend(delta.logprobs or Logprobs([], [], []))
            prompt.extend(delta.prompt_logprobs or Logprobs([], [], []))
            if delta.finish is not None:
                is_stop = tokens[-1] in self.ends[delta.id]
                assert delta.finish.reason == ("stop" if is_stop else "length"), delta.finish
                self.ended.add(delta.id)
        assert not self.core.check_books()

    def check(self, id: int) -> None:
        tokens, samples, prompt = self.told[id]
        expected, its_samples, its_prompt = reference(*self.kinds[id])
        assert tokens == expected[: len(tokens)], (self.kinds[id], tokens, expected)
        assert not any(token in self.ends[id] for token in tokens[:-1])
        assert id not in self.ended or len(tokens) == LENGTH or tokens[-1] in self.ends[id]
        count = len(samples.ids)
        assert samples.ids == its_samples.ids[:count] and samples.ranks == its_samples.ranks[:count]
        assert samples.values == its_samples.values[:count]
        if tokens:
            assert (prompt.ids, prompt.values) == (its_prompt.ids, its_prompt.values)


def play(engine: Engine, rng: random.Random) -> None:
    """Let sequences arrive and be aborted at random until all have ended."""
    while len(engine.kinds) < 14 or engine.core.has_work:
        if len(engine.kinds) < 14 and rng.random() < 0.6:
            for _ in range(rng.choice((1, 1, 3))):
                engine.add(rng.randrange(len(STYLES) * 2), rng.random() < 0.2)
        if engine.kinds and rng.random() < 0.05:
            engine.core.abort([rng.randrange(len(engine.kinds))])
        if engine.core.has_work:
            engine.turn()
        assert engine.turns < 3000


FLIGHTS, GRIDS = (1, 2, 3), ((), (1, 2, 4, 8), (1, 3), (8,))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(FLIGHTS), st.sampled_from(GRIDS))
def test_an_engine_of_recorded_steps_tells_every_sequence_what_it_is_told_alone(seed, flight, buckets):
    rng = random.Random(seed)
    engine = Engine(rng, flight, buckets)
    play(engine, rng)
    for id in engine.kinds:
        engine.check(id)


def decoding(runner: ModelRunner, count: int) -> Driver:
    """A driver whose rows have all begun to decode: greedy and random ones."""
    driver = Driver(runner)
    for id in range(count):
        driver.add(styled(id, id % 3))
    driver.step(dict.fromkeys(range(count), 1000))
    return driver


def test_a_step_that_decodes_waits_for_nothing_and_depends_on_no_value():
    runner, gpu = gpu_runner(MODEL, make_sizes(), buckets=(4, 8))
    driver = decoding(runner, 6)
    for _ in range(5):
        before = gpu.num_replays
        message = BatchMessage([driver.work(id, 1) for id in range(6)], [])
        with NoWaiting():
            pending = runner.launch(message)
            runner.sample(pending)
        assert gpu.num_replays == before + 2  # the model's step, and sampling
        for row in runner.result(pending).rows:
            driver.tokens[row.id] += row.tokens


def test_rows_that_pad_a_step_write_nothing():
    runner, _ = gpu_runner(MODEL, make_sizes(), num_pages=60, buckets=(8,))
    driver = decoding(runner, 3)
    resident = runner.gpu.resident
    for _ in range(4):
        driver.step(dict.fromkeys(range(3), 1))
        assert resident.slots[:, 3:8].eq(-1).all() and resident.tokens[3:8].eq(0).all()
        assert resident.positions[3:8].eq(0).all() and resident.lengths[3:8].eq(0).all()
        for g, pages in enumerate(runner.rows.pages):
            known = torch.from_numpy(pages)
            assert torch.equal(resident.tables[g, :-1][known >= 0], known[known >= 0])
        used = driver.next_page
        for cells in runner.inputs.caches:
            assert cells[used:-1].isnan().all()  # the last page is where this model lets padding write


def test_only_the_smallest_bucket_that_holds_a_step_is_replayed():
    buckets = Buckets((1, 2, 4, 8))
    assert [buckets.of(n) for n in range(1, 10)] == [1, 2, 4, 4, 8, 8, 8, 8, None]
    assert Buckets(()).of(1) is None


def test_a_buffer_that_the_device_still_reads_is_not_written_to():
    gpu = FakeCuda()
    source, target = gpu.pinned(4, torch.int32), torch.zeros(4, dtype=torch.int32)
    gpu.upload(source, target)
    mark = gpu.mark()
    source[0] = 1
    with pytest.raises(AssertionError, match="may read it"):
        gpu.upload(gpu.pinned(4, torch.int32), target)
    source[0] = 0
    mark.wait()
    source[0] = 1
    gpu.check()


@pytest.fixture
def cuda():
    platform = CudaPlatform()
    platform.pin(0)
    return platform


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(4))
def test_recorded_steps_on_a_gpu_are_the_steps_that_it_launches_one_by_one(cuda, seed):
    told = []
    for buckets in ((), (1, 2, 4, 8)):
        rng = random.Random(seed)
        engine = Engine(rng, 2, buckets, RecordableToy(64, windows=(None, 6)).to(cuda.device), cuda)
        play(engine, rng)
        told.append(engine.told)
    assert told[0] == told[1]


@pytest.mark.gpu
def test_a_step_that_decodes_on_a_gpu_waits_for_nothing(cuda):
    model = RecordableToy(64, windows=(None, 6)).to(cuda.device)
    runner, _ = gpu_runner(model, make_sizes(), buckets=(4, 8), gpu=cuda)
    driver = decoding(runner, 6)
    for _ in range(5):
        message = BatchMessage([driver.work(id, 1) for id in range(6)], [])
        torch.cuda.set_sync_debug_mode("error")
        try:
            pending = runner.launch(message)
            runner.sample(pending)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for row in runner.result(pending).rows:
            driver.tokens[row.id] += row.tokens
