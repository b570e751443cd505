"""JSON schemas: every keyword is enforced, or refused with a reason; none is ignored."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from octavo.errors import InvalidRequest
from octavo.grammar import schema as schemas
from octavo.grammar.matcher import GrammarError, GrammarMatcher
from octavo.structured import StructuredOutputsParams

from .conftest import build, make_vocabulary, matches
from .constraints import by_schema

VOCABULARY = make_vocabulary()
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "structured-output.md"


def compiled(schema: object, **options: bool) -> GrammarMatcher:
    return build(VOCABULARY, StructuredOutputsParams(json=json.dumps(schema), **options))


def spelled(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# Each keyword that is enforced, with values that are valid and values that are not.
ENFORCED = {
    "type": ({"type": ["integer", "null"]}, [1, None], ["a", 1.5, True]),
    "enum": ({"enum": [1, "a", [2], {"b": None}]}, [1, "a", [2], {"b": None}], [2, "b", []]),
    "const": ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [2]}, {}]),
    "allOf": ({"allOf": [{"minimum": 3}, {"type": "integer", "maximum": 5}]}, [3, 5], [2, 6, "a"]),
    "anyOf": ({"anyOf": [{"type": "string"}, {"minimum": 3, "type": "number"}]}, ["", 3], [2, None]),
    "oneOf": ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["a", 1], [None, 1.5]),
    "$ref": ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, [1], ["a"]),
    "properties": ({"properties": {"a": {"type": "integer"}}}, [{"a": 1}, {}, {"b": ""}], [{"a": ""}]),
    "required": ({"type": "object", "required": ["a", "a"]}, [{"a": 1}], [{}, {"b": 1}]),
    "additionalProperties": (
        {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
        [{"a": 1, "b": None}],
        [{"b": 1}],
    ),
    "patternProperties": ({"patternProperties": {"^x": {"type": "null"}}}, [{"xy": None, "y": 1}], [{"xy": 1}]),
    "minProperties": ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
    "maxProperties": ({"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    "items": ({"items": {"type": "integer"}}, [[], [1, 2]], [["a"]]),
    "prefixItems": ({"prefixItems": [{"type": "integer"}], "items": False}, [[1], []], [["a"], [1, 2]]),
    "additionalItems": (
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [True], "additionalItems": False},
        [[1]],
        [[1, 2]],
    ),
    "minItems": ({"type": "array", "minItems": 2.0}, [[1, 2]], [[1]]),
    "maxItems": ({"type": "array", "maxItems": 1}, [[1]], [[1, 2]]),
    "minLength": ({"type": "string", "minLength": 2}, ["éé", "abc"], ["é", ""]),
    "maxLength": ({"type": "string", "maxLength": 2}, ["😀😀"], ["abc"]),
    "pattern": ({"type": "string", "pattern": "b+$"}, ["abb", "b"], ["ba", ""]),
    "format": ({"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-2-29", "x"]),
    "minimum": ({"type": "number", "minimum": 0.5}, [0.5, 2], [0.4, -1]),
    "maximum": ({"type": "number", "maximum": 0.5}, [0.5, -2], [0.6, 1]),
    "exclusiveMinimum": ({"type": "integer", "exclusiveMinimum": 1}, [2], [1]),
    "exclusiveMaximum": ({"type": "integer", "exclusiveMaximum": 1}, [0], [1]),
    "multipleOf": ({"type": "number", "multipleOf": 0.25}, [0.75, 3], [0.3, 0.1]),
}


def test_every_enforced_keyword_has_a_case():
    assert ENFORCED.keys() == schemas.ENFORCED


@pytest.mark.parametrize("word", sorted(ENFORCED))
def test_an_enforced_keyword_is_enforced(word):
    schema, valid, invalid = ENFORCED[word]
    matcher = compiled(schema)
    assert [value for value in valid if not matches(matcher, spelled(value))] == []
    assert [value for value in invalid if matches(matcher, spelled(value))] == []


@pytest.mark.parametrize("word", sorted(schemas.REFUSED))
def test_another_keyword_is_refused_with_its_place_and_a_reason(word):
    inner = {"type": "string", word: {"a": 1}}
    with pytest.raises(InvalidRequest) as error:
        compiled({"type": "object", "properties": {"x/y": inner}})
    assert f"#/properties/x~1y: {word} is not supported: {schemas.REFUSED[word]}" in error.value.message


@pytest.mark.parametrize("word", sorted(schemas.HARMLESS))
def test_a_refused_keyword_that_says_nothing_is_let_through(word):
    assert matches(compiled({"type": "integer", word: schemas.HARMLESS[word]}), "1")


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "string", "maxlength": 3}, "did you mean maxLength"),
        ({"type": "string", "uniqueitems": True}, "did you mean uniqueItems"),
        ({"type": "string", "format": "hostnam"}, "format"),
        ({"type": "array", "minItems": -1}, "at least 0"),
        ({"type": "array", "minItems": 1.5}, "an integer"),
        ({"properties": []}, "object of schemas"),
        ({"anyOf": []}, "list of schemas"),
        ({"items": 3}, "an object, true or false"),
        ({"enum": []}, "at least one value"),
        ({"required": "a"}, "list of names"),
        ({"multipleOf": 0}, "above 0"),
        ({"multipleOf": 123456.7}, "too many digits"),
        ({"pattern": "[a&&b]"}, "backslash"),
        ({"pattern": 3}, "regex"),
        ({"$schema": "urn:mine"}, "unknown"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "const": 1}, "means nothing in the draft"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#", "minimum": 3}, "beside $ref"),
        ({"items": {"$schema": "https://json-schema.org/draft/2020-12/schema"}}, "at the top"),
        ({"type": "object", "minProperties": 3, "required": ["a"]}, "name 3 properties in required"),
        ({"properties": {"a\nb": {}}}, "control character"),
        ({"x-guidance": {"lenient": True}}, "cannot be set"),
        ([], "a schema must be"),
    ],
)
def test_what_would_be_ignored_or_is_broken_is_refused(schema, complaint):
    with pytest.raises((InvalidRequest, GrammarError)) as error:
        compiled(schema)
    assert complaint in error.value.message


def test_words_that_say_nothing_about_values_are_let_through():
    schema = {"title": "t", "description": "d", "default": 3, "examples": [1], "deprecated": True, "x-mine": 1,
              "$comment": "c", "readOnly": True, "type": "integer", "whatever": {"not": 3}}  # fmt: skip
    assert matches(compiled(schema), "7")


def test_a_schema_is_bounded_in_depth():
    schema: dict[str, object] = {"type": "integer"}
    for _ in range(63):
        schema = {"items": schema}
    assert matches(compiled(schema), "[]")
    with pytest.raises(InvalidRequest, match="deeper"):
        compiled({"items": schema})


def test_white_space_is_bounded_and_can_be_forbidden_or_chosen():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    matcher = compiled(schema)
    assert matches(matcher, '{ "a" :\n\t1 }')
    assert matches(matcher, "{" + " " * 64 + '"a":1}')
    assert not matches(matcher, "{" + " " * 65 + '"a":1}')
    assert not matches(compiled(schema, disable_any_whitespace=True), '{ "a":1}')
    chosen = build(VOCABULARY, StructuredOutputsParams(json=schema, whitespace_pattern="_"))
    assert matches(chosen, '{_"a":1}')
    assert not matches(chosen, '{ "a":1}')


def test_objects_can_be_closed_to_properties_they_do_not_name():
    schema = {"properties": {"a": {"type": "object"}, "b": {"type": "object", "additionalProperties": True}}}
    matcher = compiled(schema, disable_additional_properties=True)
    assert matches(matcher, '{"a":{},"b":{"x":1}}')
    assert not matches(matcher, '{"a":{"x":1}}')
    assert not matches(matcher, '{"c":1}')


def suite(folder: Path) -> dict[str, Counter[str]]:
    """For each file of the JSON-Schema-Test-Suite, what became of its schemas and instances."""
    root = folder / "structured" / "json-schema-test-suite" / "draft2020-12"
    table: dict[str, Counter[str]] = {}
    for path in sorted(root.rglob("*.json")):
        counts = table[path.relative_to(root).as_posix().removesuffix(".json")] = Counter()
        for group in json.loads(path.read_text()):
            try:
                matcher = compiled(group["schema"])
            except (InvalidRequest, GrammarError):
                counts["refused"] += 1
                continue
            counts["enforced"] += 1
            for test in group["tests"]:
                accepted = matches(matcher, spelled(test["data"]))
                kind = "right" if accepted == test["valid"] else "wrong" if accepted else "narrower"
                counts[kind] += 1
                assert kind != "wrong", (path.name, group["description"], test["description"])
    return table


def test_over_the_official_suite_nothing_invalid_is_accepted_and_the_document_tells_the_same(shared_data):
    table = suite(shared_data)
    assert len(table) >= 20
    columns = ("enforced", "refused", "right", "narrower", "wrong")
    told = DOCUMENT.read_text()
    for name, counts in table.items():
        row = " | ".join(["", f"`{name}`", *(str(counts[column]) for column in columns), ""]).strip()
        assert row in told, f"docs/structured-output.md should have: {row}"


def test_the_judge_of_other_tests_agrees_with_the_suite(shared_data):
    path = shared_data / "structured" / "json-schema-test-suite" / "draft2020-12" / "anyOf.json"
    for group in json.loads(path.read_text()):
        for test in group["tests"]:
            assert by_schema(group["schema"])(spelled(test["data"])) == test["valid"]
