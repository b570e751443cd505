"""Matcher: which tokens may come next. The one seam between the engine and the library that knows grammars."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from octavo.errors import OctavoError
from octavo.grammar.vocabulary import LIMITS, Vocabulary

MaskRow = NDArray[np.int32]  # [ceil(V / 32)], bit i of the row, least significant first, is token i


class GrammarError(OctavoError):
    """A grammar cannot be built, or went over a limit while it was used. `message` is for the client."""


class Matcher(Protocol):
    """Follows one sequence. A matcher belongs to one sequence and one thread at a time."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""
        ...

    @property
    def may_stop(self) -> bool:
        """Whether what came so far is a whole match."""
        ...

    def fill(self, row: MaskRow) -> None:
        """Set the bits of the tokens that may come next, clear all others. GrammarError over a limit."""
        ...

    def accept(self, token: int) -> bool:
        """Go on with `token`; False, and nothing changes, when it does not fit. GrammarError over a limit."""
        ...

    def rollback(self, num_tokens: int) -> None:
        """Take back the last accepted tokens."""
        ...


class GrammarMatcher:
    """A grammar from the first token on."""

    def __init__(self, vocabulary: Vocabulary, inner: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._inner = inner
        self._buffer: MaskRow | None = None  # for vocabularies whose padding needs one more word

    @classmethod
    def build(cls, vocabulary: Vocabulary, text: str) -> GrammarMatcher:
        """A matcher for a grammar in the library's form; GrammarError with its line when it is not one."""
        inner = LLMatcher(vocabulary.ll, text, log_level=0, limits=LIMITS)
        if inner.is_error():
            raise GrammarError(readable(inner.get_error()))
        return cls(vocabulary, inner)

    def copy(self) -> GrammarMatcher:
        """Another one in the same state; costs microseconds, unlike building."""
        return GrammarMatcher(self._vocabulary, self._inner.deep_copy())

    @property
    def is_finished(self) -> bool:
        return self._inner.is_stopped()

    @property
    def may_stop(self) -> bool:
        return self._inner.is_accepting()

    def fill(self, row: MaskRow) -> None:
        inner, num_bytes = self._inner, self._vocabulary.num_bytes
        if row.nbytes == num_bytes:
            inner.unsafe_compute_mask_ptr(row.ctypes.data, num_bytes)
        else:
            if self._buffer is None:
                self._buffer = np.zeros(num_bytes // 4, np.int32)
            inner.unsafe_compute_mask_ptr(self._buffer.ctypes.data, num_bytes)
            row[:] = self._buffer[: len(row)]
        if inner.is_error():
            raise GrammarError(readable(inner.get_error()))

    def accept(self, token: int) -> bool:
        fits = self._inner.try_consume_tokens([token]) == 1
        if not fits and self._inner.is_error():
            raise GrammarError(readable(self._inner.get_error()))
        return fits

    def rollback(self, num_tokens: int) -> None:
        if num_tokens and not self._inner.rollback(num_tokens):
            raise GrammarError(readable(self._inner.get_error()))


def readable(error: str) -> str:
    """The library's message on one line, without its marks for developers, short enough for an answer."""
    text = " ".join(error.replace("<non-verbose/>", "").split())
    if text == "NoExtensionBias":
        return "no text matches it, or only endless ones do"
    return text if len(text) <= 300 else text[:297] + "..."
