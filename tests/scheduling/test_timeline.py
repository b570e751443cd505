"""What the scheduler says of each sequence is what happened: its events, why it waited, and changes between steps."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.engine.executors.fake import FakeOptions
from octavo.errors import InvalidRequest
from octavo.messages import Control, Event, SequenceSpec, Timeline, pack_ids
from octavo.sampling import SamplingParams
from octavo.scheduling.policy import FCFS, Priority
from octavo.scheduling.timeline import MAX_EVENTS, EventLog, History, Tallier, WaitClock
from octavo.thinking import ThinkingBudget

from ..simulator import Machine, Simulator, check_tokens, play, random_events, random_machine, random_specs


def spec(id: int, prompt: list[int], max_tokens: int = 8, **more: object) -> SequenceSpec:
    fields = {"sampling": SamplingParams(temperature=1.0), "max_tokens": max_tokens, "seed": id} | more
    return SequenceSpec(id=id, tokens=pack_ids(prompt), **fields)  # type: ignore[arg-type]


def timeline(simulator: Simulator, id: int) -> Timeline:
    (found,) = simulator.scheduler.timelines([id])
    return found


def of_kind(found: Timeline, kind: str) -> list[Event]:
    return [event for event in found.events if event.kind == kind]


def kinds(found: Timeline) -> list[str]:
    return [event.kind for event in found.events]


def test_a_lone_sequence_is_queued_admitted_computed_and_ended() -> None:
    simulator = Simulator(Machine(max_num_batched_tokens=4))
    simulator.add(spec(0, [5] * 10, 3))
    simulator.run()
    found = timeline(simulator, 0)
    assert kinds(found) == ["queued", "admitted", "chunk", "chunk", "chunk", "first_token", "ended"]
    assert [event.tokens for event in of_kind(found, "chunk")] == [4, 4, 2]
    assert [event.step for event in of_kind(found, "chunk")] == [0, 1, 2]
    assert (found.state, found.prompt_tokens, found.generated_tokens) == ("ended", 10, 3)
    assert (of_kind(found, "ended")[0].reason, of_kind(found, "ended")[0].tokens) == ("length", 3)


def test_the_cached_part_of_a_prompt_is_told_at_admission() -> None:
    simulator = Simulator(Machine(page_size=4))
    simulator.add(spec(0, [5] * 12, 2))
    simulator.run()
    simulator.add(spec(1, [5] * 12, 2))
    simulator.run()
    found = timeline(simulator, 1)
    assert of_kind(found, "admitted")[0].tokens == 8
    assert [event.tokens for event in of_kind(found, "chunk")] == [4]


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Machine(max_num_seqs=1), "rows"),
        (Machine(num_pages=(12,), page_size=4, max_num_seqs=8), "pages"),
        (Machine(max_num_batched_tokens=20, num_pages=(64,)), "budget"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wait_says_what_the_head_of_the_queue_lacked(machine: Machine, reason: str) -> None:
    simulator = Simulator(machine)
    simulator.add(*(spec(id, [5 + id] * 18, 12) for id in range(4)))
    simulator.run()
    first, last = (of_kind(timeline(simulator, id), "admitted")[0] for id in (0, 3))
    assert first.waits == {}
    assert last.waits is not None
    assert last.waits[reason] == max(last.waits.values()) > 0
    queued = of_kind(timeline(simulator, 3), "queued")[0]
    assert queued.ahead == 3 <= last.ahead  # who was preempted is admitted once more
    assert sum(last.waits.values()) == pytest.approx(last.at - queued.at)


def test_a_follower_is_held_for_its_leader() -> None:
    simulator = Simulator(Machine(max_num_batched_tokens=4))
    simulator.add(spec(0, [5] * 10, 2), spec(1, [5] * 10, 2, leader=0))
    simulator.turn()
    assert timeline(simulator, 1).state == "held"
    simulator.run()
    held, queued = timeline(simulator, 1).events[:2]
    assert (held.kind, held.reason, queued.kind) == ("held", "leader", "queued")
    assert queued.at > held.at


def test_a_preemption_names_its_cause() -> None:
    for policy, reason in ((FCFS, "pages"), (Priority, "priority")):
        rows = 8 if policy is FCFS else 1
        simulator = Simulator(Machine(num_pages=(13,), page_size=4, max_num_seqs=rows, policy=policy))
        simulator.add(spec(0, [5] * 16, 20, priority=1))
        simulator.turn()
        simulator.add(spec(1, [6] * 16, 20, priority=0))
        simulator.run()
        victim = 1 if policy is FCFS else 0
        (preempted, *_) = of_kind(timeline(simulator, victim), "preempted")
        assert preempted.reason == reason
        assert preempted.tokens > 0
        assert len(of_kind(timeline(simulator, victim), "admitted")) == 2


def test_a_failed_step_is_told_and_the_retry_is_a_wait() -> None:
    simulator = Simulator(Machine(options=FakeOptions(fail_at=2)))
    simulator.add(spec(0, [5, 6], 4), spec(1, [7, 8], 4))
    simulator.run()
    for id in (0, 1):
        assert kinds(timeline(simulator, id))[4:8] == ["failed_step", "held", "queued", "admitted"]
        assert of_kind(timeline(simulator, id), "held")[0].reason == "retry"


def test_steps_without_a_share_are_counted() -> None:
    simulator = Simulator(Machine(max_num_batched_tokens=1, max_num_seqs=2))
    simulator.add(spec(0, [5], 6), spec(1, [6], 6))
    simulator.run()
    assert timeline(simulator, 0).stalled + timeline(simulator, 1).stalled == 0  # the second waits its turn instead
    simulator = Simulator(Machine(max_num_batched_tokens=2, max_num_seqs=2))
    simulator.add(spec(0, [5], 12), spec(1, [6], 12))
    simulator.turn()
    simulator.scheduler.max_num_batched_tokens = 1
    simulator.turn()
    simulator.turn()
    assert timeline(simulator, 1).stalled == 2


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_every_story_adds_up(seed: int) -> None:
    random = Random(seed)
    specs = random_specs(random, 12)
    simulator = Simulator(random_machine(random, policy=random.choice((FCFS, Priority))))
    play(simulator, random_events(random, specs, aborts=3))
    check_tokens(simulator, specs)
    for one in specs:
        found = timeline(simulator, one.id)
        events = found.events
        assert [event.at for event in events] == sorted(event.at for event in events)
        assert found.state == "ended" and kinds(found)[-1] == "ended" and kinds(found).count("ended") == 1
        waits_for = None
        computed = 0
        for event in events:
            if event.kind == "queued":
                waits_for = event.at
            elif event.kind == "admitted":
                assert waits_for is not None and event.waits is not None
                assert sum(event.waits.values()) == pytest.approx(event.at - waits_for)
                computed = event.tokens
            elif event.kind == "chunk":
                computed += event.tokens
            elif event.kind == "first_token":
                assert computed >= found.prompt_tokens
        tokens = simulator.tokens.get(one.id, [])
        assert found.generated_tokens == len(tokens)
    gaps = simulator.core.stats().gap_seconds
    assert sum(gaps.counts) == sum(max(0, len(tokens) - 1) for tokens in simulator.tokens.values())


# ---- Changes between two steps.


def control(simulator: Simulator, *ids: int, **change: object) -> list[Timeline]:
    reply = simulator.core.control(Control(7, list(ids), **change))  # type: ignore[arg-type]
    assert reply.number == 7
    if reply.refused:
        raise InvalidRequest(reply.refused, reply.field)
    return reply.timelines


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_a_new_max_tokens_gives_the_tokens_that_it_had_given_from_the_start(seed: int) -> None:
    random = Random(seed)
    specs = random_specs(random, 6, stop_token_ids=None, min_tokens=0, logprobs=None, prompt_logprobs=None)
    specs = [msgspec.structs.replace(one, leader=None) for one in specs]
    simulator = Simulator(random_machine(random))
    simulator.add(*specs)
    after = []
    for one in specs:
        for _ in range(random.randrange(6)):
            simulator.turn()
        wanted = random.randrange(1, 18)
        known = len(simulator.tokens.get(one.id, []))
        ended = one.id in simulator.finished
        control(simulator, one.id, max_tokens=wanted)
        after.append(one if ended else msgspec.structs.replace(one, max_tokens=max(wanted, known)))
    simulator.run()
    check_tokens(simulator, after)
    simulator.check_idle()


def test_a_max_tokens_that_cannot_fit_is_refused_and_changes_nothing() -> None:
    simulator = Simulator(Machine(num_pages=(6,), page_size=4))
    simulator.add(spec(0, [5] * 8, 4), spec(1, [5] * 2, 4))
    with pytest.raises(InvalidRequest) as error:
        control(simulator, 1, 0, max_tokens=40)
    assert error.value.field == "max_tokens"
    simulator.run()
    assert [len(simulator.tokens[id]) for id in (0, 1)] == [4, 4]


def test_a_cancelled_sequence_keeps_its_tokens_and_ends_as_aborted() -> None:
    for steps_in_flight in (1, 2, 3):
        simulator = Simulator(Machine(steps_in_flight=steps_in_flight))
        simulator.add(spec(0, [5, 6], 30), spec(1, [7, 8], 5), spec(2, [5, 6], 30, leader=0))
        for _ in range(6):
            simulator.turn()
        known = len(simulator.tokens[0])
        (told, held) = control(simulator, 0, 2, 99, cancel=True)
        assert (told.state, told.generated_tokens, held.state) == ("ended", known, "ended")
        simulator.run()
        assert simulator.finished[0].reason == simulator.finished[2].reason == "abort"
        assert len(simulator.tokens[0]) == known
        check_tokens(simulator, [spec(1, [7, 8], 5)])
        simulator.check_idle()
        assert simulator.core.stats().aborted == 2


def test_a_sequence_that_waits_can_be_changed_and_cancelled() -> None:
    simulator = Simulator(Machine(max_num_seqs=1))
    simulator.add(spec(0, [5, 6], 6), spec(1, [7, 8], 6), spec(2, [7, 9], 6))
    simulator.turn()
    control(simulator, 1, max_tokens=2)
    assert timeline(simulator, 2).ahead == 1
    control(simulator, 1, 2, cancel=True)
    simulator.run()
    assert {id: finish.reason for id, finish in simulator.finished.items()} == {0: "length", 1: "abort", 2: "abort"}


# ---- The parts.


def test_the_wait_clock_books_time_on_the_reason_that_held() -> None:
    clock = WaitClock()
    clock.tick(2.0)
    clock.reason = "rows"
    start = clock.read(3.0)
    clock.tick(5.0)
    clock.reason = "pages"
    assert clock.between(start, 5.5) == {"rows": 2.0, "pages": 0.5}


def test_an_event_log_is_bounded_and_keeps_the_end() -> None:
    log = EventLog()
    log.add(0.0, "queued")
    for i in range(10 * MAX_EVENTS):
        log.add(float(i), "chunk", i, 1)
    log.add(1e6, "preempted")
    log.add(1e6, "ended", reason="stop")
    assert len(log.events) == MAX_EVENTS + 1
    assert log.events[-1].reason == "stop"
    assert sum(event.tokens for event in log.events) == 10 * MAX_EVENTS


def test_the_history_forgets_the_oldest() -> None:
    history = History(kept=3)
    for id in range(10):
        history.keep(Timeline(id, "ended", 1, 1, 1, []))
    assert list(history.timelines) == [7, 8, 9]


def test_a_tally_counts_each_value_under_its_bound() -> None:
    tallier = Tallier((1, 5))
    for value, times in ((0.5, 1), (1, 2), (3, 1), (7, 4)):
        tallier.add(value, times)
    assert (tallier.tally.counts, tallier.tally.total) == ([3, 1, 4], 33.5)


def test_reasoning_ends_with_the_next_tokens_and_what_was_told_stays() -> None:
    end = (7, 9)
    for steps_in_flight in (1, 2, 3):
        for turns in (0, 3, 9):
            machine = Machine(num_pages=(24,), page_size=4, max_num_seqs=2, steps_in_flight=steps_in_flight)
            simulator = Simulator(machine)
            wanted = spec(0, [5, 6, 8], 20)
            simulator.add(wanted, spec(1, [8, 8], 25), spec(2, [9, 8], 25))
            for _ in range(turns):
                simulator.turn()
            known = list(simulator.tokens.get(0, ()))
            told = control(simulator, 0, thinking=ThinkingBudget(0, (), end, is_inside=True))
            assert told[0].generated_tokens == len(known)
            simulator.run()
            tokens = simulator.tokens[0]
            assert tokens[: len(known)] == known == simulator.expected(wanted)[: len(known)]
            assert tokens[len(known) : len(known) + 2] == list(end)
            # From there on as if it had been so from the start.
            rest = spec(0, [5, 6, 8, *known, *end], 18 - len(known))
            assert tokens[len(known) + 2 :] == simulator.expected(rest)
            check_tokens(simulator, [spec(1, [8, 8], 25), spec(2, [9, 8], 25)])
            simulator.check_idle()
