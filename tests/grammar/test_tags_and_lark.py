"""Structural tags and Lark grammars: what they let through, what is refused."""

from __future__ import annotations

import json

import pytest

from octavo.errors import InvalidRequest
from octavo.grammar.matcher import GrammarMatcher
from octavo.structured import StructuredOutputsParams

from .conftest import EOS, TOOL, allowed, build, follows, make_vocabulary, matches

VOCABULARY = make_vocabulary()
INTEGER = {"type": "json_schema", "json_schema": {"type": "integer"}}


def tags(tag: object) -> GrammarMatcher:
    return build(VOCABULARY, StructuredOutputsParams(structural_tag=json.dumps(tag)))


def tag(format: dict[str, object]) -> GrammarMatcher:
    return tags({"type": "structural_tag", "format": format})


def lark(text: str) -> GrammarMatcher:
    return build(VOCABULARY, StructuredOutputsParams(grammar=text))


def triggered(**options: object) -> GrammarMatcher:
    fields = {"type": "triggered_tags", "triggers": ["<f"]}
    return tag(fields | {"tags": [{"begin": "<f=a>", "content": INTEGER, "end": "</f>"}]} | options)


def test_vllms_shape_lets_text_go_until_a_trigger_and_then_only_its_tags():
    structures = [
        {"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"},
        {"begin": "<f=b>", "schema": {"type": "boolean"}, "end": "</f>"},
    ]
    matcher = tags({"type": "structural_tag", "structures": structures, "triggers": ["<f="]})
    assert matches(matcher, "")
    assert matches(matcher, "I call <f=a>12</f> and\n<f=b>true</f>, done <f")
    assert not matches(matcher, "x <f=a>true</f>")
    assert not matches(matcher, "x <f=c>1</f>")
    assert not matches(matcher, "x <f=a>1")


def test_triggered_tags_may_be_needed_and_may_be_the_end():
    assert matches(triggered(), "nothing")
    assert not matches(triggered(at_least_one=True), "nothing")
    assert matches(triggered(at_least_one=True), "x<f=a>1</f> y")
    only = triggered(at_least_one=True, stop_after_first=True)
    assert matches(only, "x<f=a>1</f>")
    assert not matches(only, "x<f=a>1</f> ")
    assert matches(triggered(stop_after_first=True), "free")


def test_formats_combine():
    sequence = {
        "type": "sequence",
        "elements": [
            {"type": "tag", "begin": "<r>", "content": {"type": "any_text"}, "end": "</r>"},
            {"type": "or", "elements": [{"type": "const_string", "value": "none"}, INTEGER]},
            {"type": "any_text"},
        ],
    }
    matcher = tag(sequence)
    assert matches(matcher, "<r>any <r> thing</r>none at all")
    assert matches(matcher, "<r></r>12")
    assert not matches(matcher, "<r></r>maybe")
    regex = {"type": "regex", "pattern": r"\d{2}"}
    separated = {
        "type": "tags_with_separator",
        "separator": ",",
        "tags": [{"begin": "(", "content": regex, "end": [")", "]"]}],
    }
    assert matches(tag(separated), "(12),(34]")
    assert matches(tag(separated), "")
    assert not matches(tag(separated | {"at_least_one": True}), "")
    assert not matches(tag(separated | {"stop_after_first": True}), "(12),(34]")


def test_special_tokens_in_tags_are_tokens():
    matcher = tag({"type": "triggered_tags", "triggers": ["<|tool|>"], "at_least_one": True,
                   "tags": [{"begin": "<|tool|>go:", "content": INTEGER, "end": "<|end|>"}]})  # fmt: skip
    assert follows(matcher, b"I will ")
    assert matcher.accept(TOOL)
    assert follows(matcher, b"go:1")
    assert EOS in allowed(matcher, VOCABULARY)


@pytest.mark.parametrize(
    ("tag", "complaint"),
    [
        ({"type": "structural_tag"}, "structures and triggers"),
        ({"format": {"type": "xml"}}, "must be one of"),
        ({"format": {"type": "const_string"}}, "must be text"),
        ({"format": {"type": "const_string", "value": "a", "more": 1}}, "'more'"[1:-1]),
        ({"format": {"type": "grammar", "grammar": "root ::= 1"}}, "not supported"),
        ({"format": {"type": "sequence", "elements": [{"type": "any_text"}, INTEGER]}}, "come last"),
        ({"format": {"type": "sequence", "elements": []}}, "at least one"),
        ({"format": {"type": "tag", "begin": "a", "content": {"type": "any_text"}}}, "needs an end"),
        ({"structures": [{"begin": "<a>", "schema": {}, "end": ""}], "triggers": ["<b"]}, "none of the triggers"),
        ({"structures": [{"begin": "<a>", "schema": {}, "end": ""}], "triggers": ["<a", "<b"]}, "no tag begins"),
        ({"structures": [{"begin": "<a>", "schema": {"not": {}, "a": 1}}], "triggers": ["<a"]}, "not is not supported"),
        ([], "an object"),
    ],
)
def test_a_broken_tag_is_refused_with_its_place(tag, complaint):
    with pytest.raises(InvalidRequest) as error:
        tags(tag)
    assert complaint in error.value.message


def test_lark_grammars_work_with_inline_schemas_regexes_and_special_tokens():
    matcher = lark('start: "a" <|tool|> part+ // comment [\npart: %json {"type": "integer"} WORD\nWORD: /[\\/\\[(]x/\n')
    assert matcher.accept(ord("a"))
    assert matcher.accept(TOOL)
    assert follows(matcher, b"1(x2[x")
    assert matcher.may_stop
    assert matches(lark('start: head "b"\nhead[lazy]: /a.*c/'), "abcb")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('start: %json {"type": "integer", "not": {}}', "not is not supported"),
        ('start: %json {"type": ', "no JSON follows"),
        ('%llguidance {"allow_invalid_utf8": true}\nstart: "a"', "no options"),
        ('start: other\nother[stop="x"]: /a*/', "stop"),
        ("start: other\nother[max_tokens=3]: /a*/", "max_tokens"),
        ("start: other\nother[lazy, temperature=0.1]: /a*/", "temperature"),
        ("start: @other", "@other"),
        (f'start: {"(" * 65}"a"{")" * 65}', "nested deeper"),
    ],
)
def test_what_a_mask_cannot_keep_is_refused(source, complaint):
    with pytest.raises(InvalidRequest) as error:
        lark(source)
    assert complaint in error.value.message


def test_choices_of_any_characters_are_themselves():
    choices = ['"', "\\n", "a\nb", "\t\u0001", "/x/", "é😀", "a"]
    matcher = build(VOCABULARY, StructuredOutputsParams(choice=choices))
    assert all(matches(matcher, choice) for choice in choices)
    assert not matches(matcher, "\n")
