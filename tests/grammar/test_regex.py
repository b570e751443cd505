"""Regexes mean what they mean to Python's re, or are refused."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import InvalidRequest
from octavo.grammar.regex import translate
from octavo.structured import StructuredOutputsParams

from .conftest import build, make_vocabulary, matches

VOCABULARY = make_vocabulary()

SAME = {
    "ab*": ["a", "abb", "b"],
    "^a$|b": ["a", "b", "ab"],
    r"\d+\.\d{2}": ["1.23", "1x23", "12.3"],
    r"[\w-]+@[^\s@]+": ["a-b@c", "é@x", "a@ b", "a@\x1c"],
    "[a&&b]+": ["a&b", "b"],
    "[+--]": ["+", ",", "-", "a"],
    "[a~~b]": ["~", "a"],
    "a{,2}b{1,}": ["b", "aabb", "aaab"],
    "a{x}": ["a{x}", "a"],
    "(?i)ab|c": ["AB", "C", "aB"],
    "(?i:A)b": ["ab", "aB"],
    r"(?P<year>\d)x": ["1x"],
    "[]a]": ["]", "a"],
    "[^]a]": ["b", "]"],
    "a.b": ["a\nb", "axb", "aéb", "a😀b"],
    "(?s)a.b": ["a\nb"],
    "a*?b+?c??": ["aab", "c"],
    r"[\u00e9-\u00ff]\x41": ["êA", "eA"],
    "": ["", "a"],
    "a|": ["", "a"],
    "(a|b)?c": ["c", "ac", "abc"],
    "/\"'#": ["/\"'#"],
    r"[\W][\D]\S": ["-aa", "a1 ", "éxx", "-٣x"],
    "[[a]": ["[", "a"],
    r"a\Z": ["a"],
    "x(?#a comment)y": ["xy"],
    r"\t\n\\\.\-\/": ["\t\n\\.-/"],
}
REFUSED = {
    "(?=a)b": "lookahead",
    "a(?<!b)": "lookbehind",
    r"(a)\1": "back-reference",
    r"\bfoo": "word boundaries",
    "a++": "possessive",
    "a**": "quantifier follows",
    "a{2}{3}": "quantifier follows",
    "*a": "nothing to repeat",
    "(a": "not closed",
    "a)": "without its (",
    "[a": "not closed",
    "[z-a]": "wrong way round",
    "a{3,2}": "wrong way round",
    "a\\": "backslash",
    "a^b": "beginning",
    "a$b": "end",
    "(?x) a": "not possible",
    "a\0": "NUL",
    r"\q": "no meaning",
    r"\ud800": "no character",
    "(" * 65 + ")" * 65: "nested deeper",
}


@pytest.mark.parametrize("pattern", SAME)
def test_a_pattern_matches_what_it_matches_in_python(pattern):
    matcher = build(VOCABULARY, StructuredOutputsParams(regex=pattern))
    with warnings.catch_warnings(action="ignore"):
        for text in SAME[pattern]:
            assert matches(matcher, text) == bool(re.fullmatch(pattern, text)), text


def test_digits_are_ascii_and_letters_are_any_scripts():
    matcher = build(VOCABULARY, StructuredOutputsParams(regex=r"\d\w"))
    assert matches(matcher, "7字")
    assert not matches(matcher, "٣a")


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_only_another_engine_can_do_is_refused_with_its_place(pattern):
    with pytest.raises(InvalidRequest) as error:
        translate(pattern, 64)
    assert REFUSED[pattern] in error.value.message
    assert "at character" in error.value.message


atoms = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\w", r"[\d_-]", "(?:a|b)", "(b)", r"\.", "-", "&"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,1}", "*?"])).map(
            lambda p: f"(?:{p[0]}){p[1]}"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(patterns, st.lists(st.text("ab-._&", max_size=4), min_size=4, max_size=8))
def test_random_patterns_agree_with_python(pattern, texts):
    matcher = build(VOCABULARY, StructuredOutputsParams(regex=pattern))
    for text in texts:
        assert matches(matcher, text) == bool(re.fullmatch(pattern, text)), (pattern, text)
