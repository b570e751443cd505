"""response_format and structured_outputs over HTTP, through the official client."""

from __future__ import annotations

import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from pydantic import BaseModel

MODEL = "octavo-pocket"
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 30}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
UNIQUE = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array", "uniqueItems": True}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
ASK = {"model": MODEL, "messages": HELLO, "max_tokens": 250, "temperature": 1.0}


def is_trip(text: str) -> bool:
    found = json.loads(text)
    return found.keys() == {"city", "days"} and found["city"] in ("Rome", "Oslo") and 1 <= found["days"] <= 30


def test_a_chat_answers_with_json_of_a_schema(client):
    answer = client.chat.completions.create(**ASK, response_format=FORMAT, n=8, seed=1, logprobs=True)
    whole = [choice for choice in answer.choices if choice.finish_reason == "stop"]
    assert len({choice.message.content for choice in whole}) > 1
    for choice in whole:
        assert is_trip(choice.message.content)
        assert choice.logprobs.content
    # Some think first, in any words, and do not come to an end.
    assert all(not choice.message.content for choice in answer.choices if choice not in whole)


def test_a_stream_gives_the_same_answer_as_the_whole(client):
    whole = client.chat.completions.create(**ASK, response_format=FORMAT, seed=5).choices[0].message.content
    parts = client.chat.completions.create(**ASK, response_format=FORMAT, seed=5, stream=True)
    chunks = [chunk.choices[0] for chunk in parts if chunk.choices]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole
    assert chunks[-1].finish_reason == "stop"


def test_the_clients_parse_gives_a_pydantic_object(client):
    class Trip(BaseModel):
        city: str
        days: int
        night: bool | None

    answer = client.chat.completions.parse(**(ASK | {"max_tokens": 1500}), response_format=Trip, seed=3)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(answer.choices[0].message.parsed, Trip)
    else:
        assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"structured_outputs": {"regex": "[a-c]{2,4}"}}, "[a-c]{2,4}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"grammar": 'root ::= "x"{2} [0-9]'}}, "xx[0-9]"),
        ({"structured_outputs": {"json": {"enum": [1, 2]}, "disable_any_whitespace": True}}, "[12]"),
        ({"structured_outputs": {"json": '{"const": "a"}'}}, '"a"'),
        ({"structured_outputs": {"regex": "[a-c]", "begin_after": ["é"], "opening": "#"}}, "[a-c]|#(?s:.)*?é[a-c]|#.*"),
        ({"guided_regex": "[a-c]{2}"}, "[a-c]{2}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_json": {"type": "boolean"}}, "true|false"),
        ({"guided_grammar": 'start: "a" | "b"'}, "a|b"),
        ({"guided_json": {"type": "array", "maxItems": 0}, "guided_whitespace_pattern": "_{3}"}, r"\[(?:___)?\]"),
        ({"response_format": {"type": "json_object", "schema": {"const": 3}}}, "3"),
        (
            {
                "response_format": {
                    "type": "structural_tag",
                    "structures": [{"begin": "<n>", "schema": {"const": 1}, "end": "</n>"}],
                    "triggers": ["<n"],
                }
            },
            "(?s:.*)",
        ),
    ],
)
def test_every_spelling_works_in_chats_and_completions(client, extra, pattern):
    chat = client.chat.completions.create(**ASK, extra_body=extra).choices[0]
    completion = client.completions.create(
        model=MODEL, prompt=["Hello", "You"], max_tokens=120, temperature=1.0, extra_body=extra
    )
    for text, reason in [(chat.message.content, chat.finish_reason)] + [
        (choice.text, choice.finish_reason) for choice in completion.choices
    ]:
        assert reason == "length" or re.fullmatch(pattern, text, re.DOTALL), (text, reason)


def test_json_object_is_an_object_and_text_is_anything(client):
    for seed in range(2):
        choice = client.chat.completions.create(**ASK, response_format={"type": "json_object"}, seed=seed).choices[0]
        assert (choice.message.content or "{").startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
    free = client.chat.completions.create(**ASK, response_format={"type": "text"}, seed=0)
    assert free.choices[0].finish_reason == "length"


def test_a_budget_that_ends_within_json_is_told_as_length(client):
    answer = client.chat.completions.create(**(ASK | {"max_tokens": 3}), response_format=FORMAT)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("change", "field", "complaint"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format", "name and a schema"),
        ({"response_format": {"type": "xml"}}, "response_format", "must be one of"),
        ({"response_format": {"type": "json_object", "strict": 1}}, "response_format", "strict"),
        ({"response_format": UNIQUE}, "response_format", "#: uniqueItems is not supported"),
        ({"extra_body": {"structured_outputs": {}}}, "structured_outputs", "exactly one"),
        ({"extra_body": {"structured_outputs": {"regex": "a", "choice": ["a"]}}}, "structured_outputs", "and choice"),
        ({"extra_body": {"structured_outputs": {"regexp": "a"}}}, "structured_outputs", "'regexp'"),
        ({"extra_body": {"structured_outputs": {"regex": "(?=a)"}}}, "structured_outputs", "lookahead"),
        ({"extra_body": {"structured_outputs": {"choice": []}}}, "structured_outputs", "at least one"),
        ({"extra_body": {"structured_outputs": {"json": {"type": "integer", "minimum": 10**400}}}}, None, ""),
        ({"extra_body": {"guided_json": {"$ref": "#"}}}, "guided_json", "no text matches"),
        ({"extra_body": {"guided_grammar": "root ::= nobody"}}, "guided_grammar", "nobody"),
        ({"extra_body": {"guided_regex": "a", "guided_choice": ["a"]}}, "guided_choice", "contradict"),
        ({"extra_body": {"guided_whitespace_pattern": " "}}, "guided_whitespace_pattern", "goes with"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_its_own_name(client, change, field, complaint):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**ASK | change)
    assert complaint in error.value.message
    assert field is None or error.value.param == field


def test_many_clients_with_many_schemas_get_what_they_asked_for(client, server):
    def one(i: int) -> bool:
        schema = {
            "type": "object",
            "properties": {"id": {"const": i}},
            "required": ["id"],
            "additionalProperties": False,
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema}}
        choice = client.chat.completions.create(**(ASK | {"max_tokens": 60}), response_format=wanted).choices[0]
        return choice.finish_reason == "length" or json.loads(choice.message.content) == {"id": i}

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(one, range(32)))
    server.settle()


@pytest.mark.slow
def test_bombs_hold_no_other_stream_up(client, server):
    """R38 in its short form: what a hostile schema costs, it costs a process of its own."""
    bombs = [
        {"json": {"type": "string", "allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(3, 43)]}},
        {"json": {"patternProperties": {f"^a{i}b": {} for i in range(2000)}}},
        {"regex": r"(?:\w|\W){1,500}" * 100},
        {"grammar": "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)) + '\nr60 ::= "a"'},
    ]

    def throw(bomb: dict[str, object]) -> bool:
        with contextlib.suppress(openai.BadRequestError):
            client.completions.create(model=MODEL, prompt="x", max_tokens=4, extra_body={"structured_outputs": bomb})
            return False
        return True

    gaps: list[float] = []
    with ThreadPoolExecutor(4) as threads:
        thrown = threads.map(throw, bombs)
        end = time.monotonic() + 7
        while time.monotonic() < end:
            last = time.perf_counter()
            for _ in client.completions.create(model=MODEL, prompt="y", max_tokens=100, stream=True):
                gaps.append(time.perf_counter() - last)
                last = time.perf_counter()
        assert all(thrown)
    assert sorted(gaps)[len(gaps) * 99 // 100] < 0.1
    server.settle()
