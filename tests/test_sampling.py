"""SamplingParams: names, defaults and rules as vLLM's, and one clear line for each mistake."""

import math

import pytest

from octavo.errors import InvalidRequest
from octavo.sampling import RULES, SamplingParams


def test_defaults_are_those_vllm_users_know():
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k, params.min_p) == (1, 1.0, 1.0, 0, 0.0)
    assert (params.max_tokens, params.min_tokens, params.seed, params.logprobs) == (16, 0, None, None)
    assert params.repetition_penalty == 1.0
    assert params.detokenize and params.skip_special_tokens and not params.ignore_eos


WRONG = [
    (name, value)
    for name, rule in RULES.items()
    for above in (rule.high + 1 if rule.high < 2**62 else 2**64,)
    for value in (math.nan, math.inf, -math.inf, "1", [], {}, rule.low - 1, above)
    if not (rule.high == math.inf and value == 2**64)
] + [
    ("n", 0), ("n", 129), ("n", 10**9), ("n", True), ("n", 1.5), ("n", None),
    ("temperature", None), ("top_p", 0), ("repetition_penalty", 0), ("max_tokens", 0), ("max_tokens", 2**31),
    ("logprobs", 21), ("logprobs", -2), ("prompt_logprobs", 21),
    ("stop", ""), ("stop", ["a", ""]), ("stop", [1]), ("stop", ["x"] * 17), ("stop", ["x" * 257]), ("stop", 5),
    ("stop_token_ids", [-1]), ("stop_token_ids", [1.5]), ("stop_token_ids", [2**31]), ("stop_token_ids", "1"),
    ("stop_token_ids", [1] * 1025), ("allowed_token_ids", []), ("allowed_token_ids", [True]),
    ("bad_words", [""]), ("bad_words", ["x"] * 129), ("logit_bias", {-1: 1.0}), ("logit_bias", {"a": 1.0}),
    ("logit_bias", {1: math.nan}), ("logit_bias", {1: "x"}), ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    ("ignore_eos", "yes"), ("seed", 2**63), ("seed", 1.5), ("output_kind", 3),
    ("output_kind", []), ("output_kind", None),
    ("detokenize", None), ("skip_special_tokens", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda v: str(v)[:20])
def test_a_value_out_of_range_is_refused_naming_the_field(name, value):
    with pytest.raises(InvalidRequest) as error:
        SamplingParams(**{name: value}).check()  # by default limits; making one is only bounded by the engine's own
    assert error.value.field == name and name in error.value.message and "\n" not in error.value.message


@pytest.mark.parametrize("name", RULES)
def test_the_ends_of_every_range_are_allowed_or_excluded_as_written(name):
    rule = RULES[name]
    for value in (rule.low, rule.high):
        excluded = (rule.above and value == rule.low) or math.isinf(value)
        value = value if math.isinf(value) else rule.kind(value)
        extra = {"max_tokens": None} if name == "min_tokens" else {}
        if name in ("logprobs", "prompt_logprobs") and value > 20:
            continue  # bounded lower, by the limits table
        if excluded:
            with pytest.raises(InvalidRequest):
                SamplingParams(**{name: value})
        else:
            SamplingParams(**{name: value}, **extra)


def test_other_spellings_mean_the_same():
    assert SamplingParams(seed=-1).seed is None
    assert SamplingParams(logprobs=True).logprobs == 1
    assert SamplingParams(logit_bias={"7": 500}).logit_bias == {7: 100.0}
    assert SamplingParams(temperature=0.001).temperature == 0.01
    assert SamplingParams(temperature=1e-6).greedy


def test_contradictions_are_refused():
    for wrong in ({"n": 2, "temperature": 0}, {"min_tokens": 5, "max_tokens": 4}, {"stop": "x", "detokenize": False}):
        with pytest.raises(InvalidRequest):
            SamplingParams(**wrong)


def test_token_ids_outside_the_vocabulary_are_refused():
    for field in ("stop_token_ids", "allowed_token_ids"):
        with pytest.raises(InvalidRequest, match=field):
            SamplingParams(**{field: [99, 100]}).check_vocabulary(100)
    with pytest.raises(InvalidRequest, match="logit_bias"):
        SamplingParams(logit_bias={100: 1}).check_vocabulary(100)
    SamplingParams(stop_token_ids=[0, 99]).check_vocabulary(100)
