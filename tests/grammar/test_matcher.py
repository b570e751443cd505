"""The seam: masks are exactly what may come next, steps back are exact, a constraint may begin behind a marker."""

from __future__ import annotations

import random

import pytest

from octavo.grammar.delayed import DelayedMatcher, Marks
from octavo.grammar.matcher import GrammarError, GrammarMatcher, Matcher
from octavo.grammar.vocabulary import Vocabulary
from octavo.structured import StructuredOutputsParams

from .conftest import EMPTY, EOS, TOKENS, TOOL, allowed, build, encode, follows, make_vocabulary, matches
from .constraints import CASES

AB = StructuredOutputsParams(regex="(?:ab){1,3}")


def delayed(vocabulary: Vocabulary, *marks: str, opening: str | None = None) -> DelayedMatcher:
    return DelayedMatcher(build(vocabulary, AB), Marks(vocabulary, marks, opening))


def check_mask(matcher: Matcher, vocabulary: Vocabulary, copy: Matcher, path: list[int]) -> set[int]:
    """The allowed tokens, after each token of the vocabulary was tried on a matcher in the same state."""
    found = allowed(matcher, vocabulary)
    is_certain = len(found) == 1  # where only one text may come, it is said in the tokenizer's own way
    for id in range(vocabulary.vocab_size):
        if id in vocabulary.eos:
            assert (id in found) == copy.may_stop
            continue
        fits = copy.accept(id)
        assert fits == (id in found) or (is_certain and fits), (id, TOKENS[id], path)
        if fits:
            copy.rollback(1)
    return found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_mask_allows_exactly_the_tokens_that_are_accepted(vocabulary, case):
    chance = random.Random(case.name)
    prototype = build(vocabulary, case.wanted)
    matcher, path = prototype.copy(), list[int]()
    for _ in range(12):
        found = check_mask(matcher, vocabulary, matcher.copy(), path)
        choices = sorted(found - {EOS})
        if matcher.is_finished or not choices:
            break
        path.append(chance.choice(choices))
        assert matcher.accept(path[-1])


def test_tokens_without_text_special_ones_and_padding_are_never_allowed_by_text():
    vocabulary = make_vocabulary(vocab_size=300)
    found = allowed(build(vocabulary, StructuredOutputsParams(regex="(?s:.)*")), vocabulary)
    assert not found & {EMPTY, TOOL, *range(len(TOKENS), 320)}
    assert {EOS, ord("a"), 259} <= found


def test_a_token_that_does_not_fit_changes_nothing(vocabulary):
    matcher = build(vocabulary, AB)
    assert matcher.accept(ord("a"))
    assert not matcher.accept(ord("x"))
    assert not matcher.accept(TOOL)
    assert matcher.accept(ord("b"))
    assert matcher.may_stop
    assert not matcher.is_finished


def test_a_certain_text_is_said_with_the_tokens_the_model_knows_it_by():
    prefixing = Vocabulary(TOKENS, {TOOL}, (EOS,), len(TOKENS), lambda text: encode(" " + text))
    for vocabulary in (make_vocabulary(), prefixing):
        matcher = build(vocabulary, StructuredOutputsParams(choice=["abab</t>é"]))
        said = []
        while not matcher.is_finished:
            (token,) = allowed(matcher, vocabulary)
            said.append(TOKENS[token])
            assert matcher.accept(token)
        assert said == [b"ab", b"ab", b"</t>", "é".encode()]


def test_nothing_may_follow_a_grammars_end(vocabulary):
    matcher = build(vocabulary, AB)
    assert follows(matcher, b"ababab")
    assert matcher.is_finished
    assert not matcher.accept(ord("a"))


@pytest.mark.parametrize("opening", [None, "<t>"])
def test_a_step_back_leads_to_the_same_masks(vocabulary, opening):
    matcher = delayed(vocabulary, "</t>", opening=opening)
    text = (b"<t>" if opening else b"x") + b"so </t>abab"
    seen = [allowed(matcher, vocabulary)]
    for byte in text:
        assert matcher.accept(byte)
        seen.append(allowed(matcher, vocabulary))
    for back in (1, 3, len(text) - 4):
        matcher.rollback(back)
        assert allowed(matcher, vocabulary) == seen[len(text) - back]
        assert follows(matcher, text[len(text) - back :])


def test_anything_but_the_end_may_come_before_a_marker(vocabulary):
    matcher = delayed(vocabulary, "</t>")
    free = allowed(matcher, vocabulary)
    assert EOS not in free
    assert {TOOL, ord("a"), ord("x"), TOKENS.index(b"</t>")} <= free
    assert not matcher.accept(EOS)
    assert not matcher.may_stop
    assert matcher.accept(TOOL)
    assert follows(matcher, b"ab {x} </t")
    assert not matcher.is_finished


def test_what_follows_a_marker_is_the_grammars_even_within_one_token(vocabulary):
    matcher = delayed(vocabulary, "</t>")
    assert TOKENS.index(b"</t>x") not in allowed(matcher, vocabulary)
    assert follows(matcher, b"no </t")
    found = allowed(matcher, vocabulary)
    assert TOKENS.index(b">x") not in found
    assert ord(">") in found
    assert matcher.accept(ord(">"))
    assert allowed(matcher, vocabulary) == {TOKENS.index(b"ab")}
    assert follows(matcher, b"ab")
    assert matcher.may_stop


def test_the_first_of_several_markers_counts(vocabulary):
    matcher = delayed(vocabulary, "</t>", "END")
    assert follows(matcher, b"</tEND")
    assert allowed(matcher, vocabulary) == {TOKENS.index(b"ab")}


def test_a_special_token_is_a_marker_by_its_spelling(vocabulary):
    matcher = delayed(vocabulary, "<|tool|>")
    assert matcher.accept(TOOL)
    assert allowed(matcher, vocabulary) == {TOKENS.index(b"ab")}


def test_without_its_opening_the_grammar_holds_at_once(vocabulary):
    matcher = delayed(vocabulary, "</t>", opening="<t>")
    found = allowed(matcher, vocabulary)
    assert found == {TOKENS.index(b"ab"), ord("<"), TOKENS.index(b"<t>")}
    assert follows(matcher, b"ab")
    assert matcher.may_stop
    assert not matcher.accept(ord("<"))


def test_with_its_opening_the_grammar_waits_for_the_marker(vocabulary):
    matcher = delayed(vocabulary, "</t>", opening="<t>")
    assert matcher.accept(ord("<"))
    assert allowed(matcher, vocabulary) == {ord("t"), TOKENS.index(b"t>")}
    assert matcher.accept(TOKENS.index(b"t>"))
    assert EOS not in allowed(matcher, vocabulary)
    assert follows(matcher, b"hm </t>abab")
    assert matcher.may_stop


def test_an_opening_that_the_grammar_may_begin_with_stays_open(vocabulary):
    inner = build(vocabulary, StructuredOutputsParams(regex="<[a-z]+"))
    matcher = DelayedMatcher(inner, Marks(vocabulary, ("</t>",), "<t>"))
    assert matcher.accept(ord("<"))
    assert {ord("t"), ord("a")} <= allowed(matcher, vocabulary)
    assert matcher.accept(ord("t"))
    assert {ord(">"), ord("a")} <= allowed(matcher, vocabulary)
    assert matcher.may_stop
    assert matcher.accept(ord("x"))
    assert ord(">") not in allowed(matcher, vocabulary)


def test_a_model_without_an_end_has_masks_of_its_own_size():
    vocabulary = make_vocabulary(vocab_size=288, eos=())
    matcher = build(vocabulary, AB)
    assert allowed(matcher, vocabulary) == {TOKENS.index(b"ab")}
    assert follows(matcher, b"ab")
    assert allowed(matcher, vocabulary) == {ord("a"), TOKENS.index(b"ab")}
    assert (vocabulary.num_words, vocabulary.num_bytes) == (9, 40)


def test_a_grammar_that_cannot_be_built_says_why_on_one_line(vocabulary):
    with pytest.raises(GrammarError) as error:
        GrammarMatcher.build(vocabulary, '{"grammars": [{"lark_grammar": "start: nobody"}]}')
    assert "nobody" in error.value.message
    assert "\n" not in error.value.message


def test_the_anchors_of_the_suite_hold(vocabulary):
    matcher = build(vocabulary, StructuredOutputsParams(json={"type": "object", "required": ["a"]}))
    assert matches(matcher, '{"a": [1, {"b": null}]}')
    assert not matches(matcher, '{"b": 1}')
