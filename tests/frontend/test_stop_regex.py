"""Stop patterns: the first match that ends, whatever the chunks, as Python's `re` finds it; linear in time."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import InvalidRequest
from octavo.frontend.regex import Parser
from octavo.frontend.stop_regex import StopPatterns, StopRegex
from octavo.limits import DEFAULT

ATOMS = ["a", "b", "\n", ".", "[ab]", "[^a]", r"\d", r"\s", r"\w", "(?:ab|b)", "(a|ba)", "(?i:B)", "x", "[a-c]"]
SIGNS = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{2,}", "*?", "+?"]
PATTERNS = st.lists(st.tuples(st.sampled_from(ATOMS), st.sampled_from(SIGNS)), min_size=1, max_size=4).map(
    lambda parts: "".join(atom + sign for atom, sign in parts)
)
TEXTS = st.text("ab\nB1x ", max_size=24)


def search(patterns, text, strings=(), include=False):
    """(shown, matched) of a whole text in one piece."""
    stops = StopRegex(StopPatterns(patterns, strings), include)
    shown, matched = stops.push(text)
    return shown + stops.flush(), matched


def oracle(patterns, text, include=False):
    """The same by trying every end and every beginning."""
    compiled = [re.compile(pattern) for pattern in patterns]
    for end in range(1, len(text) + 1):
        found = [
            (start, i)
            for i, pattern in enumerate(compiled)
            for start in range(end)
            if pattern.fullmatch(text, start, end)
        ]
        if found:
            start, i = min(found)
            return text[: end if include else start], patterns[i]
    return text, None


def is_refused(pattern):
    try:
        StopPatterns([pattern], [])
    except InvalidRequest as error:
        return error.field == "stop_regex"
    return False


@settings(max_examples=400, deadline=None)
@given(st.lists(PATTERNS, min_size=1, max_size=2), TEXTS, st.booleans())
def test_the_first_match_is_the_one_that_trying_everything_finds(patterns, text, include):
    empty = [re.fullmatch(pattern, "") is not None for pattern in patterns]
    assert any(empty) == any(map(is_refused, patterns))
    if not any(empty):
        assert search(patterns, text, include=include) == oracle(patterns, text, include)


@settings(max_examples=200, deadline=None)
@given(PATTERNS, TEXTS, st.lists(st.integers(0, 24), max_size=6))
def test_chunks_change_nothing_and_what_is_shown_is_never_taken_back(pattern, text, cuts):
    if is_refused(pattern):
        return
    patterns = StopPatterns([pattern], ["b1"])
    stops, shown, matched = StopRegex(patterns), "", None
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for first, last in itertools.pairwise(places):
        part, matched = stops.push(text[first:last])
        shown += part
        assert text.startswith(shown)
    assert (shown + stops.flush(), matched) == search([pattern], text, ["b1"])


def test_every_split_of_a_text_gives_the_same():
    text = 'Sure.\n\nUser: what?  "quoted" 12:30 and so on\n### Human'
    for pattern in (r"\n+(?:User|Human):", r"\d+:\d\d", '"[^"]*"', r"(?m)^###", r"(?i)HUMAN", r"\s{2,}"):
        whole = search([pattern], text)
        assert whole[1] == pattern
        for cut in range(len(text)):
            stops = StopRegex(StopPatterns([pattern], []))
            first, matched = stops.push(text[:cut])
            rest, matched = stops.push(text[cut:])
            assert (first + rest + stops.flush(), matched) == whole


def test_a_start_is_the_beginning_of_the_text_or_of_a_line():
    assert search(["^b"], "ab\nb") == ("ab\nb", None)
    assert search(["^a"], "ab") == ("", "^a")
    assert search([r"(?m)^b"], "ab\nbc") == ("ab\n", r"(?m)^b")
    assert search([r"\n^b"], "a\nb") == ("a\nb", None)
    assert search([r"(?m)\n^b"], "a\nb") == ("a", r"(?m)\n^b")


def test_a_pattern_that_cannot_end_holds_back_no_more_than_the_limit():
    stops = StopRegex(StopPatterns(["a.*b"], []))
    text = "a" + "c" * 5000
    shown = "".join(stops.push(char)[0] for char in text)
    assert len(shown) == len(text) - DEFAULT.stop_regex_hold
    rest, matched = stops.push("b")
    assert matched == "a.*b"
    assert shown + rest == (text + "b")[: len(text) - DEFAULT.stop_regex_hold]
    assert search(["a.*b"], text + "b") == (shown + rest, matched)


def test_a_bounded_pattern_holds_back_no_more_than_it_can_need():
    stops = StopRegex(StopPatterns(["[a-z]x9"], []))
    assert "".join(stops.push(char)[0] for char in "a" * 50) == "a" * 48


def test_strings_and_patterns_are_one_search():
    assert search(["bc"], "abcd", ["abcd"]) == ("a", "bc")
    assert search(["d+"], "abcd", ["bcd"]) == ("a", "bcd")


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("a$", "$"),
        (r"a\b", r"\b"),
        (r"(a)\1", r"\1"),
        ("(?=a)", "look-around"),
        ("(?<!a)b", "look-around"),
        ("(a", "not closed"),
        ("a)", "unbalanced"),
        ("*a", "nothing to repeat"),
        ("a**", "repetition"),
        ("a{3,1}", "order"),
        ("[b-a]", "range"),
        ("[a", "too early"),
        ("a\\", "too early"),
        (r"\x1", "hexadecimal"),
        ("a*", "empty"),
        ("a|", "empty"),
        ("", "empty"),
        ("(a{500}){500}", "states"),
        ("(((a{99}){99}){99}){99}", "states"),
        ("(" * 200 + "a" + ")" * 200, "deeper"),
    ],
)
def test_what_an_automaton_cannot_do_is_refused_in_one_line(pattern, what):
    with pytest.raises(InvalidRequest) as error:
        StopPatterns([pattern], [])
    assert what in error.value.message
    assert error.value.field == "stop_regex"
    assert "\n" not in error.value.message


@settings(max_examples=200, deadline=None)
@given(st.text(r"ab01()[]{}|*+?^$.\-,:<>=!PimsxdwnA", max_size=14))
def test_any_text_is_a_pattern_or_refused(pattern):
    if is_refused(pattern):
        return
    node = Parser(pattern).parse()
    assert node is not None
    try:
        compiled = re.compile(pattern)
    except re.error:
        raise AssertionError(f"{pattern!r} is accepted and Python refuses it") from None
    for text in ("a", "ab01", "(a", "-,:", "b\na0"):
        matched = search([pattern], text)[1]
        assert (matched is not None) == any(
            compiled.fullmatch(text, start, end) for end in range(1, len(text) + 1) for start in range(end)
        )


@pytest.mark.parametrize("pattern", ["(a|a)*b", "(a*)*b", r"(\w+\s?)+!", "a.*b.*c", "[ab]{1,60}x", "(a|ab|b)*c"])
def test_time_is_linear_in_the_text(pattern):
    def cost(size):
        text = "ab" * (size // 2)
        stops = StopRegex(StopPatterns([pattern], []))
        begun = time.process_time()
        for at in range(0, size, 4):
            stops.push(text[at : at + 4])
        return time.process_time() - begun

    cost(2_000)
    small, large = min(cost(20_000) for _ in range(3)), min(cost(80_000) for _ in range(3))
    assert large < 10 * max(small, 0.002)
    assert large < 80_000 * 10e-6
