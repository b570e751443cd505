"""Every parameter has a finite range: at its borders and beyond, a reply is 200 or a 400 that names the field (R24)."""

from __future__ import annotations

import json
import math

import pytest

from octavo.limits import DEFAULT
from octavo.sampling import RULES, SamplingParams
from octavo.serve.schema import ChatRequest, CompletionRequest, Generation

HELLO = [{"role": "user", "content": "hello"}]
STRANGE = {
    "2^31": 2**31,
    "2^63": 2**63,
    "10^400": 10**400,
    "-1": -1,
    "-2^63-1": -(2**63) - 1,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "text": "much",
    "text number": "1",
    "true": True,
    "null": None,
    "empty list": [],
    "empty object": {},
    "empty text": "",
    "half": 0.5,
    "long list": [1] * 10**5,
    "long texts": ["a"] * 10**4,
    "nested": [[["a"]]],
}
ALMOST_FULL = [5] * 2044  # of the 2,048 tokens of context, so that no bound on the output matters
CHAT_FIELDS = sorted(set(ChatRequest.model_fields) - {"messages"})
COMPLETION_FIELDS = sorted(set(CompletionRequest.model_fields) - set(ChatRequest.model_fields))


def ask(http, path, body):
    reply = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400, 404), reply.text
    if reply.status_code == 200:
        return None
    error = reply.json()["error"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    return error


def check_named(http, path, body, field):
    """Whether the request was served; if not, the error names `field`."""
    error = ask(http, path, body)
    if error is None:
        return True
    assert error["param"] is not None, error
    assert error["param"].split(".")[0].split("[")[0] in (field, "n" if field == "temperature" else field), error
    assert field.split(".")[0] in error["message"], error
    return False


@pytest.mark.parametrize("field", CHAT_FIELDS)
def test_a_strange_value_in_a_chat_is_served_or_named(http, field):
    for value in STRANGE.values():
        body = {"messages": HELLO, "max_tokens": 1, "temperature": 1, "logprobs": field == "top_logprobs"}
        body |= {"stop": list("abcdefgh!%"), field: value}  # with max_tokens=null the text would be long
        if field == "stream_options":
            body["stream"] = True
        if field == "use_beam_search":  # which knows no stop strings
            del body["stop"]
        check_named(http, "/v1/chat/completions", body, field)


@pytest.mark.parametrize("field", COMPLETION_FIELDS)
def test_a_strange_value_in_a_completion_is_served_or_named(http, field):
    for value in STRANGE.values():
        check_named(http, "/v1/completions", {"prompt": "a", "max_tokens": 1, field: value}, field)


@pytest.mark.parametrize(
    "value", [v for k, v in STRANGE.items() if k != "empty list"], ids=[k for k in STRANGE if k != "empty list"]
)
def test_strange_messages_are_named(http, value):
    assert not check_named(http, "/v1/chat/completions", {"messages": value, "max_tokens": 1}, "messages")
    body = {"messages": [{"role": "user", "content": value}], "max_tokens": 1}
    if not isinstance(value, str) and value is not None:
        assert not check_named(http, "/v1/chat/completions", body, "messages")


@pytest.mark.parametrize("field", ["prompt", "stop", "logit_bias", "allowed_token_ids", "modalities", "metadata"])
def test_a_million_values_are_refused_in_no_time(http, field):
    body = {"prompt": "a"} if field == "prompt" else {"messages": HELLO}
    path = "/v1/completions" if field == "prompt" else "/v1/chat/completions"
    assert not check_named(http, path, body | {"max_tokens": 1, field: [-1] * 10**5}, field)
    # So many are not even looked at: what is told is that the body holds them.
    reply = http.post(path, json=body | {"max_tokens": 1, field: [-1] * 10**6})
    assert reply.status_code == 400 and "values" in reply.json()["error"]["message"]
    if field in ("logit_bias", "metadata"):
        check_named(http, path, body | {"max_tokens": 1, field: {str(i): [] for i in range(10**4)}}, field)


def beside(name):
    """(value, whether it is in range) at and beside the borders of a rule."""
    rule = RULES[name]
    step = 1 if rule.kind is int else 1e-6
    low_in = rule.low + (step if rule.above else 0)
    cases = [(rule.low - step, False), (rule.low, not rule.above), (low_in, True)]
    high = min(rule.high, getattr(DEFAULT, {"best_of": "n"}.get(name, name), math.inf))
    if not math.isinf(high):
        cases += [(high, True), (high + step, False)]
    return [(rule.kind(value), fits) for value, fits in cases]


# The others depend on more than their rule: on the operator's limits, and on the model's longest context.
# Those with other bounds of their own, and one that needs a chat with a model that reasons.
OTHERS = {"logprobs", "prompt_logprobs", "truncate_prompt_tokens", "thinking_token_budget"}


@pytest.mark.parametrize("name", sorted(set(RULES) - OTHERS))
def test_the_borders_of_a_rule_are_where_it_says(http, name):
    for value, fits in beside(name):
        body = {"prompt": ALMOST_FULL, "max_tokens": 1, "temperature": 1, name: value}
        if name == "min_tokens":
            body["max_tokens"] = int(RULES["max_tokens"].high)
        assert check_named(http, "/v1/completions", body, name) == fits, (name, value)


@pytest.mark.parametrize(
    ("path", "field", "most"),
    [
        ("/v1/completions", "logprobs", DEFAULT.logprobs),
        ("/v1/completions", "prompt_logprobs", DEFAULT.logprobs),
        ("/v1/chat/completions", "top_logprobs", DEFAULT.logprobs),
    ],
)
def test_logprobs_are_bounded(http, path, field, most):
    body = {"prompt": "a"} if path == "/v1/completions" else {"messages": HELLO, "logprobs": True}
    for value, fits in ((-1, False), (0, True), (most, True), (most + 1, False)):
        assert check_named(http, path, body | {"max_tokens": 1, field: value}, field) == fits, value


def test_lists_are_bounded(http):
    body = {"prompt": "a", "max_tokens": 1}
    for field, value, fits in (
        ("stop", ["x"] * DEFAULT.stop_strings, True),
        ("stop", ["x"] * (DEFAULT.stop_strings + 1), False),
        ("stop", ["x" * (DEFAULT.stop_chars + 1)], False),
        ("bad_words", ["x"] * (DEFAULT.bad_words + 1), False),
        ("stop_token_ids", [1] * (DEFAULT.stop_token_ids + 1), False),
        ("logit_bias", {str(i): 1 for i in range(DEFAULT.logit_bias)}, True),
        ("logit_bias", {str(i): 1 for i in range(DEFAULT.logit_bias + 1)}, False),
        ("logit_bias", {"x": 1}, False),
        ("logit_bias", {"1": math.nan}, False),
        ("cache_salt", "s" * DEFAULT.id_chars, True),
        ("cache_salt", "s" * (DEFAULT.id_chars + 1), False),
        ("priority", 2**31, False),
    ):
        assert check_named(http, "/v1/completions", body | {field: value}, field) == fits, (field, str(value)[:40])
    many = {"messages": HELLO * (DEFAULT.messages + 1), "max_tokens": 1}
    assert not check_named(http, "/v1/chat/completions", many, "messages")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b'{"a":1}', b"[" * 100_000),
        b'{"metadata":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"model": 1e999}',
        b'{"prompt": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_request_is_400(http, path, body):
    reply = http.post(path, content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_a_body_over_the_limit_is_413_while_it_is_read(http):
    assert http.post("/v1/completions", content=b" " * (DEFAULT.body_bytes + 1)).status_code == 413

    def drip():
        for _ in range(DEFAULT.body_bytes // 2**20 + 1):
            yield b" " * 2**20

    reply = http.post("/v1/completions", content=drip(), headers={"content-type": "application/json"})
    assert reply.status_code == 413


def test_a_body_that_is_not_json_by_its_type_is_415(http):
    reply = http.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert reply.status_code == 415


def test_headers_are_bounded(http):
    assert http.get("/version", headers={"x-big": "x" * DEFAULT.header_bytes}).status_code == 431
    assert http.get("/version", headers={f"x-{i}": "x" for i in range(101)}).status_code == 431


def test_the_schema_has_every_sampling_parameter():
    missing = set(SamplingParams.__struct_fields__) - set(Generation.model_fields)
    assert missing == {"output_kind", "detokenize", "logprobs", "structured_outputs", "extra_args"}
    properties = Generation.model_json_schema()["properties"]
    for name, rule in RULES.items():
        if name != "logprobs":
            assert properties[name]["description"] == rule.doc
            assert properties[name]["exclusiveMinimum" if rule.above else "minimum"] == rule.low
