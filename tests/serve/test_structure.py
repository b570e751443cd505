"""What a body holds is counted in its bytes, before anything is built of it (R22, R23)."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from octavo.errors import InvalidRequest
from octavo.limits import DEFAULT
from octavo.serve import structure
from octavo.serve.schema import CompletionRequest, parse
from octavo.serve.structure import check_structure, outside_strings

ALPHABET = 'ab",:[]{}\\\n é你'


def anything(draw: random.Random, level: int = 0) -> object:
    """A JSON value whose texts look like structure."""
    kind = draw.randrange(6 if level < 5 else 3)
    if kind == 0:
        return draw.random()
    if kind == 1:
        return "".join(draw.choice(ALPHABET) for _ in range(draw.randrange(12)))
    if kind == 2:
        return None
    if kind in (3, 4):
        return [anything(draw, level + 1) for _ in range(draw.randrange(5))]
    return {str(anything(draw, 9)): anything(draw, level + 1) for _ in range(draw.randrange(5))}


def members(value: object) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(members, value.values()))
    return 1 + sum(map(members, value)) if isinstance(value, list) else 0


def depth(value: object) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


def fits(body: bytes, **limits: int) -> bool:
    try:
        check_structure(body, dataclasses.replace(DEFAULT, **limits))
    except InvalidRequest:
        return False
    return True


def test_what_is_counted_is_what_the_parsed_value_holds(monkeypatch):
    draw = random.Random(1)
    for i in range(2000):
        value = [anything(draw)]
        body = json.dumps(value, ensure_ascii=i % 2 == 0).encode()
        monkeypatch.setattr(structure, "SLICE", draw.randrange(1, 50))
        outside = b"".join(outside_strings(body))
        assert sum(outside.count(mark) for mark in (b":", b"[", b"{")) == members(value)
        deep = depth(value)
        assert fits(body, json_depth=deep) and (deep == 1 or not fits(body, json_depth=deep - 1)), (deep, body)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (json.dumps({"prompt": [5] * 10**6}), "values"),
        (json.dumps({"prompt": ["a"] * 10**6}), "values"),
        (json.dumps({"metadata": dict.fromkeys(map(str, range(10**5)), 1)}), "members"),
        (json.dumps({"metadata": [[]] * 10**5}), "members"),
        ('{"prompt": "' + r"\u00e9" * 5 * 10**6 + '"}', "values"),
        ('{"a":' * 10**5, "members"),
        ("[" * 65 + "]" * 65, "deeper"),
        ('{"a":[' * 33 + "]}" * 33, "deeper"),
    ],
    ids=["ids", "texts", "members", "lists", "escapes", "open", "deep", "mixed"],
)
def test_a_body_that_holds_too_much_is_not_parsed(body, word):
    with pytest.raises(InvalidRequest, match=word):
        parse(CompletionRequest, body.encode(), DEFAULT)


def test_a_long_text_full_of_structure_is_only_a_text():
    text = 'a, b: [{"' * 3 * 10**5
    assert parse(CompletionRequest, json.dumps({"prompt": text}).encode(), DEFAULT).prompt == text
