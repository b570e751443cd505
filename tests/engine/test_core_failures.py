"""What breaks ends where it belongs: in one sequence, in one step, or with the device (R8-R11)."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from octavo.engine.executors.executor import DeviceLost
from octavo.engine.executors.fake import FakeExecutor, FakeOptions, FakeStep
from octavo.messages import BatchMessage, RowResult, SequenceSpec, StepResult, pack_ids, unpack_ids
from octavo.sampling import SamplingParams

from ..simulator import Machine, Simulator, check_tokens, play, random_events, random_machine, random_specs

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
SEEDS = st.integers(0, 2**32)


def spec(id: int, prompt: list[int], max_tokens: int = 8, **more: object) -> SequenceSpec:
    fields = {"sampling": SamplingParams(temperature=1.0), "max_tokens": max_tokens, "seed": id} | more
    return SequenceSpec(id=id, tokens=pack_ids(prompt), **fields)  # type: ignore[arg-type]


def some_specs(count: int = 6) -> list[SequenceSpec]:
    return [spec(i, [3 + i, *range(4, 20)], 10) for i in range(count)]


@pytest.mark.parametrize("steps_in_flight", [1, 2, 3])
@pytest.mark.parametrize("phase", ["launch", "sample", "result"])
def test_a_step_that_fails_once_changes_no_token(phase: str, steps_in_flight: int) -> None:
    for step in (1, 2, 5):
        options = FakeOptions(fail_at=step, fail_in=phase)
        simulator = Simulator(Machine(options=options, steps_in_flight=steps_in_flight))
        specs = some_specs()
        simulator.add(*specs)
        simulator.run()
        assert simulator.executor.failures == 1
        check_tokens(simulator, specs)
        simulator.check_idle()


@QUICK
@example(33967)  # a failed step's `gone` named a sequence that a later step had admitted again
@given(SEEDS)
def test_failures_at_any_step_change_no_token_of_what_survives(seed: int) -> None:
    random = Random(seed)
    options = FakeOptions(
        fail_at=random.randrange(1, 12),
        fail_times=random.randrange(1, 4),
        fail_in=random.choice(("launch", "sample", "result")),
    )
    specs = random_specs(random, 8)
    simulator = play(Simulator(random_machine(random, options=options)), random_events(random, specs, aborts=1))
    failed = [one for one in specs if one.id in simulator.finished and simulator.finished[one.id].reason == "error"]
    assert len(failed) <= options.fail_times - 1
    check_tokens(simulator, [one for one in specs if one not in failed])
    for one in failed:
        tokens = simulator.tokens[one.id]
        assert tokens == simulator.expected(one)[: len(tokens)]
    simulator.check_idle()
    after = [replace_id(one, 100 + one.id) for one in specs]
    simulator.add(*after)
    simulator.run()
    check_tokens(simulator, after)  # no hit on a page that a failed step had half written


def replace_id(one: SequenceSpec, id: int) -> SequenceSpec:
    values = {name: getattr(one, name) for name in one.__struct_fields__} | {"id": id, "leader": None}
    return SequenceSpec(**values)


def test_a_device_that_always_fails_ends_every_sequence_with_an_error() -> None:
    simulator = Simulator(Machine(options=FakeOptions(fail_at=3, fail_times=10**9)))
    simulator.add(*some_specs())
    simulator.run()
    assert {finish.reason for finish in simulator.finished.values()} == {"error"}
    assert len(simulator.finished) == 6
    simulator.check_idle()


def test_a_sequence_that_breaks_every_step_it_is_in_takes_no_other_with_it() -> None:
    for steps_in_flight in (1, 2):
        machine = Machine(options=FakeOptions(fail_token=39), steps_in_flight=steps_in_flight)
        simulator = Simulator(machine)
        sampling = SamplingParams(temperature=1.0, allowed_token_ids=[5, 6, 7])
        good = [spec(i, [3 + i, *range(4, 20)], 10, sampling=sampling) for i in range(6)]
        bad = [spec(10, [39, 5]), spec(11, [4] * 20 + [39])]
        simulator.add(*good[:3], *bad, *good[3:])
        simulator.run()
        check_tokens(simulator, good)
        assert [simulator.finished[one.id].reason for one in bad] == ["error", "error"]
        assert "FakeFault" in str(simulator.finished[10].message)
        simulator.check_idle()


def test_an_error_of_one_row_ends_that_sequence_only() -> None:
    simulator = Simulator(Machine(options=FakeOptions(row_error=39), steps_in_flight=2))
    good, bad = some_specs(), spec(10, [39, 5])
    simulator.add(bad, *good)
    simulator.run()
    check_tokens(simulator, good)
    assert simulator.finished[10].message == "the prompt holds token 39"
    simulator.check_idle()


def test_a_lost_device_ends_the_core() -> None:
    simulator = Simulator(Machine(options=FakeOptions(lost_at=3)))
    simulator.add(*some_specs())
    with pytest.raises(DeviceLost):
        simulator.run()


def test_what_can_never_run_is_refused_at_once() -> None:
    simulator = Simulator(Machine(num_pages=(8,), page_size=4))
    simulator.add(spec(0, [5] * 48), spec(1, [5] * 20, 25), spec(2, []), spec(3, [5], 0), spec(4, [5] * 20, 13))
    simulator.add(SequenceSpec(5, b"\0" * 7, SamplingParams(), 3, 0))
    deltas = simulator.turn()
    refused = {delta.id: (delta.finish.field, delta.finish.message) for delta in deltas if delta.finish}
    assert {id: field for id, (field, _) in refused.items()} == {
        0: "prompt",
        1: "max_tokens",
        2: "prompt",
        3: "max_tokens",
        5: "prompt",
    }
    assert "48 tokens" in refused[0][1] and "max_model_len=48" in refused[0][1]
    assert "11 cache pages but there are 8" in refused[1][1]
    simulator.run()
    assert simulator.finished[4].reason == "length"  # exactly fills the cache


class Careless(FakeExecutor):
    """A worker that shuffles, doubles, invents and sometimes loses results."""

    random: Random
    loses = False

    def launch(self, batch: BatchMessage) -> FakeStep:
        step = super().launch(batch)
        result = step.result
        step.result = lambda: self.garble(result())  # type: ignore[method-assign]
        return step

    def garble(self, result: StepResult) -> StepResult:
        rows = list(result.rows)
        if self.random.random() < 0.5:
            rows.append(self.random.choice(rows))
        if self.random.random() < 0.5:
            rows.append(RowResult(self.random.randrange(10**6, 10**7), 0, [5]))
        if self.random.random() < 0.5:
            rows.append(RowResult(rows[0].id, rows[0].epoch + 1, [5]))
        self.random.shuffle(rows)
        if self.loses and self.random.random() < 0.2:
            rows = rows[1:]
        return StepResult(rows)


class CarelessSimulator(Simulator):
    executor_class = Careless


@QUICK
@given(SEEDS)
def test_late_duplicate_and_unknown_messages_are_counted_and_ignored(seed: int) -> None:
    random = Random(seed)
    specs = random_specs(random, 10)
    simulator = CarelessSimulator(random_machine(random))
    simulator.executor.random = random  # type: ignore[attr-defined]
    unknown = 0
    todo = list(specs)
    while todo or simulator.core.has_work:
        match random.randrange(5):
            case 0 if todo:
                simulator.add(todo.pop(0))
            case 1 if simulator.scheduler.live:
                simulator.core.add([replace_id(specs[0], random.choice(list(simulator.scheduler.live)))])
                unknown += 1
            case 2:
                ended = [id for id in simulator.finished if id not in simulator.scheduler.live]
                simulator.core.abort([10**6, *ended[:1]])
                unknown += 1 + len(ended[:1])
            case 3 if random.random() < 0.2 and simulator.scheduler.live:
                simulator.abort(random.choice(list(simulator.scheduler.live)))
            case _:
                simulator.turn()
    check_tokens(simulator, specs)
    simulator.check_idle()
    assert simulator.scheduler.counts.late >= unknown
    assert not simulator.scheduler.counts.errors


@QUICK
@given(SEEDS)
def test_a_lost_result_ends_its_sequence_and_no_other(seed: int) -> None:
    random = Random(seed)
    specs = random_specs(random, 8)
    simulator = CarelessSimulator(random_machine(random))
    simulator.executor.random = random  # type: ignore[attr-defined]
    simulator.executor.loses = True  # type: ignore[attr-defined]
    play(simulator, random_events(random, specs))
    assert set(simulator.finished) == {one.id for one in specs}
    check_tokens(simulator, [one for one in specs if simulator.finished[one.id].reason != "error"])
    simulator.check_idle()


def test_an_aborted_sequence_frees_its_pages_within_the_step() -> None:
    simulator = Simulator(Machine(steps_in_flight=2))
    simulator.add(spec(0, list(range(3, 33)), 15), spec(1, [7] * 9, 15))
    simulator.turn()
    simulator.turn()
    held = sum(map(bool, simulator.cache.pools[0].holders))
    simulator.abort(0)
    assert sum(map(bool, simulator.cache.pools[0].holders)) == held - 8
    simulator.run()
    assert unpack_ids(pack_ids(simulator.tokens[1])) == simulator.expected(spec(1, [7] * 9, 15))
