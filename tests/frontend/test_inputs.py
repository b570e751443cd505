"""Prompts and parameters are checked before anything is expanded; a mistake names its field."""

import pytest

from octavo.errors import InvalidRequest
from octavo.frontend.inputs import InputProcessor, RequestExtras, core_params, mix
from octavo.messages import unpack_ids
from octavo.sampling import SamplingParams

INPUTS = InputProcessor(None, (2,), max_model_len=100, vocab_size=50, seed=0)


def build(params=None, ids=(1, 2, 3), inputs=INPUTS, **extras):
    return inputs.build("r", None, list(ids), params or SamplingParams(), RequestExtras(**extras))


@pytest.mark.parametrize(
    "prompt", [[], [-1], [50], [1.5], [True], ["1"], {"prompt_token_ids": []}, {}, None, 7, [1] * 100, "text"]
)
def test_a_prompt_that_cannot_be_served_is_refused(prompt):
    with pytest.raises(InvalidRequest) as error:
        INPUTS.ids(prompt)
    assert error.value.field == "prompt"


def test_prompts_as_ids_are_taken_as_they_are():
    assert INPUTS.ids([1, 2]) == (None, [1, 2])
    assert INPUTS.ids({"prompt_token_ids": [1, 2], "prompt": "ab"}) == ("ab", [1, 2])
    assert INPUTS.ids([1] * 99)[1] == [1] * 99


def test_the_output_is_bounded_by_the_context():
    assert build(SamplingParams(max_tokens=None))[1][0].max_tokens == 97
    assert build(SamplingParams(max_tokens=500))[1][0].max_tokens == 97
    assert build(SamplingParams(max_tokens=5))[1][0].max_tokens == 5


def test_changing_the_parameters_later_does_not_change_the_request():
    params = SamplingParams(max_tokens=5)
    request, _ = build(params)
    params.max_tokens = 7
    assert request.params.max_tokens == 5


def test_parameters_changed_to_nonsense_are_refused_at_the_door():
    params = SamplingParams()
    params.temperature = -1
    with pytest.raises(InvalidRequest, match="temperature"):
        build(params)


def test_ids_outside_the_vocabulary_are_refused():
    for field in ("stop_token_ids", "allowed_token_ids"):
        with pytest.raises(InvalidRequest, match=field):
            build(SamplingParams(**{field: [50]}))


@pytest.mark.parametrize(
    "extras", [{"priority": 2**31}, {"priority": 1.5}, {"cache_salt": ""}, {"cache_salt": "x" * 129}]
)
def test_extras_out_of_range_are_refused(extras):
    with pytest.raises(InvalidRequest) as error:
        build(**extras)
    assert error.value.field == next(iter(extras))


def test_end_of_sequence_ids_travel_unless_ignored():
    assert build()[1][0].eos == (2,)
    assert build(SamplingParams(ignore_eos=True))[1][0].eos == ()


def test_seeds_are_given_kept_and_reproducible():
    one, other = (InputProcessor(None, (), 100, 50, seed=3) for _ in range(2))
    first = [build(inputs=one)[1][0].seed for _ in range(3)]
    assert first == [build(inputs=other)[1][0].seed for _ in range(3)] and len(set(first)) == 3
    assert build(SamplingParams(seed=-5))[1][0].seed == -5
    assert mix(1, 2) != mix(2, 1)


def test_what_only_the_frontend_needs_does_not_travel():
    sent = core_params(SamplingParams(n=3, stop="x", bad_words=["y"], seed=4, temperature=0.5))
    assert (sent.n, sent.stop, sent.bad_words, sent.seed, sent.temperature) == (1, None, None, None, 0.5)


def test_only_the_leader_scores_the_prompt():
    _, specs = build(SamplingParams(n=3, prompt_logprobs=1))
    assert [spec.sampling.prompt_logprobs for spec in specs] == [1, None, None]


def test_sequences_of_one_request_share_the_prompt():
    _, specs = build(SamplingParams(n=4))
    assert len({spec.id for spec in specs}) == 4
    assert all(unpack_ids(spec.tokens) == [1, 2, 3] for spec in specs)
