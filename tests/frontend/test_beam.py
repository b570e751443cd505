"""Beam search: the global optimum when the beam is wide enough, and Transformers' search on a trained model."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from octavo import LLM, BeamSearchParams
from octavo.checkpoint import POCKET
from octavo.errors import InvalidRequest
from octavo.frontend.beam import BeamSearch
from octavo.frontend.output import Logprob

V, EOS = 4, 3


def table(seed):
    """A made-up model: log-probabilities of the next token given the last two."""

    def row(ids):
        weights = random.Random(f"{seed} {ids[-2:]}").choices(range(1, 20), k=V)
        return [math.log(weight / sum(weights)) for weight in weights]

    return row


def told(values, count):
    ranked = sorted(range(V), key=lambda id: -values[id])[: min(count, V)]
    return {id: Logprob(values[id], rank) for rank, id in enumerate(ranked, 1)}


def search(model, params, eos=(EOS,), room=1000):
    beams = BeamSearch([0], params, eos, room, V)
    while not beams.done:
        beams.advance([told(model(ids), beams.step.logprobs) for ids in beams.prompts()])
    return beams


def everything(model, length, penalty):
    """The scores of all continuations that end with EOS or at `length`."""
    found = {}
    for size in range(1, length + 1):
        for ids in itertools.product(range(V), repeat=size):
            if EOS in ids[:-1] or (size < length and ids[-1] != EOS):
                continue
            total = sum(model([0, *ids[:i]])[id] for i, id in enumerate(ids))
            found[ids] = total / size**penalty
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("seed", range(6))
def test_a_beam_wide_enough_finds_the_best_of_all(seed, penalty):
    model, length = table(seed), 3
    params = BeamSearchParams(beam_width=64, max_tokens=length, length_penalty=penalty)
    beams = search(model, params)
    expected = everything(model, length, penalty)
    best = sorted(expected.values(), reverse=True)[: len(beams.finished)]
    assert [score for score, _ in beams.finished] == pytest.approx(best)
    for score, beam in beams.finished:
        assert expected[beam.ids] == pytest.approx(score)
        assert beam.finish_reason == ("stop" if beam.ids[-1] == EOS else "length")
        assert len(beam.logprobs) == len(beam.ids)
        assert beam.cumulative_logprob == pytest.approx(
            sum(position[id].logprob for id, position in zip(beam.ids, beam.logprobs, strict=True))
        )


def test_a_beam_of_one_is_the_greedy_continuation():
    for seed in range(20):
        model = table(seed)
        ids = [0]
        while len(ids) < 9 and ids[-1] != EOS:
            values = model(ids)
            ids.append(values.index(max(values)))
        [(_, beam)] = search(model, BeamSearchParams(beam_width=1, max_tokens=8)).finished
        assert list(beam.ids) == ids[1:]


def test_ends_are_ignored_when_asked_and_room_ends_a_beam():
    model = table(1)
    free = search(model, BeamSearchParams(beam_width=3, max_tokens=6, ignore_eos=True))
    assert [len(beam.ids) for _, beam in free.finished] == [6] * 3
    short = search(model, BeamSearchParams(beam_width=3, max_tokens=None, ignore_eos=True), room=2)
    assert [len(beam.ids) for _, beam in short.finished] == [2] * 3


def test_beams_keep_no_more_than_was_asked_for():
    for asked, kept in ((None, 1), (0, 1), (2, 3)):
        found = search(table(2), BeamSearchParams(beam_width=4, max_tokens=6, logprobs=asked))
        for _, beam in found.finished:
            assert all(len(position) <= kept for position in beam.logprobs)
            assert [next(iter(position)) for position in beam.logprobs] == list(beam.ids)
    with pytest.raises(InvalidRequest, match="log-probabilities"):
        BeamSearch([0], BeamSearchParams(beam_width=64, max_tokens=None, logprobs=20), (EOS,), 100_000, V)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beam_width": 0},
        {"beam_width": 65},
        {"beam_width": 2.0},
        {"beam_width": 2, "max_tokens": 0},
        {"beam_width": 2, "length_penalty": math.nan},
        {"beam_width": 2, "length_penalty": 11},
        {"beam_width": 2, "ignore_eos": 1},
        {"beam_width": 2, "allowed_token_ids": []},
        {"beam_width": 2, "allowed_token_ids": list(range(200))},
        {"beam_width": 2, "logprobs": 21},
        {"beam_width": 2, "temperature": -1},
    ],
)
def test_wrong_parameters_are_named(wrong):
    with pytest.raises(InvalidRequest) as error:
        BeamSearchParams(**wrong)
    assert error.value.field in wrong


PROMPTS = ("hello there", "once upon a time", "The opposite of hot is", "1 2 3")


@pytest.fixture(scope="module")
def llm():
    with LLM(dtype="float32", max_model_len=512) as llm:
        yield llm


@pytest.fixture(scope="module")
def reference():
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32).eval()

    def generate(ids, **options):
        with torch.inference_mode():
            found = model.generate(
                torch.tensor([ids]),
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                pad_token_id=0,
                **options,
            )
        return found.sequences.tolist(), found.sequences_scores.tolist()

    return generate


@pytest.mark.parametrize(("width", "penalty"), [(2, 1.0), (4, 1.0), (5, 0.0), (3, 2.0), (4, -1.0)])
def test_a_trained_model_is_searched_as_transformers_does(llm, reference, width, penalty):
    params = BeamSearchParams(beam_width=width, max_tokens=14, length_penalty=penalty)
    outputs = llm.beam_search(list(PROMPTS), params)
    ends = set(llm._inputs.eos_ids)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = llm.get_tokenizer().encode(prompt)
        sequences, scores = reference(
            ids,
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=14,
            length_penalty=penalty,
            eos_token_id=sorted(ends),
        )
        for beam, expected, score in zip(output.sequences, sequences, scores, strict=True):
            size = len(beam.tokens) - len(ids)
            assert beam.tokens == expected[: len(beam.tokens)], prompt
            assert all(id == 0 for id in expected[len(beam.tokens) :])
            assert beam.cum_logprob == pytest.approx(score * size**penalty, abs=1e-4)
            assert not ends.intersection(llm.get_tokenizer().encode(beam.text))


def test_only_allowed_tokens_are_tried(llm):
    allowed = [llm.get_tokenizer().encode(word, add_special_tokens=False)[0] for word in (" a", " time", " was")]
    params = BeamSearchParams(beam_width=3, max_tokens=4, allowed_token_ids=allowed, ignore_eos=True, logprobs=2)
    [output] = llm.beam_search("once upon", params)
    for beam in output.sequences:
        assert set(beam.tokens[-4:]) <= set(allowed)
    assert len({tuple(beam.tokens) for beam in output.sequences}) == 3


def test_a_search_leaves_nothing_behind(llm):
    llm.beam_search(list(PROMPTS), BeamSearchParams(beam_width=4, max_tokens=20))
    assert not llm._core.scheduler.live
    assert not llm._core.check_books()
