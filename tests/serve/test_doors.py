"""The same limits at every door: over HTTP, from Python, and again in the core (R24, R25)."""

from __future__ import annotations

import json
import math

import pytest

from octavo import LLM, SamplingParams
from octavo.errors import InvalidRequest
from octavo.limits import CEILING, DEFAULT, Limits
from octavo.messages import SequenceSpec, pack_ids
from octavo.sampling import RULES
from octavo.scheduling.admission import Admission
from octavo.scheduling.sequence import make_sequence

from ..embedded import VOCAB_SIZE

DEVICE = "fake:low=3,high=97"
BASE = {"max_tokens": 1, "temperature": 1.0}
STRANGE = [2**31, 2**63, -1, math.nan, math.inf, "1", "", [], {}, [1] * 10**5, ["a"] * 10**4, True, 0.5]
LISTS = {
    "stop": [["x"] * DEFAULT.stop_strings, ["x"] * (DEFAULT.stop_strings + 1), "x" * 257, ["a", ""], [1]],
    "stop_token_ids": [[1] * 1024, [1] * 1025, [-1], [VOCAB_SIZE - 1], [VOCAB_SIZE], [2**31], [0.5]],
    "bad_words": [["x"] * 128, ["x"] * 129, ["x" * 257], [""], "x"],
    "logit_bias": [
        {5: 1.0},
        {VOCAB_SIZE: 1.0},
        {-1: 1.0},
        dict.fromkeys(range(1025), 1.0),
        {5: math.nan},
        {5: "x"},
        [5],
    ],
    "allowed_token_ids": [[5], [VOCAB_SIZE], [-1], [5] * 4000],
    "ignore_eos": [False, 1, "yes"],
    "skip_special_tokens": [True, 0],
}
# The Python API runs in the process of whoever calls it, and may ask for the whole vocabulary, as vLLM's may.
OWN = {("logprobs", -1), ("prompt_logprobs", -1), ("logprobs", True), ("prompt_logprobs", True)}


def borders(name: str) -> list[object]:
    """Values at and beside the ends of a rule's range, and of what the limits table allows of it."""
    rule = RULES[name]
    step = 1 if rule.kind is int else 1e-6
    ends = [end for end in (rule.low, min(rule.high, getattr(DEFAULT, name, math.inf))) if not math.isinf(end)]
    return [rule.kind(end + change) for end in ends for change in (-step, 0, step)]


CASES = {name: [*borders(name), *STRANGE] for name in RULES} | {name: LISTS[name] + STRANGE for name in LISTS}


@pytest.fixture(scope="module")
def llm():
    with LLM(device=DEVICE) as it:
        yield it


def over_http(http, name: str, value: object) -> str | None:
    """The field that is wrong, or None when the request was served."""
    body = {"prompt": [5], **BASE, name: value}
    reply = http.post("/v1/completions", content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400), reply.text
    return None if reply.status_code == 200 else reply.json()["error"]["param"]


def from_python(llm: LLM, name: str, value: object) -> str | None:
    """The same from Python."""
    try:
        llm.generate([5], SamplingParams(**BASE | {name: value}), use_tqdm=False)
    except InvalidRequest as error:
        return error.field
    return None


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_value_meets_the_same_verdict_at_both_doors(http, llm, name):
    for value in CASES[name]:
        if (name, value if isinstance(value, (int, str)) else None) in OWN:
            continue
        if name in ("max_tokens", "min_tokens") and value in (2**31 - 1, 2**31 - 2):
            continue  # takes long; test_limits.py has it
        verdicts = over_http(http, name, value), from_python(llm, name, value)
        assert verdicts[0] == verdicts[1], (name, str(value)[:60], verdicts)


def spec(**changes: object) -> SequenceSpec:
    """A sequence as an honest frontend sends it, but for `changes`, which nobody has checked."""
    sampling = SamplingParams(temperature=1)
    for name in list(changes):
        if name in SamplingParams.__struct_fields__ and name not in SequenceSpec.__struct_fields__:
            setattr(sampling, name, changes.pop(name))
    fields = {"id": 1, "tokens": pack_ids([5, 6]), "sampling": sampling, "max_tokens": 4, "seed": 1} | changes
    return SequenceSpec(**fields)  # type: ignore[arg-type]


def refused_field(one: SequenceSpec, limits: Limits = DEFAULT) -> str | None:
    """The field that the core's own check names."""
    try:
        Admission(limits, VOCAB_SIZE).check(make_sequence(one, 0, 0.0, 2048))
    except InvalidRequest as error:
        return error.field
    return None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, None),
        ({"tokens": pack_ids([5, VOCAB_SIZE])}, "prompt"),
        ({"tokens": pack_ids([-1])}, "prompt"),
        ({"seed": 2**63}, "seed"),
        ({"priority": 2**31}, "priority"),
        ({"salt": b"x" * 513}, "cache_salt"),
        ({"eos": (-1,)}, "eos"),
        ({"eos": (1,) * 1025}, "eos"),
        ({"bad_words": ((VOCAB_SIZE,),)}, "bad_words"),
        ({"bad_words": ((),)}, "bad_words"),
        ({"bad_words": ((1,) * 65,)}, "bad_words"),
        ({"bad_words": ((1,),) * 257}, "bad_words"),
        ({"logprobs": 65}, "logprobs"),
        ({"prompt_logprobs": 10**9}, "prompt_logprobs"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": math.nan}, "top_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [VOCAB_SIZE]}, "allowed_token_ids"),
        ({"logit_bias": {VOCAB_SIZE: 1.0}}, "logit_bias"),
        ({"min_tokens": 2**40}, "min_tokens"),
    ],
)
def test_the_core_does_not_trust_the_frontend(changes, field):
    assert refused_field(spec(**changes)) == field


def test_the_operators_limits_hold_at_every_door(start):
    limits = {"n": 2, "logprobs": 3, "stop_strings": 1, "stop_token_ids": 0}
    server = start("--limits", ",".join(f"{name}={value}" for name, value in limits.items()))
    with LLM(device=DEVICE, limits=limits) as own:
        for name, fits, not_fit in (
            ("n", 2, 3),
            ("logprobs", 3, 4),
            ("prompt_logprobs", 3, 4),
            ("stop", ["a"], ["a", "b"]),
            ("stop_token_ids", [], [5]),
        ):
            assert over_http(server.http, name, fits) is from_python(own, name, fits) is None, name
            assert over_http(server.http, name, not_fit) == from_python(own, name, not_fit) == name
    assert refused_field(spec(logprobs=65), Limits.of(limits)) == "logprobs"
    assert refused_field(spec(logprobs=90), Limits.of({"logprobs": 90})) is None
    with LLM(device=DEVICE, limits="n=200") as wide:
        [output] = wide.generate([5], SamplingParams(n=200, temperature=1, max_tokens=1), use_tqdm=False)
        assert len(output.outputs) == 200


def test_an_answer_holds_no_more_log_probabilities_than_fit(start):
    ask = {"n": 4, "logprobs": 3, "max_tokens": 20}  # 320 of them
    server = start("--limits", "logprob_values=300", device=DEVICE)
    for body, status in ((ask, 400), (ask | {"stream": True}, 200), (ask | {"max_tokens": 18}, 200)):
        reply = server.http.post("/v1/completions", json={"prompt": [5], **body})
        assert reply.status_code == status, body
    with LLM(device=DEVICE, limits="logprob_values=300") as own:
        with pytest.raises(InvalidRequest, match="320 log-probabilities"):
            own.generate([5], SamplingParams(**ask), use_tqdm=False)
        own.generate([5], SamplingParams(**ask | {"max_tokens": 18}), use_tqdm=False)


def test_making_parameters_is_bounded_by_what_the_engine_was_made_for():
    SamplingParams(n=CEILING.n, temperature=1)
    with pytest.raises(InvalidRequest, match="n must be"):
        SamplingParams(n=CEILING.n + 1, temperature=1)
