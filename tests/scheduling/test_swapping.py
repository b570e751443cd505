"""Pages go to the host and come back when that is cheaper; tokens never tell, and nothing is lost on either side."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.engine.executors.fake import FakeExecutor, FakeFault, FakeOptions, FakeStep
from octavo.messages import BatchMessage, Moved, Moves, SequenceSpec, pack_ids
from octavo.sampling import SamplingParams
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.cost import StepCost
from octavo.scheduling.policy import FCFS, Priority
from octavo.scheduling.scheduler import Scheduler
from octavo.scheduling.swapping import LINK_BYTES_S, Link, Swapping

from ..simulator import (
    TIGHT,
    WINDOWED,
    Machine,
    Simulator,
    check_tokens,
    play,
    play_some,
    random_events,
    random_machine,
    random_specs,
)

SEEDS = st.integers(0, 2**32)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
SWAPPING = replace(TIGHT, host_pages=(40,))
SWAPPING_WINDOWED = replace(WINDOWED, host_pages=(60, 20))


def spec(id: int, prompt: list[int], max_tokens: int = 8, **more: object) -> SequenceSpec:
    fields = {"sampling": SamplingParams(temperature=1.0), "max_tokens": max_tokens, "seed": id} | more
    return SequenceSpec(id=id, tokens=pack_ids(prompt), **fields)  # type: ignore[arg-type]


@QUICK
@given(SEEDS)
def test_tokens_do_not_depend_on_swapping(seed: int) -> None:
    random = Random(seed)
    machine = random_machine(random, policy=random.choice((FCFS, Priority)), options=FakeOptions(eos_rate=0.05))
    most = random.choice((1, 3, 10, 300))
    machine = replace(machine, host_pages=tuple(random.randrange(1, 1 + most) for _ in machine.windows))
    specs = random_specs(random, random.randrange(1, 16))
    simulator = play(Simulator(machine), random_events(random, specs, aborts=random.choice((0, 5))))
    check_tokens(simulator, specs)
    simulator.check_idle()
    assert not simulator.scheduler.counts.errors
    assert simulator.core.stats().host_pages_held == 0


class ForgetfulExecutor(FakeExecutor):
    """Fails in a phase of some steps that copy: they have copied garbage, and so have those launched behind them."""

    def plan(self, phase: str, failing: set[int]) -> None:
        """Fail in this phase of the n-th steps that copy, n of `failing`."""
        self.phase, self.failing, self.copying = phase, failing, 0
        self.sent: dict[int, Moves | None] = {}

    def launch(self, batch: BatchMessage) -> FakeStep:
        self.copying += batch.moves is not None
        self.sent[self.launched + 1] = batch.moves
        self.bad = self.launched + 1 if batch.moves and self.copying in self.failing else getattr(self, "bad", 0)
        return super().launch(batch)

    def fault(self, phase: str, step: int) -> None:
        if phase != self.phase or step != self.bad:
            return
        for moves in (moves for number, moves in self.sent.items() if number >= step and moves is not None):
            for cells, host, out, back in zip(self.cells, self.host, moves.out, moves.back, strict=True):
                for page, _ in back:
                    cells[page] = 12345
                host.update({host_page: cells[0] * 0 + 777 for _, host_page in out})
        raise FakeFault(f"planned fault in {phase} of step {step}")


class Forgetful(Simulator):
    executor_class = ForgetfulExecutor


def play_failing(seed: int, phase: str, failing: set[int]) -> None:
    random = Random(seed)
    specs = random_specs(random, 10, prompt_logprobs=None)
    simulator = Forgetful(replace(SWAPPING, prefix_caching=random.random() < 0.7))
    simulator.executor.plan(phase, failing)  # type: ignore[attr-defined]
    play(simulator, random_events(random, specs))
    for one in specs:
        if simulator.finished[one.id].reason != "error":  # tried alone, it failed once more
            assert simulator.tokens[one.id] == simulator.expected(one)
    simulator.check_idle()


@settings(QUICK, max_examples=15)
@given(SEEDS, st.sampled_from(("launch", "sample", "result")), st.sets(st.integers(1, 12), min_size=1, max_size=4))
def test_a_failed_step_takes_along_what_it_was_to_copy(seed: int, phase: str, failing: set[int]) -> None:
    play_failing(seed, phase, failing)


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("flight", [1, 2, 3])
def test_what_was_swapped_out_is_not_computed_again(caching: bool, flight: int) -> None:
    def computed(host_pages: tuple[int, ...]) -> int:
        random = Random(1)
        machine = Machine(
            num_pages=(12,), page_size=4, max_num_seqs=6, prefix_caching=caching, steps_in_flight=flight,
            host_pages=host_pages,
        )  # fmt: skip
        specs = [spec(i, [random.randrange(3, 40) for _ in range(8)], 30) for i in range(12)]
        simulator = Simulator(machine)
        simulator.add(*specs)
        simulator.run()
        check_tokens(simulator, specs)
        assert simulator.scheduler.counts.preemptions > 5
        return int(simulator.core.step_tokens.tally.total)

    least = 12 * (8 + 30 - 1)
    assert computed((200,)) < least + (computed(()) - least) / 2


def test_a_sequence_comes_back_beside_a_step_that_does_not_wait() -> None:
    simulator = Simulator(Machine(num_pages=(14,), page_size=4, max_num_seqs=4, host_pages=(50,)))
    specs = [spec(i, list(range(3 + i, 19 + i)), 26) for i in range(3)]
    simulator.add(*specs)
    alongside = 0
    while simulator.core.has_work:
        simulator.turn()
        arriving = [seq for seq in simulator.scheduler.running.values() if seq.is_arriving]
        alongside += len(arriving)
        assert all(id not in simulator.executor.rows for seq in arriving for id in [seq.id])
    check_tokens(simulator, specs)
    assert alongside > 0


def test_shared_pages_are_copied_once() -> None:
    prompt = list(range(3, 27))
    machine = Machine(num_pages=(16,), page_size=4, max_num_seqs=4, host_pages=(100,), max_model_len=64)
    specs = [spec(0, prompt, 36), *(spec(i, prompt, 36, leader=0) for i in range(1, 4))]
    simulator = Simulator(machine)
    copied: list[bytes] = []
    publish = simulator.cache.swapping.pools[0].publish  # type: ignore[union-attr]
    simulator.cache.swapping.pools[0].publish = lambda page, key: (copied.append(key), publish(page, key))  # type: ignore
    simulator.add(*specs)
    simulator.run()
    check_tokens(simulator, specs)
    assert simulator.scheduler.counts.preemptions > 2
    assert len(copied) == len(set(copied)) > 4
    simulator.check_idle()


def test_the_cheaper_way_is_taken_and_told() -> None:
    def story(token_s: float, host_pages: int = 100) -> tuple[list, int]:
        machine = Machine(num_pages=(12,), page_size=4, host_pages=(host_pages,), token_s=token_s, max_num_seqs=2)
        simulator = Simulator(machine)
        specs = [spec(i, list(range(3 + i, 23 + i)), 25) for i in range(2)]
        simulator.add(*specs)
        simulator.run()
        check_tokens(simulator, specs)
        events = [event for line in simulator.scheduler.timelines([0, 1]) for event in line.events]
        return events, simulator.core.stats().swapped_out_pages

    events, pages = story(token_s=0.001)
    (out,) = [event for event in events if event.kind == "swapped_out"]
    assert out.tokens == 4 * pages
    # One MiB a page, there and back, by the rate that holds before a copy was timed.
    assert (
        out.reason
        == f"{2e3 * pages * 2**20 / LINK_BYTES_S:.3g} ms to copy against {out.tokens} ms to compute them again"
    )
    assert [event.tokens for event in events if event.kind == "swapped_in"] == [out.tokens]

    events, pages = story(token_s=1e-6)
    assert pages == 0 and not [event for event in events if event.kind == "swapped_in"]
    assert "against 0.024 ms to compute" in next(event.reason for event in events if event.kind == "not_swapped")

    events, pages = story(token_s=0.001, host_pages=2)
    assert pages == 0
    assert next(event.reason for event in events if event.kind == "not_swapped") == "no room for them on the host"


def test_a_link_learns_each_way_from_what_was_copied() -> None:
    link = Link()
    assert link.out_s(12_000) == pytest.approx(1e-6)
    link.learn(Moved(1000, 1.0, 0, 0.0))
    assert (link.out_s(500), link.back_s(12_000)) == pytest.approx((0.5, 1e-6))
    for _ in range(100):
        link.learn(Moved(4000, 1.0, 100, 10.0))
    assert (link.out_s(4000), link.back_s(10)) == pytest.approx((1.0, 1.0), rel=1e-3)


def test_an_aborted_or_reset_swap_leaves_nothing_behind() -> None:
    simulator = Simulator(replace(SWAPPING, num_pages=(12,), max_num_seqs=2))
    simulator.add(*(spec(i, list(range(3 + i, 23 + i)), 25) for i in range(2)))
    while not simulator.core.stats().host_pages_held:
        simulator.turn()
    simulator.abort(1)
    simulator.run()
    simulator.check_idle()
    host = simulator.cache.swapping.pools[0]  # type: ignore[union-attr]
    assert host.num_cached > 0
    simulator.cache.forget()
    assert host.num_cached == 0


# Negative controls: each planted fault must be seen by the checks above.


@pytest.mark.parametrize("machine", [SWAPPING, replace(SWAPPING, prefix_caching=False), SWAPPING_WINDOWED])
def test_without_a_fault_nothing_is_seen(machine: Machine) -> None:
    assert play_some(machine) > 20


def test_a_host_that_forgets_a_release_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Swapping, "forget", lambda self, seq: setattr(seq, "swapped", []))
    with pytest.raises(AssertionError):
        play_some(SWAPPING)


def test_copies_that_hold_nothing_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    land = Swapping.land

    def land_twice(self: Swapping, moves: Moves) -> None:
        land(self, moves)
        self.flying.append(moves)
        land(self, moves)

    monkeypatch.setattr(Swapping, "land", land_twice)
    with pytest.raises(AssertionError):
        play_some(SWAPPING)


@pytest.mark.parametrize("way", ["out", "back"])
def test_pages_that_are_not_copied_are_seen(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    move = FakeExecutor._move

    def skip(self: FakeExecutor, moves: Moves) -> None:
        nothing: list = [[] for _ in moves.out]
        move(self, Moves(nothing, moves.back) if way == "out" else Moves(moves.out, nothing))

    monkeypatch.setattr(FakeExecutor, "_move", skip)
    with pytest.raises(AssertionError):
        play_some(SWAPPING)


def test_a_page_copied_under_another_key_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Swapping.keep

    def rotate(self: Swapping, seq, tokens, here, leaving):
        turned = []
        for pages in leaving:
            keys = [key for _, key in pages]
            turned.append([(page, key) for (page, _), key in zip(pages, keys[1:] + keys[:1], strict=True)])
        return keep(self, seq, tokens, here, turned)

    monkeypatch.setattr(Swapping, "keep", rotate)
    with pytest.raises(AssertionError):
        play_some(SWAPPING)


def test_what_was_not_confirmed_when_it_left_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    swap_out = CacheManager.swap_out

    def too_much(self: CacheManager, seq):
        computed, seq.computed = seq.computed, min(len(seq.tokens), seq.computed + self.page_size)
        verdict = swap_out(self, seq)
        seq.computed = computed
        return verdict

    monkeypatch.setattr(CacheManager, "swap_out", too_much)
    with pytest.raises(AssertionError):
        play_some(replace(SWAPPING, num_pages=(12,), steps_in_flight=1, max_num_batched_tokens=7), rounds=40)


def test_a_loss_that_nobody_hears_of_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def play_all() -> None:
        for seed in range(20):
            play_failing(seed, "result", {1, 3, 5, 7})

    monkeypatch.setattr(Scheduler, "_lose_moves", lambda self, batch: self.cache.swapping.land(batch.moves))
    with pytest.raises(AssertionError):
        play_all()


def test_a_swap_that_costs_less_than_nothing_is_not_needed() -> None:
    swapping = Swapping((4,), (100,), StepCost(token_s=0.0))
    assert not swapping.is_worth(1000, [1])
