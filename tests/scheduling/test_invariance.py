"""Tokens depend on the request alone, never on how its steps are cut (R66), and no page is lost on the way (R12)."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.engine.executors.fake import FakeOptions
from octavo.messages import SequenceSpec, pack_ids
from octavo.sampling import SamplingParams
from octavo.scheduling.policy import FCFS, Priority
from octavo.thinking import ThinkingBudget

from ..simulator import Machine, Simulator, check_tokens, play, random_events, random_machine, random_specs

QUICK = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
SEEDS = st.integers(0, 2**32)


def spec(id: int, prompt: list[int], max_tokens: int = 8, **more: object) -> SequenceSpec:
    fields = {"sampling": SamplingParams(temperature=1.0), "max_tokens": max_tokens, "seed": id} | more
    return SequenceSpec(id=id, tokens=pack_ids(prompt), **fields)  # type: ignore[arg-type]


@QUICK
@given(SEEDS)
def test_tokens_do_not_depend_on_how_steps_are_cut(seed: int) -> None:
    random = Random(seed)
    machine = random_machine(random, policy=random.choice((FCFS, Priority)), options=FakeOptions(eos_rate=0.05))
    specs = random_specs(random, random.randrange(1, 16))
    simulator = play(Simulator(machine), random_events(random, specs))
    check_tokens(simulator, specs)
    simulator.check_idle()
    assert not simulator.scheduler.counts.errors
    assert not simulator.scheduler.counts.late


@settings(QUICK, max_examples=20)
@given(SEEDS)
def test_a_bound_on_thinking_does_not_depend_on_how_steps_are_cut(seed: int) -> None:
    random = Random(seed)
    machine = random_machine(random)
    specs = [
        msgspec.structs.replace(
            one,
            thinking=ThinkingBudget(
                random.randrange(6),
                (random.randrange(3, 40),),
                tuple(random.sample(range(3, 40), 2)),
                random.random() < 0.7,
            ),
        )
        for one in random_specs(random, random.randrange(1, 16))
    ]
    simulator = play(Simulator(machine), random_events(random, specs))
    check_tokens(simulator, specs)
    for one in specs:
        told, bound = simulator.tokens.get(one.id, []), one.thinking
        if bound is not None and bound.is_inside and len(told) > bound.tokens + len(bound.end):
            assert any(tuple(told[at : at + 2]) == bound.end for at in range(bound.tokens + 1))


@settings(QUICK, max_examples=15)
@given(SEEDS)
def test_logprobs_and_prompt_logprobs_do_not_depend_on_how_steps_are_cut(seed: int) -> None:
    random = Random(seed)
    machine = random_machine(random, num_pages=None, windows=None)
    page_size = machine.page_size
    machine = replace(machine, windows=(None,), num_pages=(-(-48 // page_size) + random.choice((0, 1, 3)),))
    specs = random_specs(random, 6, prompt_logprobs=2, logprobs=1)
    cut = play(Simulator(machine), random_events(random, specs))
    for one in specs:
        alone = Simulator(Machine())
        alone.add(replace_leader(one))
        alone.run()
        assert cut.logprobs[one.id] == alone.logprobs[one.id]
        scores = cut.first[one.id].prompt_logprobs
        assert scores == alone.first[one.id].prompt_logprobs
        prompt_len = len(one.tokens) // 4
        assert len(scores.ids if scores else ()) == prompt_len - 1


def replace_leader(one: SequenceSpec) -> SequenceSpec:
    values = {name: getattr(one, name) for name in one.__struct_fields__} | {"leader": None}
    return SequenceSpec(**values)


@QUICK
@given(SEEDS)
def test_aborts_at_any_phase_free_everything_and_change_nobody_else(seed: int) -> None:
    random = Random(seed)
    machine = random_machine(random, policy=random.choice((FCFS, Priority)))
    specs = random_specs(random, random.randrange(2, 14))
    simulator = play(Simulator(machine), random_events(random, specs, aborts=6))
    check_tokens(simulator, specs)
    simulator.check_idle()
    assert not simulator.scheduler.counts.errors


def test_a_pool_for_one_sequence_serves_many_by_preemption() -> None:
    random = Random(1)
    machine = Machine(num_pages=(12,), page_size=4, max_num_seqs=6, prefix_caching=False, steps_in_flight=2)
    specs = [spec(i, [random.randrange(3, 40) for _ in range(8)], 30) for i in range(12)]
    simulator = Simulator(machine)
    simulator.add(*specs)
    simulator.run()
    check_tokens(simulator, specs)
    assert simulator.scheduler.counts.preemptions > 5
    simulator.check_idle()


def test_a_repeated_prompt_is_computed_once() -> None:
    prompt = list(range(3, 35))
    simulator = Simulator(Machine())
    simulator.add(spec(0, prompt))
    simulator.run()
    simulator.add(spec(1, prompt))
    simulator.run()
    assert simulator.first[0].cached == 0
    assert simulator.first[1].cached == 28  # seven full pages; the last token is computed for its logits
    check_tokens(simulator, [spec(0, prompt), spec(1, prompt)])


def test_a_conversation_reuses_its_own_answers() -> None:
    first = spec(0, list(range(3, 13)), 9)
    simulator = Simulator(Machine())
    simulator.add(first)
    simulator.run()
    second = spec(1, list(range(3, 13)) + simulator.tokens[0] + [5, 6])
    simulator.add(second)
    simulator.run()
    assert simulator.first[1].cached == 16
    check_tokens(simulator, [first, second])


def test_salts_and_prompt_logprobs_do_not_read_what_others_left() -> None:
    prompt = list(range(3, 35))
    scored = SamplingParams(temperature=1.0, prompt_logprobs=1)
    simulator = Simulator(Machine())
    specs = [spec(0, prompt), spec(1, prompt, salt=b"other"), spec(2, prompt, sampling=scored)]
    for one in specs:
        simulator.add(one)
        simulator.run()
    assert [simulator.first[i].cached for i in range(3)] == [0, 0, 0]
    check_tokens(simulator, specs)


def test_siblings_share_the_prompt_even_without_prefix_caching() -> None:
    prompt = list(range(3, 35))
    for prefix_caching in (True, False):
        simulator = Simulator(Machine(prefix_caching=prefix_caching))
        specs = [spec(0, prompt), *(spec(i, prompt, leader=0) for i in range(1, 5)), spec(9, prompt)]
        simulator.add(*specs)
        simulator.run()
        assert [simulator.first[i].cached for i in range(5)] == [0, 28, 28, 28, 28]
        if not prefix_caching:
            assert simulator.first[9].cached == 0
        check_tokens(simulator, specs)


def test_followers_wait_for_their_leader_and_go_on_without_it() -> None:
    prompt = list(range(3, 35))
    simulator = Simulator(Machine(max_num_batched_tokens=8, prefix_caching=False))
    specs = [spec(0, prompt), spec(1, prompt, leader=0), spec(2, prompt, leader=0)]
    simulator.add(*specs)
    simulator.turn()
    assert list(simulator.scheduler.running) == [0]
    simulator.abort(1)
    simulator.abort(0)
    simulator.run()
    assert list(simulator.finished) == [2]
    check_tokens(simulator, specs)


def test_a_window_keeps_only_its_own_pages() -> None:
    machine = Machine(num_pages=(40, 5), page_size=2, windows=(None, 4), max_num_seqs=1, max_num_batched_tokens=2)
    one = spec(0, [5] * 20, 20)
    simulator = Simulator(machine)
    simulator.add(one)
    most = 0
    while simulator.core.has_work:
        simulator.turn()
        most = max(most, sum(1 for holders in simulator.cache.pools[1].holders if holders))
    check_tokens(simulator, [one])
    assert most <= 4
