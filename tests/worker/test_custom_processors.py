"""Logits processors by name: they change their own row and nothing else, whatever they do; octavo's own are right."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from octavo.errors import StartupError
from octavo.messages import NewRow, SequenceSpec, pack_ids
from octavo.platforms import native
from octavo.processors import registered
from octavo.sampling import SamplingParams
from octavo.worker.rows import RowFields, Rows, Sizes
from octavo.worker.sampling.built_in import Dry, NoRepeatNgram
from octavo.worker.sampling.custom import CustomProcessors, load
from octavo.worker.sampling.logits import StepLogits
from octavo.worker.sampling.logprobs import NamedIds
from octavo.worker.sampling.native_logits import NativeLogits
from octavo.worker.sampling.processors import pipeline
from octavo.worker.sampling.sampler import FINE, NOTHING_LEFT, Parameters, Sampled, Sampler
from octavo.worker.sampling.torch_logits import TorchLogits

V = 41
BACKENDS = {"torch": TorchLogits, "native": NativeLogits}


def only(past_ids, logits, token):
    """A function that returns other logits."""
    changed = torch.full_like(logits, -1.0)
    changed[token] = 1.0
    return changed


def plus(past_ids, logits, by):
    """A function that works in place and returns nothing."""
    logits[len(past_ids)] += by


class Counting:
    """A class: what it was made with and what it is told."""

    def __init__(self, prompt_ids, offset=0):
        if offset > 5:
            raise RuntimeError("a bug of the operator's")
        self.prompt_ids, self.offset = prompt_ids, offset

    def __call__(self, past_ids, logits):
        logits[(sum(self.prompt_ids) + sum(past_ids) + self.offset) % V] = 99.0
        return logits


def broken(past_ids, logits, how):
    if how == "raise":
        raise KeyError(how)
    if how == "shape":
        return logits[:3]
    if how == "nan":
        logits[2] = float("nan")
    if how == "nothing":
        logits[:] = float("-inf")


CODE = {"only": only, "plus": plus, "counting": Counting, "broken": broken}


@pytest.fixture(params=BACKENDS)
def on(request: pytest.FixtureRequest) -> type[StepLogits]:
    if request.param == "native" and native.library is None:
        pytest.skip(f"the native library is not installed: {native.missing}")
    return BACKENDS[request.param]


class Bench:
    """Rows and a sampler without a model."""

    def __init__(self, on: type[StepLogits], wanted: list[SamplingParams], outputs: list[list[int]]) -> None:
        fields = RowFields(len(wanted), poison=True)
        self.table = Rows(Sizes(len(wanted), 64, 4096, 16, V), 1, fields)
        parameters, processors = Parameters(fields), pipeline(self.table)
        custom, named = CustomProcessors(self.table, CODE), NamedIds(self.table)
        self.sampler = Sampler(self.table, parameters, processors, on, custom, named)
        self.table.states = (parameters, *processors, custom, named, self.sampler)
        for id, (params, out) in enumerate(zip(wanted, outputs, strict=True)):
            spec = SequenceSpec(id, pack_ids([3, 4, id]), params, 50, 7)
            self.table.admit(id, NewRow(spec, spec.tokens + pack_ids(out), 0))
        self.rows = np.array([self.table.index[id] for id in range(len(wanted))])

    def sample(self, logits: np.ndarray) -> Sampled:
        return self.sampler(torch.tensor(logits), self.rows, self.table.known[self.rows].copy())


def asking(name, temperature=0.0, **args):
    return SamplingParams(temperature=temperature, logprobs=0, logits_processors=[{"name": name, "args": args}])


def normal(rows, seed=1):
    return np.random.default_rng(seed).normal(0, 3, (rows, V)).astype(np.float32)


def test_functions_and_classes_are_told_what_they_should_be(on):
    logits = normal(4)
    bench = Bench(
        on,
        [asking("only", token=9), asking("plus", by=99.0), asking("counting", offset=5), SamplingParams(temperature=0)],
        [[], [1, 2], [6, 7], [8]],
    )
    assert not bench.table.errors
    sampled = bench.sample(logits.copy())
    assert not sampled.errors
    assert sampled.ids.tolist() == [9, 2, (3 + 4 + 2 + 6 + 7 + 5) % V, int(logits[3].argmax())]
    # What is told is the model's own log-probability, not what a processor made of it (R69).
    own = torch.log_softmax(torch.tensor(logits[0]).double(), -1)[9]
    assert float(sampled.logprobs.values[0, 0]) == pytest.approx(float(own), abs=1e-5)


@pytest.mark.parametrize("how", ["raise", "shape", "nan", "nothing"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_processor_that_fails_ends_its_own_row_only(on, how, temperature):
    logits = normal(3)
    plain = SamplingParams(temperature=temperature, seed=3)
    alone = Bench(on, [plain, plain, plain], [[], [], []]).sample(logits.copy())
    sampled = Bench(on, [plain, asking("broken", temperature, how=how), plain], [[], [], []]).sample(logits.copy())
    for neighbor in (0, 2):
        assert sampled.ids[neighbor] == alone.ids[neighbor]
        assert sampled.problems[neighbor] == FINE
    if how == "nothing":
        assert sampled.problems[1] == NOTHING_LEFT and not sampled.errors
    else:
        assert list(sampled.errors) == [1]
        assert sampled.errors[1].startswith("logits processor broken failed: ")


def test_wrong_arguments_are_the_requests_fault_and_a_bug_is_not(on):
    wanted = [asking("only"), asking("counting", offset=9), asking("counting", nonsense=1), asking("nobody")]
    table = Bench(on, wanted, [[]] * 4).table
    by_id = {id: table.errors[row] for id, row in table.index.items() if row in table.errors}
    assert {id: error.field for id, error in by_id.items()} == {
        0: "logits_processors",
        1: None,
        2: "logits_processors",
        3: "logits_processors",
    }
    assert "RuntimeError" in by_id[1].message and "bug" not in by_id[1].message


def test_named_ids_are_told_whatever_their_rank(on):
    logits, ids = normal(3), [0, 7, 40]
    plain = SamplingParams(temperature=0, logprobs=2)
    named = SamplingParams(temperature=0, logprobs=1, logprob_token_ids=ids, logit_bias={3: 100})
    sampled = Bench(on, [plain, named, SamplingParams(temperature=0)], [[], [], []]).sample(logits.copy())
    assert list(sampled.named) == [1]
    told, values = sampled.named[1]
    expected = torch.log_softmax(torch.tensor(logits[1]).double(), -1)[ids]
    assert told == ids
    assert values.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_no_repeat_ngram_bans_what_transformers_bans():
    from transformers import NoRepeatNGramLogitsProcessor

    draw = random.Random(2)
    for _ in range(60):
        size = draw.randrange(1, 5)
        ids = [draw.randrange(4) for _ in range(draw.randrange(1, 30))]
        split = draw.randrange(len(ids) + 1)
        ours, reference = NoRepeatNgram(ids[:split], size), NoRepeatNGramLogitsProcessor(size)
        for end in range(split, len(ids) + 1):
            if not end:
                continue
            logits = torch.zeros(6)
            expected = reference(torch.tensor([ids[:end]]), torch.zeros(1, 6))[0]
            assert torch.equal(ours(ids[split:end], logits), expected), (ids, split, end, size)


def test_dry_subtracts_what_its_formula_says():
    draw = random.Random(3)
    penalized = 0
    for _ in range(200):
        ids = [draw.randrange(4) for _ in range(draw.randrange(1, 40))]
        split, allowed = draw.randrange(len(ids) + 1), draw.randrange(1, 4)
        breakers = [draw.randrange(4)] if draw.random() < 0.3 else []
        expected = torch.zeros(5)
        for token in range(4):
            longest = 0
            for at in range(len(ids)):
                if ids[at] != token:
                    continue
                length = 0
                while length < at and ids[at - 1 - length] == ids[len(ids) - 1 - length]:
                    if ids[len(ids) - 1 - length] in breakers:
                        break
                    length += 1
                longest = max(longest, length)
            if longest >= allowed:
                expected[token] = -0.8 * 1.75 ** (longest - allowed)
                penalized += 1
        ours = Dry(ids[:split], allowed_length=allowed, breakers=breakers)(ids[split:], torch.zeros(5))
        assert torch.allclose(ours, expected, rtol=1e-5), (ids, allowed, breakers)
    assert penalized > 100


def test_names_are_octavos_own_those_of_packages_and_the_operators():
    places = registered(["mine=package.module:Class.method"])
    assert places["mine"] == "package.module:Class.method"
    assert {"no_repeat_ngram", "dry"} <= places.keys()
    assert load(registered([]))["dry"] is Dry
    for wrong in ("mine", "mine=package", "=a:b", "mine=a:b c", "mine=a;b:c"):
        with pytest.raises(StartupError, match="NAME=module:attribute"):
            registered([wrong])
    for missing in ("nowhere:x", "octavo:nothing", "octavo.processors:GROUP"):
        with pytest.raises(StartupError, match="logits processor mine"):
            load({"mine": missing})
