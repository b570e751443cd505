"""Progress: nobody starves, nobody thrashes, and policies order what they promise to order (R21)."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.messages import SequenceSpec, TokenDelta, pack_ids
from octavo.sampling import SamplingParams
from octavo.scheduling.policy import FCFS, Priority
from octavo.scheduling.scheduler import BY_URGENCY

from ..simulator import Machine, Simulator, check_tokens, play, random_events, random_machine, random_specs


def spec(id: int, prompt: list[int], max_tokens: int = 8, **more: object) -> SequenceSpec:
    fields = {"sampling": SamplingParams(temperature=1.0), "max_tokens": max_tokens, "seed": id} | more
    return SequenceSpec(id=id, tokens=pack_ids(prompt), **fields)  # type: ignore[arg-type]


class Watched(Simulator):
    """Checks after every turn that the most urgent sequence made way for none, and no other twice for the same ones."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.changes: dict[int, tuple[int, int]] = {}  # by sequence: preemptions, and the crowd before the last

    def turn(self) -> list[TokenDelta]:
        running = self.scheduler.running.values()
        head = min(running, key=BY_URGENCY, default=None)
        preemptions = head.preemptions if head else 0
        # Grows with every first admission and every end.
        crowd = 2 * len(self.finished) + sum(seq.admitted is not None for seq in self.scheduler.live.values())
        waiting = list(map(BY_URGENCY, self.scheduler.waiting))
        assert waiting == sorted(waiting)
        deltas = super().turn()
        if self.machine.policy is FCFS:  # a more urgent newcomer may take the head's place under Priority
            assert head is None or head.preemptions == preemptions, f"sequence {head.id} was first and gave way"
        for seq in self.scheduler.live.values():
            before, crowd_before = self.changes.get(seq.id, (0, -1))
            if seq.preemptions != before:
                assert seq.preemptions == before + 1
                assert crowd > crowd_before, f"sequence {seq.id} was preempted twice, and nobody came or went meanwhile"
                self.changes[seq.id] = (seq.preemptions, crowd)
        return deltas


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_nobody_starves_and_nobody_thrashes(seed: int) -> None:
    random = Random(seed)
    specs = random_specs(random, 12, stop_token_ids=None, logprobs=None, prompt_logprobs=None)
    simulator = Watched(random_machine(random, policy=random.choice((FCFS, Priority))))
    play(simulator, random_events(random, specs))
    work = sum(len(one.tokens) // 4 + one.max_tokens for one in specs)
    assert simulator.turns <= work + 50 * (1 + simulator.scheduler.counts.preemptions)


def test_first_come_is_first_served_even_if_later_ones_are_smaller() -> None:
    simulator = Simulator(Machine(num_pages=(12,), max_num_seqs=2, prefix_caching=False))
    big, small = [5] * 30, [6] * 2
    specs = [spec(0, [4] * 20, 20), spec(1, big, 5), *(spec(i, small, 3) for i in range(2, 6))]
    simulator.add(*specs)
    simulator.run()
    assert list(simulator.first)[:2] == [0, 1]
    check_tokens(simulator, specs)


def test_an_urgent_sequence_takes_the_place_of_the_least_urgent_one() -> None:
    simulator = Simulator(Machine(policy=Priority, max_num_seqs=2))
    simulator.add(spec(0, [5] * 9, 20, priority=1), spec(1, [6] * 9, 20, priority=2), spec(2, [7] * 9, 20, priority=2))
    simulator.turn()
    assert list(simulator.scheduler.running) == [0, 1]
    simulator.add(spec(3, [8] * 9, 20, priority=0))
    simulator.turn()
    assert list(simulator.scheduler.running) == [0, 3]
    simulator.run()
    assert list(simulator.finished) == [0, 3, 1, 2]
    assert simulator.scheduler.counts.preemptions == 1


def test_first_come_first_served_ignores_priorities() -> None:
    simulator = Simulator(Machine(max_num_seqs=1))
    simulator.add(spec(0, [5], 3, priority=9), spec(1, [6], 3, priority=0))
    simulator.run()
    assert list(simulator.finished) == [0, 1]


def test_a_preempted_sequence_keeps_its_answer_and_its_place() -> None:
    machine = Machine(num_pages=(12,), page_size=4, prefix_caching=False, max_num_seqs=4)
    specs = [spec(0, [5] * 17, 25), spec(1, [6] * 17, 25), spec(2, [7] * 5, 5)]
    simulator = Simulator(machine)
    simulator.add(*specs)
    while simulator.core.has_work:
        simulator.turn()
        assert 2 not in simulator.scheduler.running or 1 in simulator.scheduler.running or 1 in simulator.finished
    assert simulator.scheduler.counts.preemptions >= 1
    check_tokens(simulator, specs)


def test_running_rows_come_before_admissions_in_the_budget() -> None:
    simulator = Simulator(Machine(max_num_batched_tokens=8))
    simulator.add(spec(0, [5] * 4, 10))
    simulator.turn()
    simulator.add(spec(1, [6] * 30, 10))
    for _ in range(4):
        assert 0 in [delta.id for delta in simulator.turn()]
    batch = simulator.scheduler.schedule(0.0)
    assert batch is not None
    assert [row.num_tokens for row in batch.rows] == [1, 2]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_random_disconnects_leave_the_pool_as_it_was(seed: int) -> None:
    random = Random(seed)
    simulator = Simulator(random_machine(random))
    first_id = 0
    for _ in range(4):
        specs = random_specs(random, 10, first_id=first_id, logprobs=None, prompt_logprobs=None)
        play(simulator, random_events(random, specs, aborts=12))
        first_id += 100
    simulator.check_idle()
