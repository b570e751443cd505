"""Constraints of every kind, each with a judge that shares no code with octavo: jsonschema, Python's re, a parser."""

from __future__ import annotations

import decimal
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import jsonschema

from octavo import StructuredOutputsParams

Judge = Callable[[str], bool]


@dataclass(frozen=True)
class Case:
    """A constraint, and whether a text keeps it."""

    name: str
    wanted: StructuredOutputsParams
    is_valid: Judge


def by_schema(schema: dict[str, Any]) -> Judge:
    """Judged by jsonschema, with formats, numbers as decimals."""
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    validator = jsonschema.Draft202012Validator(exact, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)

    def judge(text: str) -> bool:
        try:
            value = json.loads(text, parse_float=Decimal)
        except ValueError:
            return False
        with decimal.localcontext(prec=1000):
            return validator.is_valid(value)

    return judge


def by_regex(pattern: str) -> Judge:
    """Judged by Python's re."""
    return lambda text: re.fullmatch(pattern, text) is not None


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c\nd"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
UNION = {
    "anyOf": [
        {"type": "object", "properties": {"k": {"const": "x"}, "n": {"type": "number", "multipleOf": 0.25}},
         "required": ["k", "n"], "additionalProperties": False},
        {"type": "array", "prefixItems": [{"type": "null"}, {"type": "string", "pattern": "^[a-f]{2,4}$"}],
         "items": False, "minItems": 2},
        {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 1000},
    ]
}  # fmt: skip
MAP = {
    "type": "object",
    "patternProperties": {"^[xy][0-9]$": {"type": "number", "minimum": -1, "maximum": 1}},
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 3,
}
DATES = {
    "type": "object",
    "properties": {
        "day": {"type": "string", "format": "date"},
        "at": {"type": "string", "format": "date-time"},
        "id": {"type": "string", "format": "uuid"},
        "ip": {"type": "string", "format": "ipv4"},
        "mail": {"type": ["string", "null"], "format": "email", "maxLength": 24},
    },
    "required": ["day", "id", "ip", "mail"],
    "additionalProperties": False,
}
MERGED = {
    "allOf": [
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
        {"properties": {"a": {"maximum": 7}, "b": {"type": "boolean"}}, "required": ["b"]},
    ],
    "additionalProperties": False,
    "properties": {"a": True, "b": True},
}
SCHEMAS = {"person": PERSON, "tree": TREE, "union": UNION, "map": MAP, "dates": DATES, "merged": MERGED}
REGEXES = {
    "phone": r"\+\d{1,3}-\d{3}-\d{4}",
    "words": r"[A-Z][a-z]{0,6}(?: [a-z]{1,6}){0,4}\.",
    "version": r"v?(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){2}(?:-(?:alpha|beta|rc)\.[0-9]{1,2})?",
    "unicode": r"[\w&]{2,6}\s?[^\x00-\x7f\s]{1,3}",
    "insensitive": r"(?i)(?:yes|no|maybe)!?",
}
CHOICES = ["yes", "no", "yes and no", "Ä/\"'\\", "a\nb"]
EXPRESSION = """
root   ::= term ([+*-] term){0,4}   # no white space
term   ::= number | "(" root ")" | name
number ::= "-"? [0-9]{1,4}
name   ::= [a-z] [a-z0-9]{0,3}
"""
LIST = """
start: "[" item ("," item)* "]"
item: WORD | %json {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
  "additionalProperties": false}
WORD: /[a-z]{1,5}/
"""
TAGS = {
    "structures": [
        {"begin": "<n>", "schema": {"type": "integer", "minimum": 1, "maximum": 99}, "end": "</n>"},
        {"begin": "<b>", "schema": {"type": "boolean"}, "end": "</b>"},
    ],
    "triggers": ["<n", "<b"],
}
TAGGED = {
    "type": "structural_tag",
    "format": {
        "type": "tags_with_separator",
        "tags": [
            {"begin": "<f=", "content": {"type": "regex", "pattern": "[a-z]{1,8}"}, "end": ">"},
            {"begin": "{", "content": {"type": "json_schema", "json_schema": {"enum": [1, 22]}}, "end": ["}", "}}"]},
        ],
        "separator": "; ",
        "at_least_one": True,
    },
}


def is_expression(text: str) -> bool:
    """A parser of EXPRESSION by hand."""

    def root(at: int) -> int:
        at = term(at)
        for _ in range(4):
            if at >= len(text) or text[at] not in "+*-":
                break
            at = term(at + 1)
        return at

    def term(at: int) -> int:
        if text[at : at + 1] == "(":
            at = root(at + 1)
            if text[at : at + 1] != ")":
                raise ValueError
            return at + 1
        found = re.compile(r"-?[0-9]{1,4}|[a-z][a-z0-9]{0,3}").match(text, at)
        if not found:
            raise ValueError
        return found.end()

    try:
        return root(0) == len(text)
    except ValueError:
        return False


def is_list(text: str) -> bool:
    """LIST, with its objects replaced by words after they were checked."""
    if not (text.startswith("[") and text.endswith("]")):
        return False
    objects: list[str] = []

    def note(found: re.Match[str]) -> str:
        objects.append(found[0])
        return "o"

    plain = re.sub(r"\{[^{}]*\}", note, text[1:-1])
    fits = by_schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
                      "additionalProperties": False})  # fmt: skip
    return all(fits(one) for one in objects) and re.fullmatch(r"[a-z]{1,5}(,[a-z]{1,5})*", plain) is not None


def is_tagged_text(text: str) -> bool:
    """TAGS: behind each trigger stands one of its tags."""
    whole = re.compile(r"<n>\s*([1-9][0-9]?)\s*</n>|<b>\s*(true|false)\s*</b>")
    at = 0
    while found := re.compile("<n|<b").search(text, at):
        tag = whole.match(text, found.start())
        if not tag:
            return False
        at = tag.end()
    return True


CASES = [
    *(Case(name, StructuredOutputsParams(json=schema), by_schema(schema)) for name, schema in SCHEMAS.items()),
    *(Case(name, StructuredOutputsParams(regex=pattern), by_regex(pattern)) for name, pattern in REGEXES.items()),
    Case("object", StructuredOutputsParams(json_object=True), by_schema({"type": "object"})),
    Case("compact", StructuredOutputsParams(json=PERSON, disable_any_whitespace=True), by_schema(PERSON)),
    Case("choice", StructuredOutputsParams(choice=CHOICES), CHOICES.__contains__),
    Case("expression", StructuredOutputsParams(grammar=EXPRESSION), is_expression),
    Case("list", StructuredOutputsParams(grammar=LIST), is_list),
    Case("tags", StructuredOutputsParams(structural_tag=TAGS), is_tagged_text),
    Case(
        "tagged",
        StructuredOutputsParams(structural_tag=TAGGED),
        by_regex(r"(?:<f=[a-z]{1,8}>|\{(?:1|22)\}\}?)(?:; (?:<f=[a-z]{1,8}>|\{(?:1|22)\}\}?))*"),
    ),
]
