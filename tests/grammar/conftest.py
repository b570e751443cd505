"""A vocabulary that is small enough to look at, and texts asked of grammars byte by byte."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.grammar.matcher import GrammarMatcher, Matcher
from octavo.grammar.translate import translate
from octavo.grammar.vocabulary import Vocabulary
from octavo.structured import StructuredOutputsParams

EOS, TOOL, EMPTY = 256, 257, 258
LONGER = [b"ab", b"</t", b"</t>", b">x", b'{"a"', b"true", "é".encode(), b"</t>x", b"<t>", b"t>", b"aaa"]
SPECIAL = {"<|end|>": EOS, "<|tool|>": TOOL}
TOKENS = [bytes([i]) for i in range(256)] + [b"<|end|>", b"<|tool|>", b"", *LONGER]


def encode(text: str) -> list[int]:
    """The longest token, again and again."""
    ids, rest = [], text.encode()
    while rest:
        ids.append(max((id for id, token in enumerate(TOKENS) if token and rest.startswith(token)),
                       key=lambda id: len(TOKENS[id])))  # fmt: skip
        rest = rest[len(TOKENS[ids[-1]]) :]
    return ids


def make_vocabulary(vocab_size: int | None = None, eos: tuple[int, ...] = (EOS,)) -> Vocabulary:
    """Every byte, an end, a special token, one without text, and some longer ones."""
    return Vocabulary(TOKENS, {TOOL}, eos, vocab_size or len(TOKENS), encode)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return make_vocabulary()


def build(vocabulary: Vocabulary, wanted: StructuredOutputsParams) -> GrammarMatcher:
    """The matcher of a request."""
    wanted.check()
    return GrammarMatcher.build(vocabulary, translate(wanted, SPECIAL))


def follows(matcher: Matcher, text: bytes) -> bool:
    """Whether the text may come next; byte by byte, which is the hardest way to cut it."""
    return all(matcher.accept(byte) for byte in text)


def matches(prototype: GrammarMatcher, text: str | bytes) -> bool:
    """Whether the text as a whole is what the grammar asks for."""
    matcher = prototype.copy()
    return follows(matcher, text.encode() if isinstance(text, str) else text) and matcher.may_stop


def allowed(matcher: Matcher, vocabulary: Vocabulary) -> set[int]:
    """The tokens whose bits a mask has set."""
    row = np.zeros(vocabulary.num_words, np.int32)
    matcher.fill(row)
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())
