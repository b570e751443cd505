"""The runner over a toy model: results do not depend on chunks, neighbors, slots, preemption or what is in flight."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.engine.executors.local import LocalExecutor
from octavo.messages import BatchMessage, Logprobs, NewRow, RowWork, SequenceSpec, pack_ids
from octavo.sampling import SamplingParams
from octavo.worker.worker import Worker

from .toy import CPU, Driver, ToyBackend, ToyModel, make_runner, make_sizes, make_spec

V = 50  # the model has logits for 64
MODEL = ToyModel(64, windows=(None, 6))
STYLES: list[dict] = [
    {"temperature": 0.0},
    {"temperature": 0.9, "top_p": 0.9, "logprobs": 2},
    {"temperature": 1.2, "top_k": 9, "presence_penalty": 1.0, "frequency_penalty": 0.3},
    {"temperature": 0.0, "repetition_penalty": 1.7, "logprobs": 0, "min_tokens": 4, "eos": (3, 8)},
    {"temperature": 1.0, "min_p": 0.02, "bad_words": ((4,), (5, 6)), "logit_bias": {7: 3.0}},
    {"temperature": 1.0, "allowed_token_ids": list(range(10, 30)), "logprobs": 1},
]
LENGTH = 9  # tokens generated per sequence


def styled(id: int, kind: int) -> SequenceSpec:
    """A sequence whose everything but the id follows from `kind`."""
    prompt = [(kind * 7 + i * i) % V for i in range(3 + kind * 2)]
    return make_spec(id, prompt, seed=kind, **STYLES[kind % len(STYLES)])


def driver(**sizes: int) -> Driver:
    return Driver(make_runner(MODEL, make_sizes(**sizes), num_pages=4000))


def told(results: list) -> tuple[Logprobs, Logprobs]:
    """All log-probabilities of a sequence's samples and of its prompt."""
    samples, prompt = Logprobs([], [], []), Logprobs([], [], [])
    for row in results:
        samples.extend(row.logprobs or Logprobs([], [], []))
        prompt.extend(row.prompt_logprobs or Logprobs([], [], []))
    return samples, prompt


@pytest.fixture(scope="module")
def alone() -> list[tuple[list[int], Logprobs]]:
    """Tokens and log-probabilities of each kind, computed alone and whole."""
    found = []
    for kind in range(len(STYLES) * 2):
        one = driver()
        tokens = one.generate(styled(0, kind), LENGTH)
        found.append((tokens, told(one.results[0])[0]))
    return found


def check_against(alone, d: Driver, id: int, kind: int) -> None:
    tokens, logprobs = alone[kind]
    generated = d.tokens[id][len(d.specs[id].tokens) // 4 :]
    assert generated == tokens[: len(generated)], (kind, generated, tokens)
    assert not any(row.error for row in d.results[id])
    samples = told(d.results[id])[0]
    if samples.ids:
        count = len(generated)
        assert samples.ids == logprobs.ids[:count]
        assert samples.ranks == logprobs.ranks[:count]
        assert np.array_equal(samples.values, logprobs.values[:count])


@pytest.mark.parametrize("at_once", [1, 2, 5, 11])
def test_rows_whose_logits_come_in_parts_get_what_they_get_alone(alone, at_once):
    d = driver(rows=len(STYLES) * 2)
    d.runner.logits_at_once = at_once
    for kind in range(len(STYLES) * 2):
        d.add(styled(kind, kind))
    while any(len(d.results[kind]) < LENGTH for kind in range(len(STYLES) * 2)):
        d.step(dict.fromkeys(range(len(STYLES) * 2), 100))
    for kind in range(len(STYLES) * 2):
        check_against(alone, d, kind, kind)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32))
def test_slots_that_change_owners_leak_nothing(alone, seed):
    rng = random.Random(seed)
    d = driver(rows=rng.randint(1, 6), page=rng.choice((1, 3, 4, 16)))
    kinds: dict[int, int] = {}
    next_id = 0
    for _ in range(60):
        while len(kinds) < d.runner.rows.sizes.max_num_seqs and rng.random() < 0.6:
            kinds[next_id] = rng.randrange(len(alone))
            d.add(styled(next_id, kinds[next_id]))
            next_id += 1
        chosen = [id for id in kinds if rng.random() < 0.8]
        rng.shuffle(chosen)
        if chosen:
            d.step({id: rng.choice((1, 2, 5, 100)) for id in chosen})
        for id in list(kinds):
            check_against(alone, d, id, kinds[id])
            done = len(d.tokens[id]) - len(d.specs[id].tokens) // 4 >= LENGTH
            if done or rng.random() < 0.03:
                d.end(id)
                del kinds[id]
            elif rng.random() < 0.05:
                d.restart(id)


@pytest.mark.parametrize("kind", range(len(STYLES)))
def test_a_preempted_sequence_goes_on_as_if_nothing_had_happened(alone, kind):
    d = driver()
    d.add(styled(1, kind))
    while len(d.tokens[1]) - len(d.specs[1].tokens) // 4 < LENGTH:
        d.step({1: 4})
        if len(d.tokens[1]) - len(d.specs[1].tokens) // 4 in (2, 3, 6) and d.computed[1]:
            d.restart(1)
            while d.computed[1] < len(d.tokens[1]) - 1:
                d.step({1: 4})
    check_against(alone, d, 1, kind)


@pytest.mark.parametrize("chunk", [1, 4, 5, 7, 100])
def test_prompt_logprobs_are_those_of_the_whole_prompt_under_any_chunk(chunk):
    prompt = [(3 * i * i + i) % V for i in range(21)]
    d = driver(page=4)
    d.add(make_spec(0, [9, 9, 9, 9], temperature=0.0))
    spec = make_spec(1, prompt, temperature=0.0, prompt_logprobs=3, logprobs=3)
    d.add(spec)
    while len(d.tokens[1]) < len(prompt) + 3:
        d.step({0: 1, 1: chunk})
    samples, found = told(d.results[1])
    assert len(found.ids) == len(prompt) - 1
    # The other way: the model run over the whole prompt at once, and log-softmax written out.
    one = driver(page=128)
    one.step({one.add(make_spec(2, prompt, temperature=0.0, prompt_logprobs=-1)): 1000})
    whole = told(one.results[2])[1]
    for i, token in enumerate(prompt[1:]):
        table = dict(zip(whole.ids[i], whole.values[i], strict=True))
        assert len(table) == V
        assert sum(np.exp(list(table.values()))) == pytest.approx(1)
        order = sorted(table, key=lambda id: -table[id])
        assert found.ids[i] == [token, *order[:3]]
        assert found.values[i] == pytest.approx([table[id] for id in found.ids[i]], abs=1e-6)
        assert found.ranks[i] == order.index(token) + 1
    assert len(samples.ids) == 3


def test_prefill_of_an_output_gives_the_logprobs_it_was_decoded_with():
    d = driver()
    outputs = d.generate(make_spec(0, [1, 2, 3], seed=4, logprobs=0), 12)
    decoded = [values[0] for values in told(d.results[0])[0].values]
    d.step({d.add(make_spec(1, [1, 2, 3, *outputs], prompt_logprobs=0)): 1000})
    assert [values[0] for values in told(d.results[1])[1].values][2:] == decoded


def launch_ahead(d: Driver, id: int, count: int, flight: int) -> list[int]:
    """`count` tokens of one sequence with `flight` steps launched before the first result is asked for."""
    spec, prompt = d.specs[id], len(d.tokens[id])
    flying, tokens, position, page_count = [], [], 0, 0
    for step in range(count):
        num_tokens = prompt if step == 0 else 1
        position += num_tokens
        more = -(-position // d.page_size) - page_count
        pages = [list(range(d.next_page, d.next_page + more)) for _ in range(d.num_groups)]
        d.next_page += more
        page_count += more
        new = NewRow(spec, spec.tokens, 0) if step == 0 else None
        pending = d.runner.launch(BatchMessage([RowWork(id, 0, num_tokens, True, pages, new)], []))
        d.runner.sample(pending)
        flying.append(pending)
        if len(flying) >= flight:
            tokens += d.runner.result(flying.pop(0)).rows[0].tokens
    return tokens + [token for pending in flying for token in d.runner.result(pending).rows[0].tokens]


@pytest.mark.parametrize("flight", [1, 2, 3])
@pytest.mark.parametrize("at_once", [True, False])
def test_steps_in_flight_do_not_change_tokens(alone, flight, at_once):
    d = driver()
    d.runner.settles_at_once = at_once
    for kind in range(len(STYLES)):
        d.add(styled(kind, kind))
        assert launch_ahead(d, kind, LENGTH, flight) == alone[kind][0]
        d.runner.rows.drop(kind)


def test_an_id_that_arrives_late_does_not_reach_the_slots_next_owner(alone):
    d = driver(rows=1)
    d.runner.settles_at_once = False

    def work(id: int, kind: int) -> RowWork:
        spec, pages = styled(id, kind), list(range(id * 20, id * 20 + 20))
        return RowWork(id, 0, len(spec.tokens) // 4, True, [pages, pages], NewRow(spec, spec.tokens, 0))

    first = d.runner.launch(BatchMessage([work(0, 0)], []))
    d.runner.sample(first)
    second = d.runner.launch(BatchMessage([work(1, 3)], [0]))
    d.runner.sample(second)
    assert d.runner.result(first).rows[0].tokens == alone[0][0][:1]
    assert d.runner.result(second).rows[0].tokens == alone[3][0][:1]
    row = d.runner.rows.index[1]
    known = d.runner.rows.known[row]
    assert d.runner.rows.tokens[row, :known].tolist() == [*np.frombuffer(styled(1, 3).tokens, np.int32), alone[3][0][0]]


def unchecked(id: int, prompt: list[int], **fields: object) -> SequenceSpec:
    """A spec that nobody compared with the vocabulary."""
    return make_spec(id, prompt, temperature=0.0, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"bad_words": ((1, V),)},
        {"bad_words": ((-1,),)},
        {"logit_bias": {V + 3: 1.0}},
        {"allowed_token_ids": [2, 10**6]},
        {"stop_token_ids": [V], "min_tokens": 1},
        {"eos": (-5,), "min_tokens": 1},
        {"prompt": [1, V + 20, 2]},
        {"prompt": [1, -7, 2]},
    ],
)
def test_an_id_outside_the_vocabulary_is_its_own_rows_error_and_nobody_elses(alone, fields):
    d = driver(rows=3)
    fields = dict(fields)
    d.add(unchecked(5, fields.pop("prompt", [1, 2, 3]), **fields))
    d.add(styled(0, 2))
    d.add(styled(1, 1))
    for _ in range(LENGTH):
        d.step({0: 100, 5: 100, 1: 100} if not d.results[5] else {0: 100, 1: 100})
    check_against(alone, d, 0, 2)
    check_against(alone, d, 1, 1)
    (wrong,) = d.results[5]
    assert wrong.tokens == []
    assert "outside the vocabulary [0, 50)" in wrong.error
    d.end(5)
    d.step({d.add(styled(6, 4)): 100})  # the slot is as good as new
    check_against(alone, d, 6, 4)


def test_logits_that_are_no_numbers_end_their_own_row_alone(alone):
    model = ToyModel(64, windows=(None, 6))
    model.nan_token = 49
    d = Driver(make_runner(model, make_sizes()))
    d.add(styled(0, 0))
    d.add(make_spec(1, [1, 49], temperature=0.0, logprobs=1))
    d.add(make_spec(2, [1, 49, 2], temperature=0.0, prompt_logprobs=1))
    d.add(styled(3, 1))
    result = d.step(dict.fromkeys(range(4), 100))
    assert [row.error is None for row in result.rows] == [True, False, False, True]
    assert "not finite" in result.rows[1].error
    assert result.rows[1].tokens == result.rows[2].tokens == []
    for _ in range(3):
        d.step({0: 1, 3: 1})
    check_against(alone, d, 0, 0)
    check_against(alone, d, 3, 1)


def test_rows_that_compute_without_emitting_have_a_result_and_no_token():
    d = driver()
    result = d.step({d.add(styled(0, 5)): 2, d.add(styled(1, 0)): 100})
    assert [(row.id, len(row.tokens)) for row in result.rows] == [(0, 0), (1, 1)]


def test_the_local_executor_runs_a_worker_and_takes_masks():
    worker = Worker(MODEL, ToyBackend(), torch.float32, CPU)
    executor = LocalExecutor(worker)
    with pytest.raises(RuntimeError, match="allocate"):
        executor.launch(BatchMessage([], []))
    worker.allocate((40, 40), make_sizes())
    spec = SequenceSpec(3, pack_ids([1, 2]), SamplingParams(temperature=0.0), 4, 0)
    step = executor.launch(BatchMessage([RowWork(3, 7, 2, True, [[0], [0]], NewRow(spec, spec.tokens, 0))], []))
    mask = np.zeros(2, np.int32)
    mask[1] = 1 << (45 - 32)
    step.sample(mask[None])
    (row,) = step.result().rows
    assert (row.id, row.epoch, row.tokens, row.error) == (3, 7, [45], None)
    executor.stop()
    with pytest.raises(RuntimeError, match="allocate"):
        executor.launch(BatchMessage([], []))
