"""A grammar that begins behind a marker: reasoning comes first, in any words, and then what must match."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from octavo.grammar.matcher import GrammarMatcher, MaskRow
from octavo.grammar.vocabulary import WORD, Vocabulary


class Marks:
    """The texts that one grammar may begin behind, and which tokens may come until one of them has."""

    def __init__(self, vocabulary: Vocabulary, marks: tuple[str, ...], opening: str | None) -> None:
        self.vocabulary = vocabulary
        self.marks = tuple(mark.encode() for mark in marks)
        self.opening = (opening or "").encode()
        self.longest = max(len(mark) for mark in self.marks)
        self.free = self._free()
        self.parts = {mark[:n]: mark[n:] for mark in self.marks for n in range(1, len(mark))}
        self.past = lru_cache(None)(self._past)

    def _free(self) -> MaskRow:
        """Every token but the ends, and but those that would go on behind a mark: what follows is the grammar's."""
        vocabulary = self.vocabulary
        bits = np.zeros(vocabulary.num_words * WORD, np.bool_)
        bits[: vocabulary.vocab_size] = True
        bits[list(vocabulary.eos)] = False
        for id, token in enumerate(vocabulary.tokens):
            for mark in self.marks:
                if mark in token and token.find(mark) + len(mark) < len(token):
                    bits[id] = False
        return packed(bits)

    def _past(self, rest: bytes) -> NDArray[np.int64]:
        """The tokens that go on behind `rest`, the missing part of a mark."""
        return np.array([id for token, id in self.vocabulary.beginning(rest) if len(token) > len(rest)], np.int64)

    def towards(self, rest: bytes) -> list[int]:
        """The tokens that `rest`, the missing part of the opening, begins with."""
        found: list[int] = []
        for length in range(1, len(rest) + 1):
            for token, id in self.vocabulary.beginning(rest[:length]):
                if len(token) > length:
                    break
                found.append(id)
        return found


class DelayedMatcher:
    """Anything but the end until a mark has come, then the grammar.

    With an opening, the grammar holds at once unless the output begins with that text.
    """

    def __init__(self, inner: GrammarMatcher, marks: Marks) -> None:
        self._first = inner
        self._marks = marks
        self._tokens: list[int] = []
        self._begin()

    def _begin(self) -> None:
        self._waits = not self._marks.opening  # for a mark
        self._opens = not self._waits  # the output may still turn out to begin with the opening
        self._inner = None if self._waits else self._first.copy()
        self._text = b""  # the end of the output, where a mark or the opening may be incomplete

    @property
    def is_finished(self) -> bool:
        return not self._opens and self._inner is not None and self._inner.is_finished

    @property
    def may_stop(self) -> bool:
        return self._inner is not None and self._inner.may_stop

    def fill(self, row: MaskRow) -> None:
        if self._waits:
            row[:] = self._marks.free
            for begun, rest in self._marks.parts.items():
                if self._text.endswith(begun):
                    change(row, self._marks.past(rest), allow=False)
            return
        if self._inner is None:
            row[:] = 0
        else:
            self._inner.fill(row)
        if self._opens:
            ids = self._marks.towards(self._marks.opening[len(self._text) :])
            change(row, np.array(ids, np.int64), allow=True)

    def accept(self, token: int) -> bool:
        spelled = self._marks.vocabulary.spelled(token)
        if self._waits:
            fits = token not in self._marks.vocabulary.eos
            if fits:
                self._wait(self._text + spelled)
        elif self._opens:
            fits = self._open(token, self._text + spelled)
        else:
            fits = self._inner is not None and self._inner.accept(token)
        if fits:
            self._tokens.append(token)
        return fits

    def _open(self, token: int, text: bytes) -> bool:
        opening = self._marks.opening
        matches = self._inner is not None and self._inner.accept(token)
        opens = len(text) > len(self._text) and opening.startswith(text)
        if not matches and not opens:
            return False
        self._text, self._opens = text, opens
        if text == opening:
            self._opens, self._waits, self._text = False, True, b""
        if self._waits or not matches:
            self._inner = None
        return True

    def _wait(self, text: bytes) -> None:
        if any(mark in text for mark in self._marks.marks):
            self._waits, self._text, self._inner = False, b"", self._first.copy()
        else:
            self._text = text[-self._marks.longest :]

    def rollback(self, num_tokens: int) -> None:
        kept = self._tokens[: len(self._tokens) - num_tokens]
        self._tokens = []
        self._begin()
        for token in kept:
            fits = self.accept(token)
            assert fits, f"token {token} was accepted once and is not again"


def packed(bits: NDArray[np.bool_]) -> MaskRow:
    """Booleans [n * 32] as a row of a mask."""
    return np.packbits(bits, bitorder="little").view(np.int32)


def change(row: MaskRow, ids: NDArray[np.int64], allow: bool) -> None:
    """Allow or forbid tokens."""
    words = row.view(np.uint32)
    bits = np.uint32(1) << (ids % WORD).astype(np.uint32)
    if allow:
        np.bitwise_or.at(words, ids // WORD, bits)
    else:
        np.bitwise_and.at(words, ids // WORD, ~bits)
