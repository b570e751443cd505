"""The sampler against its oracle, its distribution, and its independence of neighbors."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.messages import NewRow, SequenceSpec, pack_ids
from octavo.platforms import native
from octavo.sampling import SamplingParams
from octavo.worker.rows import RowFields, Rows, Sizes
from octavo.worker.sampling.logits import StepLogits
from octavo.worker.sampling.native_logits import NativeLogits
from octavo.worker.sampling.processors import pipeline
from octavo.worker.sampling.random import uniforms
from octavo.worker.sampling.sampler import FINE, NOT_FINITE, NOTHING_LEFT, Parameters, Sampled, Sampler
from octavo.worker.sampling.torch_logits import LISTED, Filters, TorchLogits, draw

from .oracle import distribution, pick, processed
from .toy import make_spec

V = 23
BACKENDS = {"torch": TorchLogits, "native": NativeLogits}
PENALTIES = (0.0, 0.5, 2.0, -1.0)


@pytest.fixture(scope="module", params=BACKENDS)
def on(request: pytest.FixtureRequest) -> type[StepLogits]:
    if request.param == "native" and native.library is None:
        pytest.skip(f"the native library is not installed: {native.missing}")
    return BACKENDS[request.param]


class Bench:
    """Rows and a sampler without a model: sequences with these outputs are about to get their next token."""

    def __init__(
        self, on: type[StepLogits], specs: list[SequenceSpec], outputs: list[list[int]], vocab_size: int = V
    ) -> None:
        sizes = Sizes(max(1, len(specs)), 64, 4096, 16, vocab_size)
        fields = RowFields(sizes.max_num_seqs, poison=True)
        self.table = Rows(sizes, 1, fields)
        self.parameters = Parameters(fields)
        processors = pipeline(self.table)
        self.sampler = Sampler(self.table, self.parameters, processors, on)
        self.table.states = (self.parameters, *processors, self.sampler)
        for spec, out in zip(specs, outputs, strict=True):
            self.table.admit(spec.id, NewRow(spec, spec.tokens + pack_ids(out), 0))
        self.rows = np.array([self.table.index[spec.id] for spec in specs])
        self.positions = self.table.known[self.rows].copy()

    def sample(self, logits: np.ndarray, order: list[int] | None = None, mask: np.ndarray | None = None) -> Sampled:
        order = list(range(len(self.rows))) if order is None else order
        return self.sampler(torch.tensor(logits[order]), self.rows[order], self.positions[order], mask)


def some_spec(rng: random.Random, id: int) -> SequenceSpec:
    """Any combination of parameters."""
    maybe = lambda value: value if rng.random() < 0.3 else None
    ids = lambda low, high: [rng.randrange(V) for _ in range(rng.randint(low, high))]
    params = SamplingParams(
        temperature=rng.choice((0.0, 0.3, 0.7, 1.0, 1.9)),
        top_k=rng.choice((0, 0, 1, 2, 5, V - 1, V, 10**6)),
        top_p=rng.choice((1.0, 1.0, 0.99, 0.9, 0.5, 0.01)),
        min_p=rng.choice((0.0, 0.0, 0.02, 0.3, 1.0)),
        presence_penalty=rng.choice((0.0, 0.5, 2.0, -1.0)),
        frequency_penalty=rng.choice((0.0, 0.5, 2.0, -1.0)),
        repetition_penalty=rng.choice((1.0, 1.3, 0.6)),
        max_tokens=50,
        min_tokens=rng.choice((0, 0, 2, 5)),
        stop_token_ids=maybe(ids(0, 2)),
        logit_bias=maybe({id: rng.choice((-100.0, -1.5, 0.25, 3.0)) for id in ids(0, 3)}),
        allowed_token_ids=maybe(ids(1, 12)),
        logprobs=maybe(rng.choice((0, 3, -1))),
    )
    words = tuple(tuple(ids(1, 3)) for _ in range(rng.randint(0, 3)))
    return SequenceSpec(id, pack_ids(ids(1, 5)), params, 50, rng.randrange(-(2**63), 2**63), tuple(ids(0, 2)), words)


def some_logits(rng: random.Random, rows: int) -> np.ndarray:
    """Logits [rows, V]; now and then coarse ones, so that many are equal."""
    logits = np.random.default_rng(rng.randrange(2**32)).normal(0, 3, (rows, V)).astype(np.float32)
    return np.round(logits) if rng.random() < 0.3 else logits


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_combination_of_parameters_agrees_with_the_oracle(on, rng):
    rng = random.Random(rng.getrandbits(32))
    chosen = [some_spec(rng, id) for id in range(rng.randint(1, 8))]
    outputs = [[rng.randrange(V) for _ in range(rng.randint(0, 6))] for _ in chosen]
    logits = some_logits(rng, len(chosen))
    bench = Bench(on, chosen, outputs)
    sampled = bench.sample(logits.copy())
    for i, (spec, out) in enumerate(zip(chosen, outputs, strict=True)):
        expected = processed(logits[i], spec, out)
        if expected.max() == -np.inf:
            assert sampled.problems[i] == NOTHING_LEFT
            continue
        assert sampled.problems[i] == FINE
        token = int(sampled.ids[i])
        if spec.sampling.greedy:
            assert expected.max() - expected[token] < 1e-5, spec
            continue
        probabilities, close = distribution(expected, spec)
        uniform = uniforms(np.array([spec.seed]), bench.positions[i : i + 1])[0]
        best, close_pick = pick(probabilities, uniform)
        assert close or probabilities[token] > 0, spec
        assert close or close_pick or token == best, spec


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_tokens_that_filters_keep_are_exactly_the_oracles(rng):
    rng = random.Random(rng.getrandbits(32))
    chosen = [spec for id in range(12) if not (spec := some_spec(rng, id)).sampling.greedy]
    logits = some_logits(rng, len(chosen))
    weights = Filters(*table(chosen)).weigh(torch.tensor(logits), torch.tensor(logits.max(1))).numpy()
    for row, spec, weight in zip(logits, chosen, weights, strict=True):
        probabilities, close = distribution(row.astype(np.float64), spec)
        if not close:
            assert (weight > 0)[probabilities > 1e-12].all(), spec
            assert not weight[probabilities == 0].any(), spec
            assert np.abs(weight / weight.sum() - probabilities).max() < 1e-6


def table(chosen: list[SequenceSpec]) -> list[np.ndarray]:
    """The filters of these specs, as arrays."""
    kinds = {"temperature": "f4", "top_k": "i8", "top_p": "f8", "min_p": "f8"}
    return [np.array([getattr(spec.sampling, name) for spec in chosen], kind) for name, kind in kinds.items()]


def test_draws_follow_the_distribution():
    n = 200_000
    logits = np.random.default_rng(3).normal(0, 1.5, V).astype(np.float32)
    for fields in ({"temperature": 0.8}, {"temperature": 1.3, "top_k": 12, "top_p": 0.95, "min_p": 0.01}):
        spec = make_spec(0, [1], **fields)
        probabilities, _ = distribution(logits.astype(np.float64), spec)
        weights = Filters(*table([spec])).weigh(torch.tensor(logits)[None], torch.tensor([logits.max()]))
        numbers = torch.from_numpy(uniforms(np.full(n, 99), np.arange(n)))
        tokens = draw(weights.repeat(n, 1), numbers)
        counts = np.bincount(tokens.numpy(), minlength=V)
        kept = probabilities > 0
        assert not counts[~kept].any()
        chi_square = ((counts - n * probabilities)[kept] ** 2 / (n * probabilities[kept])).sum()
        assert chi_square < 60  # p < 1e-4 at up to 22 degrees of freedom (54.9), rounded up


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2.0**-53])
def test_a_token_without_weight_is_never_drawn(uniform):
    weights = torch.tensor([[0, 0, 5, 0, 2**43, 0, 0], [0, 1, 0, 0, 0, 0, 0], [2**43] * 6 + [0]])
    tokens = draw(weights.clone(), torch.full((3,), uniform, dtype=torch.float64))
    assert (weights.gather(1, tokens[:, None]) > 0).all()


def test_a_row_gets_the_same_token_whatever_its_neighbors_and_place(on):
    rng = np.random.default_rng(5)
    vocab = 1003  # odd, so that rows start at every alignment
    names = ("temperature", "top_k", "top_p", "min_p", "presence_penalty")
    choices = itertools.product((0.0, 0.7, 1.5), (0, 7), (1.0, 0.8), (0.0, 0.05), (0.0, 1.0))
    fields = [dict(zip(names, values, strict=True)) for values in choices]
    chosen = [make_spec(i, [i % 7, 3], seed=i // 2, **f) for i, f in enumerate(fields)]
    bench = Bench(on, chosen, [[int(x) for x in rng.integers(0, vocab, i % 5)] for i in range(len(chosen))], vocab)
    logits = rng.normal(0, 2, (len(chosen), vocab)).astype(np.float32)
    alone = [int(bench.sample(logits, [i]).ids[0]) for i in range(len(chosen))]
    for _ in range(60):
        order = rng.permutation(len(chosen))[: rng.integers(1, len(chosen) + 1)].tolist()
        assert bench.sample(logits, order).ids.tolist() == [alone[i] for i in order]


def test_greedy_takes_the_lowest_of_equal_tokens_and_ignores_filters(on):
    logits = np.zeros((2, V), np.float32)
    logits[:, [5, 9]] = 4
    filtered = {"temperature": 0.0, "top_k": 2, "top_p": 0.1}
    bench = Bench(on, [make_spec(0, [1], temperature=0.0), make_spec(1, [1], **filtered)], [[], []])
    assert bench.sample(logits).ids.tolist() == [5, 5]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_row_whose_logits_are_no_numbers_is_alone_in_its_trouble(on, bad, temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (3, V)).astype(np.float32)
    bench = Bench(on, [make_spec(i, [1], temperature=temperature, logprobs=2, top_p=0.9) for i in range(3)], [[]] * 3)
    clean = bench.sample(logits.copy())
    logits[1] = np.full(V, -np.inf) if bad is None else np.where(np.arange(V) == 7, bad, logits[1])
    broken = bench.sample(logits.copy())
    assert broken.problems.tolist() == [FINE, NOT_FINITE, FINE]
    assert broken.ids[[0, 2]].tolist() == clean.ids[[0, 2]].tolist()
    assert 0 <= broken.ids[1] < V
    assert torch.equal(broken.logprobs.values[[0, 2]], clean.logprobs.values[[0, 2]])


def test_when_everything_is_excluded_the_row_says_so(on):
    bench = Bench(on, [make_spec(0, [1], allowed_token_ids=[3], min_tokens=2, eos=(3,)), make_spec(1, [1])], [[], []])
    assert bench.sample(np.zeros((2, V), np.float32)).problems.tolist() == [NOTHING_LEFT, FINE]


def test_tokens_beyond_the_vocabulary_are_never_chosen(on):
    logits = np.zeros((2, V + 9), np.float32)
    logits[:, V:] = 50
    bench = Bench(on, [make_spec(0, [1], temperature=0.0, logprobs=-1), make_spec(1, [1], seed=3)], [[], []])
    sampled = bench.sample(logits)
    assert (sampled.ids < V).all()
    assert sampled.logprobs.ids.shape == (1, V + 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_mask_allows_only_its_bits(on, temperature):
    rng = np.random.default_rng(2)
    allowed = rng.random((4, V)) < 0.3
    allowed[:, 22] = True
    bits = np.packbits(allowed, axis=1, bitorder="little")
    mask = np.zeros((4, 4 * -(-V // 32)), np.uint8)
    mask[:, : bits.shape[1]] = bits
    logits = rng.normal(0, 2, (4, V)).astype(np.float32)
    bench = Bench(on, [make_spec(i, [1], seed=i, temperature=temperature) for i in range(4)], [[]] * 4)
    found = bench.sample(logits.copy(), mask=mask.view(np.int32)).ids.tolist()
    assert all(allowed[i, id] for i, id in enumerate(found))
    if temperature == 0:
        assert found == np.where(allowed, logits, -np.inf).argmax(1).tolist()


def test_logprobs_are_the_models_own_before_anything_touches_them(on):
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 3, (3, V)).astype(np.float32)
    wide = logits.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    touched = {"temperature": 0.5, "top_k": 3, "logit_bias": {4: 100.0}, "repetition_penalty": 2.0}
    asked = ({"logprobs": 4, **touched}, {"logprobs": -1}, {"logprobs": 0, "seed": 9})
    chosen = [make_spec(i, [1], **fields) for i, fields in enumerate(asked)]
    sampled = Bench(on, chosen, [[2], [], []]).sample(logits)
    assert sampled.ids[0] == 4
    for i, count in enumerate((4, V, 0)):
        message = sampled.logprobs.message(i, i + 1, -1 if count == V else count)
        token = int(sampled.ids[i])
        assert message.ids[0] == [token, *np.argsort(-expected[i], kind="stable")[:count].tolist()]
        assert np.allclose(message.values[0], expected[i][message.ids[0]], rtol=0, atol=1e-6)
        assert message.ranks == [1 + (expected[i] > expected[i][token]).sum()]


def test_a_nucleus_wider_than_the_tokens_looked_at_first_is_found_whole():
    vocab = 5 * LISTED
    spread = np.array([0.01, 8.0, 0.5, 4.0])  # the flat rows need thousands of tokens, the peaked ones a few
    logits = (np.random.default_rng(6).normal(0, 1, (4, vocab)) * spread[:, None]).astype(np.float32)
    for fields in ({"top_p": 0.9}, {"top_p": 0.9, "top_k": 3 * LISTED}, {"top_p": 0.5, "top_k": 30, "min_p": 0.01}):
        chosen = [make_spec(i, [1], temperature=0.9, **fields) for i in range(4)]
        weights = Filters(*table(chosen)).weigh(torch.tensor(logits), torch.tensor(logits.max(1))).numpy()
        for row, spec, weight in zip(logits, chosen, weights, strict=True):
            probabilities, _ = distribution(row.astype(np.float64), spec)
            differ = (weight > 0) != (probabilities > 0)
            assert differ.sum() <= 1, fields  # float32's share: the token on the border
            assert np.abs(weight / weight.sum() - probabilities).max() < 1e-3 / spread.max()
