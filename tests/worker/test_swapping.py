"""Copies of pages: every byte of every layer, beside the steps, seen by no token; nothing is read too early."""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.attention.backend import create
from octavo.engine.core import EngineCore
from octavo.engine.executors.local import LocalExecutor
from octavo.messages import BatchMessage, Moves, RowWork, Stats
from octavo.platforms.lane import InlineLane
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.cost import StepCost
from octavo.scheduling.policy import FCFS
from octavo.scheduling.scheduler import Scheduler
from octavo.scheduling.swapping import Swapping
from octavo.spec import CacheGroup, CacheSpec
from octavo.worker import swapping
from octavo.worker.swapping import Flight, PageMover, make_mover, runs

from .late_lane import LateLane
from .recordable import RecordableToy, gpu_runner, plain_runner
from .toy import WIDTH, Driver, make_sizes, make_spec

GROUPS = (CacheGroup(CacheSpec(2, 8), (0, 2)), CacheGroup(CacheSpec(2, 8, 6), (1,)))
LENGTH = 12


def caches(backend: str, dtype: torch.dtype, num_pages: int, page_size: int) -> list[torch.Tensor]:
    """Random bytes in the backend's layout, one tensor per layer."""
    shape = create(backend).cache_shape(GROUPS[0].spec, num_pages, page_size, dtype)
    draw = torch.Generator().manual_seed(1)
    count = math.prod(shape) * dtype.itemsize
    return [torch.randint(256, (count,), generator=draw).to(torch.uint8).view(dtype).view(shape) for _ in range(3)]


def pages_of(cache: torch.Tensor, backend: str) -> torch.Tensor:
    """[pages, bytes]."""
    return (cache if backend == "cpu" else cache.movedim(1, 0)).contiguous().view(torch.uint8).flatten(1)


@pytest.mark.parametrize("staged", [1, 3, 100])
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("reference", torch.float32),
        ("reference", torch.bfloat16),
        ("triton", torch.float8_e4m3fn),
        ("cpu", torch.bfloat16),
        ("cpu", torch.int8),
    ],
)
def test_every_byte_of_every_layer_goes_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, backend: str, dtype: torch.dtype, staged: int
) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    layers = caches(backend, dtype, 9, 16)
    before = [pages_of(each, backend).clone() for each in layers]
    page_bytes = 2 * before[0].shape[1]
    monkeypatch.setattr(swapping, "STAGING_BYTES", staged * page_bytes)

    def shape(group: CacheGroup, count: int) -> tuple[int, ...]:
        return create(backend).cache_shape(group.spec, count, 16, dtype)

    mover = make_mover(layers, GROUPS, (6, 4), shape, InlineLane())
    assert [group.page_bytes for group in mover.groups] == [page_bytes, page_bytes // 2]
    out = Moves([[(7, 0), (2, 4), (3, 5), (0, 1)], [(8, 3)]], [[], []])
    mover.take(BatchMessage([], [], out))
    for each in layers:
        each.view(torch.uint8).fill_(0)
    mover.take(BatchMessage([], [], Moves([[], []], [[(1, 5), (4, 0), (8, 1)], [(6, 3)]])))
    for layer, group in ((0, 0), (2, 0), (1, 1)):
        came = {0: {1: 3, 4: 7, 8: 0}, 1: {6: 8}}[group]
        after = pages_of(layers[layer], backend)
        for page in range(9):
            expected = before[layer][came[page]] if page in came else torch.zeros_like(after[page])
            assert torch.equal(after[page], expected), (layer, page)
    moved = mover.told()
    assert moved is not None and (moved.out_bytes, moved.back_bytes) == (9 * page_bytes // 2, 7 * page_bytes // 2)
    assert moved.out_s > 0 and moved.back_s > 0 and mover.told() is None


def test_runs_are_copied_at_once() -> None:
    assert list(runs([2, 3, 4, 7, 9, 10])) == [(0, 2, 3), (3, 7, 1), (4, 9, 2)]
    assert list(runs([])) == []


def test_a_step_waits_for_copies_of_its_own_pages_alone() -> None:
    layers = caches("reference", torch.float32, 9, 4)
    lane = LateLane(patience=10)

    def shape(group: CacheGroup, count: int) -> tuple[int, ...]:
        return create("reference").cache_shape(group.spec, count, 4, torch.float32)

    mover = make_mover(layers, GROUPS, (6, 4), shape, lane)

    def row(*pages: list[int]) -> RowWork:
        return RowWork(1, 0, 1, True, list(pages))

    mover.take(BatchMessage([row([1], [5])], [], Moves([[(2, 0)], [(3, 1)]], [[], []])))
    assert (lane.done, mover.told()) == (0, None)
    mover.take(BatchMessage([row([3], [2])], []))  # the same numbers, in the other group
    assert lane.done == 0
    mover.take(BatchMessage([row([], []), row([4, 2], [])], []))
    assert lane.done == 1
    moved = mover.told()
    assert moved is not None and moved.out_bytes > 0 and moved.back_bytes == 0


# The whole engine over the toy model: pages swapped by whoever has few, tokens as if nobody ever was.

MODEL = RecordableToy(64, windows=(None, 6))
STYLES: list[dict] = [{"temperature": 0.0}, {"temperature": 1.0, "top_k": 9}, {"temperature": 0.9, "logprobs": 1}]


def styled(id: int, kind: int) -> object:
    return make_spec(id, [(kind * 7 + i * i) % 50 for i in range(1 + 3 * kind)], seed=kind, **STYLES[kind % 3])


@cache
def reference(kind: int) -> list[int]:
    return Driver(plain_runner(MODEL, make_sizes())).generate(styled(0, kind), LENGTH)  # type: ignore[arg-type]


class Holder:
    """What LocalExecutor asks of a worker."""

    def __init__(self, runner: object) -> None:
        self.runner = runner


class Engine:
    """The real core, over a runner on a CPU or on a fake GPU whose copies are late."""

    def __init__(self, rng: random.Random, flight: int, on_gpu: bool) -> None:
        page, longest = rng.choice((1, 3, 4)), 36
        num_pages = (-(-longest // page) + rng.choice((0, 1, 4)), -(-6 // page) + 3 + -(-longest // page))
        sizes = make_sizes(rows=rng.choice((3, 8)), tokens=rng.choice((8, 32)), length=longest, page=page)
        room = max(num_pages)
        runner = gpu_runner(MODEL, sizes, room, (1, 4, 8))[0] if on_gpu else plain_runner(MODEL, sizes, room)
        self.lane = LateLane(rng.choice((1, 2))) if on_gpu else InlineLane()
        host_pages = tuple(rng.choice((2, 20, 60)) for _ in num_pages)
        runner.mover = make_mover(
            runner.inputs.caches, MODEL.groups, host_pages, lambda group, n: (n, page, WIDTH), self.lane
        )
        self.cache = CacheManager(MODEL.groups, num_pages, page, rng.random() < 0.6, b"toy")
        self.cache.swapping = Swapping(host_pages, (64, 64), StepCost(token_s=1.0))
        self.scheduler = Scheduler(self.cache, FCFS(), sizes.max_num_seqs, sizes.max_num_batched_tokens, longest)
        self.core = EngineCore(self.scheduler, LocalExecutor(Holder(runner)), flight, clock=lambda: float(self.turns))  # type: ignore[arg-type]
        self.turns = 0
        self.kinds: dict[int, int] = {}
        self.tokens: dict[int, list[int]] = {}
        self.ended: set[int] = set()

    def add(self, kind: int) -> None:
        id = len(self.kinds)
        self.kinds[id], self.tokens[id] = kind, []
        self.core.add([msgspec.structs.replace(styled(id, kind), max_tokens=LENGTH, eos=())])  # type: ignore[type-var]

    def turn(self) -> None:
        self.turns += 1
        for delta in self.core.turn():
            self.tokens[delta.id] += delta.tokens
            if delta.finish is not None:
                assert delta.finish.reason == "length", delta.finish
                self.ended.add(delta.id)
        assert not self.core.check_books()


def play(seed: int, flight: int, on_gpu: bool) -> Engine:
    rng = random.Random(seed)
    engine = Engine(rng, flight, on_gpu)
    while len(engine.kinds) < 10 or engine.core.has_work:
        if len(engine.kinds) < 10 and rng.random() < 0.7:
            engine.add(rng.randrange(8))
        if engine.kinds and rng.random() < 0.03:
            engine.core.abort([rng.randrange(len(engine.kinds))])
        if engine.core.has_work:
            engine.turn()
        assert engine.turns < 3000
    for id, kind in engine.kinds.items():
        tokens = engine.tokens[id]
        assert tokens == reference(kind)[: len(tokens)], (id, kind)
        assert len(tokens) == LENGTH or id not in engine.ended
    for pool in (*engine.cache.pools, *engine.cache.swapping.pools):  # type: ignore[union-attr]
        assert len(pool.free) == pool.num_pages
    return engine


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from((1, 2, 3)), st.booleans())
def test_an_engine_that_swaps_tells_what_one_that_never_does_tells(seed: int, flight: int, on_gpu: bool) -> None:
    play(seed, flight, on_gpu)


def play_some(rounds: int = 3) -> int:
    return sum(play(seed, 2, True).core.stats().swapped_in_pages for seed in range(rounds))


def test_without_a_fault_nothing_is_seen() -> None:
    assert play_some() > 10


def test_a_step_that_never_waits_for_its_pages_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swapping, "gives", lambda new_pages, touched: False)
    with pytest.raises(AssertionError):
        play_some()


def test_a_layer_that_is_not_copied_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = PageMover._begin

    def skip_second(self: PageMover, copies: list, is_out: bool) -> None:
        begin(self, [copies[0], []], is_out)
        if not self._flights:
            self._flights = [Flight([set(), set()], 0, is_out, self.lane.run(lambda: None))]

    monkeypatch.setattr(PageMover, "_begin", skip_second)
    with pytest.raises(AssertionError):
        play_some(8)


# The real worker on a CPU.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 256, "tie_word_embeddings": True,
        "torch_dtype": "float32", "hidden_act": "silu",
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_the_cpu_worker_tells_the_same_bits_with_and_without_swapping(folder: Path) -> None:
    from octavo import LLM, SamplingParams
    from octavo.checkpoint import POCKET

    prompts = [{"prompt_token_ids": [(i * 13 + j * j) % 61 + 2 for j in range(20 + 3 * i)]} for i in range(6)]
    params = SamplingParams(temperature=0, max_tokens=40, logprobs=2, ignore_eos=True)

    def answers(**options: object) -> tuple[list, Stats]:
        with LLM(
            str(folder), tokenizer=str(POCKET), load_format="dummy", use_tqdm_on_load=False, max_model_len=96,
            max_num_seqs=5, device="cpu", **options,
        ) as llm:  # fmt: skip
            swapping = llm._core.scheduler.cache.swapping
            if swapping is not None:  # a model this small is computed as fast as it is copied
                swapping.cost = StepCost(token_s=1.0)
            outputs = llm.generate(prompts, params, use_tqdm=False)
            stats = llm.get_metrics()
        told = []
        for output in (each.outputs[0] for each in outputs):
            steps = [sorted((id, each.logprob) for id, each in step.items()) for step in output.logprobs]
            told.append((list(output.token_ids), steps))
        return told, stats

    free, _ = answers()
    page_bytes = 2 * 2 * 16 * 16 * 4
    tight, stats = answers(kv_cache_memory_bytes=10 * page_bytes, swap_space=0.001)
    assert tight == free
    assert stats.preemptions > 2
    assert stats.host_pages_total > 20 and stats.host_pages_held == 0
    assert stats.swapped_in_pages > 2
    assert stats.swapped_out_bytes == stats.swapped_out_pages * page_bytes
