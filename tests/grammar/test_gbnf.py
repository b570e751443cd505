"""GBNF: the words that a grammar is cut into for the library lose no text of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import InvalidRequest
from octavo.grammar import gbnf
from octavo.grammar.gbnf import Choice, Name, Node, OneOf, Repeat, Row, Rules, Text, Token
from octavo.grammar.lexing import to_lark
from octavo.grammar.matcher import GrammarMatcher
from octavo.grammar.translate import whole
from octavo.structured import StructuredOutputsParams

from .conftest import TOOL, build, make_vocabulary, matches

VOCABULARY = make_vocabulary()


def grammar(text: str) -> GrammarMatcher:
    return build(VOCABULARY, StructuredOutputsParams(grammar=text))


@pytest.mark.parametrize(
    ("source", "accepted", "rejected"),
    [
        ('root ::= "a"* "a"', ["a", "aaa"], ["", "b"]),
        ('root ::= ("ab" "c" | [a] "bd") root?', ["abc", "abd", "abdabc"], ["ab", "abcab"]),
        ('root ::= "x" root "y" | "x"+', ["xxxy", "xxx", "xxyy"[:3]], ["xy", "xxyy"]),
        ('root ::= id ("," id)* \nid ::= "if" | [a-z]+ | "(" root ")"', ["if,ifx,(a)"], ["i,"]),
        ('root ::= "é"? [ä-ü]{2,3}', ["éää", "ää"], ["ä", "ääää"]),
        ('# c\nroot ::= # d\n  "a" |\n  b\nb ::= "\\"" [^"\\\\\\]]* "\\""', ["a", '"x"', '""'], ['"]"', "b"]),
        ('root ::= "" | "a" root', ["", "aaa"], ["b"]),
        ('root ::= "x" ws "y"\nws ::= | " " ws', ["xy", "x  y"], ["x", "y"]),
        ("root ::= . [^\\n] [\\x41-\\x43]", ["\n.A", "éxC"], ["a\nA", "abD"]),
        ('root ::= ("a"{2} | "b"{,2}){1,2}', ["aabb", "", "aaaa"], ["a", "bbbbb"]),
    ],
)
def test_a_grammar_accepts_its_texts_and_no_other(source, accepted, rejected):
    matcher = grammar(source)
    assert [text for text in accepted if not matches(matcher, text)] == []
    assert [text for text in rejected if matches(matcher, text)] == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('start ::= "a"', "root"),
        ("root ::= nobody", "nobody"),
        ('root ::= "a', 'a " is not closed'),
        ('root ::= ("a"', "a ( is not closed"),
        ("root ::= [a", "a [ is not closed"),
        ('root ::= "a"{3,2}', "wrong way round"),
        ('root ::= "a"{x}', "expected {m}"),
        ('root ::= "a"\nroot ::= "b"', "defined twice"),
        ('root ::= (?="a")', "lookahead"),
        ('root ::= "\\u12"', "no character"),
        ('root ::= "a" )', "a rule's name"),
        (f'root ::= {"(" * 65}"a"{")" * 65}', "nested deeper"),
        ("root ::= []", "empty"),
    ],
)
def test_a_broken_grammar_is_refused_with_its_line(source, complaint):
    with pytest.raises(InvalidRequest) as error:
        grammar(source)
    assert complaint in error.value.message


def test_special_tokens_are_written_by_name_or_number():
    for source in (f'root ::= "a" <[{TOOL}]> "b"', 'root ::= "a" <|tool|> "b"'):
        matcher = grammar(source)
        assert all(matcher.accept(token) for token in (ord("a"), TOOL, ord("b")))
        assert matcher.may_stop
        assert not matches(grammar(source), "a<|tool|>b")


def test_llama_cpps_own_cases_hold(shared_data):
    cases = json.loads((shared_data / "structured" / "llamacpp-grammar-cases.json").read_text())
    wrong = []
    for case in cases:
        kind = "json" if case["kind"] == "json_schema" else "grammar"
        matcher = build(VOCABULARY, StructuredOutputsParams(**{kind: case["grammar"]}))
        wrong += [(case["name"], text) for text in case["accept"] if not matches(matcher, text)]
        wrong += [(case["name"], text) for text in case["reject"] if matches(matcher, text)]
    # llama.cpp stops at 16 digits, and takes additionalProperties as false where a schema does not speak of them.
    assert wrong == [
        ("min 0", "100000000000000000000000000000000"),
        (
            "object properties",
            '{ "number": 1600, "street_name": "Pennsylvania", "street_type":"Avenue", "direction":"NW"}',
        ),
    ]


def test_xgrammars_own_cases_hold_or_are_refused(shared_data):
    cases = json.loads((shared_data / "structured" / "xgrammar-cases.json").read_text())
    checked = refused = 0
    for case in (entry["case"] for entry in cases):
        for source, text, accepted in asked(case):
            checked += 1
            try:
                matcher = grammar(source)
            except InvalidRequest:
                assert "Regex(" in source  # a macro of their own
                refused += 1
                continue
            assert matches(matcher, text) == accepted, (source, text)
        if "expected_error_regex" in case and not case["ebnf_str"].endswith("|"):  # an empty alternative is one here
            checked += 1
            with pytest.raises(InvalidRequest):
                grammar(case["ebnf_str"])
    assert checked - refused >= 25
    assert refused <= 45


def asked(case: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What a recorded case says: grammar, text, whether it matches."""
    source = case.get("ebnf_str") or case.get("grammar") or case.get("grammar_str")
    if isinstance(source, str) and "::=" in source:
        if "accepted" in case:
            yield source, case.get("input_str", case.get("input")), case["accepted"]
        yield from ((source, text, True) for text in case.get("accepted_inputs", ()))
        yield from ((source, text, False) for text in case.get("rejected_inputs", ()))
    if "grammars" in case and isinstance(case["inputs"][0], str):
        yield from zip(case["grammars"], case["inputs"], case["expecteds"], strict=True)


def test_the_grammars_of_llama_cpp_can_be_used(shared_data):
    paths = sorted((shared_data / "structured" / "gbnf").glob("*.gbnf"))
    assert len(paths) >= 8
    for path in paths:
        grammar(path.read_text())
    json_grammar = grammar((shared_data / "structured" / "gbnf" / "json.gbnf").read_text())
    assert matches(json_grammar, '{ "a": [ 1, true, null, "x\\n" ] }\n')
    assert not matches(json_grammar, '{ "a": [ 1 }')


def test_the_parts_of_a_regular_grammar_become_one_word():
    lark = to_lark(gbnf.parse('root ::= sign? [0-9]+ ("." [0-9]+)?\nsign ::= "-" | "+"', 64))
    assert lark.count("/") == 2


# Random grammars against membership by definition.

LETTERS = "ab"


def texts(limit: int) -> list[str]:
    return ["".join(t) for n in range(limit + 1) for t in itertools.product(LETTERS, repeat=n)]


def derives(rules: Rules, limit: int) -> set[str]:
    """The texts of at most `limit` letters, by the definition of a grammar: the least fixed point."""
    found: dict[str, frozenset[str]] = dict.fromkeys(rules, frozenset())

    def join(left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
        return frozenset(a + b for a in left for b in right if len(a) + len(b) <= limit)

    def of(node: Node) -> frozenset[str]:
        if isinstance(node, Text):
            return frozenset({node.text}) if len(node.text) <= limit else frozenset()
        if isinstance(node, OneOf):
            return frozenset(letter for letter in LETTERS if any(a <= ord(letter) <= b for a, b in node.chars))
        if isinstance(node, Name):
            return found[node.name]
        if isinstance(node, Choice):
            return frozenset().union(*(of(item) for item in node.items))
        if isinstance(node, Row):
            whole: frozenset[str] = frozenset({""})
            for item in node.items:
                whole = join(whole, of(item))
            return whole
        assert not isinstance(node, Token)
        item, power, union = of(node.item), frozenset({""}), frozenset[str]()
        for count in range((node.high if node.high is not None else node.low + limit) + 1):
            union |= power if count >= node.low else frozenset()
            power = join(power, item)
        return union

    while True:
        grown = {name: of(node) for name, node in rules.items()}
        if grown == found:
            return set(found["root"])
        found = grown


leaves = st.one_of(
    st.sampled_from(["a", "b", "ab", "ba", "aa", ""]).map(Text),
    st.sampled_from([((97, 97),), ((97, 98),), ((98, 98),)]).map(OneOf),
    st.sampled_from(["root", "x", "y"]).map(Name),
)
nodes = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda items: Row(tuple(items))),
        st.lists(inner, min_size=2, max_size=3).map(lambda items: Choice(tuple(items))),
        st.tuples(inner, st.sampled_from([(0, None), (1, None), (0, 1), (2, 2), (1, 2)])).map(
            lambda pair: Repeat(pair[0], *pair[1])
        ),
    ),
    max_leaves=6,
)


@cache
def all_texts() -> list[str]:
    return texts(5)


@settings(max_examples=100, deadline=None)
@given(nodes, nodes, nodes)
def test_random_grammars_accept_what_their_definition_derives(root, x, y):
    rules = {"root": root, "x": x, "y": y}
    wanted = derives(rules, 5)
    if not wanted:
        return  # the library refuses a grammar that has no text at all
    try:
        grammar = to_lark(rules)
    except InvalidRequest as error:  # refused with a reason, which few are; accepting other texts is not allowed
        if "too entangled" not in error.message:
            raise
        return
    matcher = GrammarMatcher.build(VOCABULARY, whole(lark_grammar=grammar))
    found = {text for text in all_texts() if matches(matcher, text)}
    assert found == wanted
