"""The turn: order, stops, timing, and what the core tells about itself."""

from __future__ import annotations

import msgspec
import pytest

from octavo.engine.executors.fake import EXIT_CODE, FakeOptions, parse_options, reference
from octavo.errors import StartupError
from octavo.messages import BatchMessage, SequenceSpec, pack_ids
from octavo.sampling import SamplingParams
from octavo.scheduling.cost import StepCost

from ..simulator import Machine, Simulator


def spec(id: int, prompt: list[int], max_tokens: int = 8, **more: object) -> SequenceSpec:
    fields = {"sampling": SamplingParams(temperature=1.0), "max_tokens": max_tokens, "seed": id} | more
    return SequenceSpec(id=id, tokens=pack_ids(prompt), **fields)  # type: ignore[arg-type]


def test_a_step_is_launched_before_the_tokens_of_the_one_before_are_known() -> None:
    for steps_in_flight in (1, 2, 3):
        simulator = Simulator(Machine(steps_in_flight=steps_in_flight))
        simulator.add(spec(0, [5, 6, 7]))
        known = [len(simulator.turn()) for _ in range(4)]
        assert known == [1 if i >= steps_in_flight - 1 else 0 for i in range(4)]


def test_a_chunked_prompt_yields_one_token_at_its_end() -> None:
    simulator = Simulator(Machine(max_num_batched_tokens=4))
    simulator.add(spec(0, [5] * 10, 2))
    assert [len(simulator.turn()) for _ in range(4)] == [0, 0, 1, 1]
    assert simulator.finished[0].reason == "length"


def test_a_stop_token_ends_a_sequence_after_min_tokens_and_is_part_of_its_tokens() -> None:
    free = reference(spec(0, [5, 6]), 40)
    sampling = SamplingParams(temperature=1.0, stop_token_ids=[free[3]])
    simulator = Simulator(Machine(steps_in_flight=2))
    simulator.add(spec(0, [5, 6], sampling=sampling))
    simulator.run()
    assert simulator.tokens[0] == free[: free.index(free[3]) + 1]
    assert (simulator.finished[0].reason, simulator.finished[0].stop) == ("stop", free[3])


def test_an_end_of_sequence_token_is_a_silent_stop() -> None:
    simulator = Simulator(Machine(options=FakeOptions(eos_rate=1.0)))
    simulator.add(spec(0, [5, 6], eos=(2,)), spec(1, [5, 6]))
    simulator.add(spec(2, [5, 6], eos=(2,), sampling=SamplingParams(min_tokens=3)))
    simulator.run()
    assert simulator.tokens[0] == [2]
    assert (simulator.finished[0].reason, simulator.finished[0].stop) == ("stop", None)
    assert simulator.finished[1].reason == "length"
    assert simulator.tokens[2].index(2) == 3


def test_the_context_bounds_the_output() -> None:
    simulator = Simulator(Machine(max_model_len=16))
    simulator.add(spec(0, [5] * 10, 100, sampling=SamplingParams(min_tokens=9, max_tokens=100)))
    simulator.run()
    assert len(simulator.tokens[0]) == 6
    assert simulator.finished[0].reason == "length"


def test_the_first_and_last_deltas_tell_when_things_happened() -> None:
    simulator = Simulator(Machine(max_num_seqs=1))
    simulator.add(spec(0, [5] * 4, 3), spec(1, [6] * 4, 3))
    deltas = [delta for _ in range(6) for delta in simulator.turn() if delta.id == 1]
    assert [delta.timing is not None for delta in deltas] == [True, False, True]
    timing = deltas[0].timing
    assert timing is not None
    assert timing.arrived < timing.admitted <= timing.first_token


def test_the_stats_count_what_happened() -> None:
    simulator = Simulator(Machine(num_pages=(50,)))
    simulator.add(spec(0, [5] * 9, 4))
    simulator.add(spec(1, [5] * 9, 4))
    simulator.turn()
    stats = simulator.core.stats()
    assert (stats.running, stats.waiting, stats.pages_total, stats.prompt_tokens) == (2, 0, 50, 18)
    simulator.abort(0)
    simulator.run()
    stats = simulator.core.stats()
    assert (stats.running, stats.pages_free, stats.finished, stats.aborted, stats.generated_tokens) == (0, 50, 1, 1, 5)
    assert stats.pages_cached > 0
    assert stats.books_wrong == 0


def test_books_that_do_not_balance_are_counted_and_do_not_end_the_core() -> None:
    simulator = Simulator(Machine())
    simulator.add(spec(0, [5] * 9, 4))
    simulator.turn()
    simulator.cache.pools[0].holders[simulator.scheduler.running[0].pages[0][0]] += 1
    assert simulator.core.check_books()
    assert simulator.core.stats().books_wrong == 1


def test_a_stall_ends_one_sequence_with_an_error_instead_of_hanging() -> None:
    simulator = Simulator(Machine(num_pages=(12,)))
    simulator.add(spec(0, [5] * 9, 4))
    simulator.cache.pools[0].take(12)  # a leak that check_books would tell
    deltas = simulator.core.turn()
    assert [delta.finish.reason for delta in deltas if delta.finish] == ["error"]
    assert not simulator.core.has_work


def test_the_step_cost_is_learned_from_steps() -> None:
    cost = StepCost()
    assert cost.estimate(1000) > 1
    for tokens in (4, 64, 8, 500, 16, 4, 4):
        cost.learn(tokens, 0.01 + 0.002 * tokens)
    assert cost.estimate(256) == pytest.approx(0.522, rel=1e-6)
    for _ in range(2000):
        cost.learn(8, 0.026)
    assert cost.estimate(8) == pytest.approx(0.026, rel=1e-3)
    assert cost.estimate(1008) == pytest.approx(2.026, rel=1e-2)
    assert cost.estimate(0) >= 0


def test_the_device_string_sets_the_fake_devices_options() -> None:
    assert parse_options("fake") == FakeOptions()
    options = parse_options("fake:step_ms=5,token_us=0,fail_at=17,fail_times=1,fail_in=sample,die_at=100,eos_rate=0.1")
    assert options == FakeOptions(step_ms=5, fail_at=17, fail_in="sample", die_at=100, eos_rate=0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fake:speed=1", "'speed=1' is unknown"),
        ("fake:step_ms", "'step_ms' is unknown"),
        ("fake:fail_at=soon", "fail_at must be int, got 'soon'"),
        ("fake:fail_in=dream", "launch, sample, result"),
        ("faked", "not a fake one"),
    ],
)
def test_a_wrong_device_option_is_named(text: str, said: str) -> None:
    with pytest.raises(StartupError, match=said):
        parse_options(text)


def test_planned_steps_die_or_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    simulator = Simulator(Machine(options=FakeOptions(die_at=2)))
    simulator.add(spec(0, [5, 6]))
    simulator.run()
    assert codes == [EXIT_CODE]
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    simulator = Simulator(Machine(options=FakeOptions(step_ms=1000, token_us=1000)))
    simulator.add(spec(0, [5] * 40, 1))
    simulator.run()
    assert slept[0] == pytest.approx(1.04, abs=0.5)


def test_the_message_of_a_step_crosses_a_socket_unchanged() -> None:
    simulator = Simulator(Machine())
    simulator.add(spec(0, [5] * 9, 4))
    batch = simulator.scheduler.schedule(0.0)
    assert batch is not None
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(batch.message), type=BatchMessage) == batch.message
