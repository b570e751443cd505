"""R77: random schemas, random answers: whatever is accepted as whole is valid, and no place is without a way on."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from octavo.errors import InvalidRequest
from octavo.grammar.matcher import GrammarError, GrammarMatcher
from octavo.structured import StructuredOutputsParams

from .conftest import EOS, TOKENS, allowed, build, make_vocabulary
from .constraints import by_schema

VOCABULARY = make_vocabulary()
MOST_TOKENS = 160
NAMES = ["a", "b", "ab", "c"]
SCALARS: list[object] = [None, True, 0, -3, 2.5, "", "ab", "é"]
PATTERNS = ["^[a-c]{1,3}$", "b", "^a|c$", "^(?:ab)*$"]
FORMATS = ["date", "uuid", "ipv4", "email"]

Schema = dict[str, Any]


def number(chance: Random) -> Schema:
    schema: Schema = {"type": chance.choice(["integer", "number"])}
    low = chance.randint(-20, 20)
    for word, value in (
        ("minimum", low),
        ("exclusiveMaximum", low + chance.randint(1, 300)),
        ("multipleOf", chance.choice([2, 0.5, 7])),
    ):
        if chance.random() < 0.4:
            schema[word] = value
    return schema


def text(chance: Random) -> Schema:
    schema: Schema = {"type": "string", "maxLength": chance.randint(3, 6)}
    if chance.random() < 0.3:
        schema["minLength"] = chance.randint(0, 3)
    if chance.random() < 0.3:
        schema["pattern"] = chance.choice(PATTERNS)
    if chance.random() < 0.1:
        return {"type": "string", "format": chance.choice(FORMATS)}
    return schema


def array(chance: Random, depth: int) -> Schema:
    schema: Schema = {"type": "array", "maxItems": chance.randint(1, 3)}
    if chance.random() < 0.5:
        schema["items"] = schema_of(chance, depth - 1)
    if chance.random() < 0.3:
        schema["prefixItems"] = [schema_of(chance, depth - 1) for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.4:
        schema["minItems"] = chance.randint(0, 1)
    return schema


def mapping(chance: Random, depth: int) -> Schema:
    schema: Schema = {"type": "object", "properties": {}, "additionalProperties": chance.random() < 0.1}
    for name in chance.sample(NAMES, chance.randint(0, 3)):
        schema["properties"][name] = schema_of(chance, depth - 1)
    if schema["properties"] and chance.random() < 0.7:
        schema["required"] = chance.sample(sorted(schema["properties"]), chance.randint(1, len(schema["properties"])))
    if chance.random() < 0.2:
        schema["patternProperties"] = {"^x[0-9]$": schema_of(chance, depth - 1)}
    if chance.random() < 0.2:
        schema["minProperties"] = 1
    if chance.random() < 0.2:
        schema["maxProperties"] = chance.randint(1, 3)
    return schema


def schema_of(chance: Random, depth: int) -> Schema | bool:
    """A random schema of at most `depth` levels."""
    flat = ["number", "text", "enum", "plain"]
    kind = chance.choice(
        [*flat, *(["array", "array", "object", "object", "any", "all", "one"] if depth else ["const"])]
    )
    if kind == "number":
        return number(chance)
    if kind == "text":
        return text(chance)
    if kind == "enum":
        return {"enum": chance.sample(SCALARS, chance.randint(1, 3))}
    if kind == "const":
        return {"const": chance.choice(SCALARS)}
    if kind == "array":
        return array(chance, depth)
    if kind == "object":
        return mapping(chance, depth)
    if kind == "any":
        return {"anyOf": [schema_of(chance, depth - 1) for _ in range(2)]}
    if kind == "all":
        same = chance.choice([number, text])
        return {"allOf": [same(chance), same(chance)]}
    if kind == "one":
        return {"oneOf": [number(chance), text(chance)], **({"minLength": 1} if chance.random() < 0.3 else {})}
    return {"type": chance.choice(["null", "boolean", ["string", "null"], ["integer", "boolean"]])}


def answer(matcher: GrammarMatcher, chance: Random, schema: object) -> bytes | None:
    """A random whole answer; None for one that is not over in time."""
    said = b""
    for _ in range(MOST_TOKENS):
        if matcher.is_finished:
            return said
        found = allowed(matcher, VOCABULARY)
        assert found, (schema, said)
        if EOS in found and chance.random() < 0.4:
            return said
        # What closes something comes more often, or answers would never end.
        closing = [token for token in found - {EOS} if TOKENS[token] in (b'"', b"}", b"]", b",", b":")]
        token = chance.choice(closing if closing and chance.random() < 0.5 else sorted(found - {EOS} or found))
        if token == EOS:
            return said
        assert matcher.accept(token)
        said += TOKENS[token]
    return None


def check(seeds: range) -> tuple[int, int]:
    """How many schemas could be used, and how many whole answers were judged."""
    used = judged = 0
    for seed in seeds:
        chance = Random(seed)
        schema = schema_of(chance, 3)
        try:
            prototype = build(VOCABULARY, StructuredOutputsParams(json=json.dumps(schema)))
        except (InvalidRequest, GrammarError):
            continue
        used += 1
        is_valid = by_schema(schema)  # type: ignore[arg-type]
        for _ in range(4):
            said = answer(prototype.copy(), chance, schema)
            if said is None:
                continue
            judged += 1
            assert is_valid(said.decode()), (seed, schema, said)
    return used, judged


def test_random_answers_to_random_schemas_are_valid():
    used, judged = check(range(150))
    assert used > 90
    assert judged > 250


@pytest.mark.slow
def test_many_random_answers_to_random_schemas_are_valid():
    used, judged = check(range(1000, 5000))
    print(f"{judged} answers to {used} schemas")
    assert judged > 7000
