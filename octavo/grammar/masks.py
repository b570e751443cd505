"""Grammars of running sequences: built off the engine's thread, kept while sequences share them, asked for masks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.grammar.delayed import DelayedMatcher, Marks
from octavo.grammar.matcher import GrammarError, GrammarMatcher, MaskRow, Matcher
from octavo.grammar.vocabulary import Vocabulary
from octavo.messages import Grammar

PROTOTYPE_BYTES = 256 * 2**20  # of built grammars that are kept for the next sequence
MOST_MARKS = 64
REFUSED = "the engine let a token through that the grammar forbids"

Mask = NDArray[np.int32]  # [E, ceil(V / 32)]


class Fills(Protocol):
    """What a row of a mask is asked of."""

    def fill(self, row: MaskRow) -> None:
        """Set the bits of the tokens that may come next, clear all others."""
        ...


class Constraint:
    """What one sequence's output must match. Errors are kept for `accept` to tell: they are this sequence's alone."""

    def __init__(self, matcher: Matcher, vocabulary: Vocabulary, has_end: bool) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._has_end = has_end
        self._error: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return self._matcher.is_finished

    def fill(self, row: MaskRow) -> None:
        """Set the bits of the tokens that may come next."""
        try:
            self._matcher.fill(row)
        except GrammarError as error:
            self._error = error.message
            row[:] = -1
            return
        if not self._has_end and self._vocabulary.eos:
            self._without_end(row)

    def _without_end(self, row: MaskRow) -> None:
        """Forbid the end, as ignore_eos asks, where anything else may follow."""
        words = row.copy().view(np.uint32)
        for id in self._vocabulary.eos:
            words[id // 32] &= np.uint32(~(1 << id % 32) & 0xFFFFFFFF)
        if words.any():
            row[:] = words.view(np.int32)

    def accept(self, token: int, ends: bool) -> str | None:
        """Go on with a token, or end with it; an error's line for a token that was not allowed."""
        if self._error is not None:
            return self._error
        if ends and token in self._vocabulary.eos:
            return None if self._matcher.may_stop else REFUSED
        try:
            return None if self._matcher.accept(token) else REFUSED
        except GrammarError as error:
            return error.message


class Grammars:
    """Builds constraints for one model. `load` makes its vocabulary, which takes a moment and happens once."""

    def __init__(self, load: Callable[[], Vocabulary], most_bytes: int = PROTOTYPE_BYTES) -> None:
        self._load = load
        self._most_bytes = most_bytes
        self._vocabulary: Vocabulary | None = None
        self._lock = threading.Lock()  # of what follows, which the builder and the engine share
        self._prototypes: OrderedDict[bytes, tuple[GrammarMatcher, int]] = OrderedDict()
        self._marks: OrderedDict[tuple[tuple[str, ...], str | None], Marks] = OrderedDict()
        self._bytes = 0
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="octavo-grammar")
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="octavo-mask")

    @property
    def num_bytes(self) -> int:
        """What the kept grammars take, about."""
        return self._bytes

    def prepare(self) -> None:
        """Begin with the vocabulary, off this thread."""
        self._builder.submit(self._ready)

    def stop(self) -> None:
        """End the threads."""
        for executor in (self._builder, self._filler):
            executor.shutdown(wait=False, cancel_futures=True)

    def request(self, grammar: Grammar, has_end: bool) -> Future[Constraint]:
        """A constraint, now if the grammar is known; else it is built off this thread. GrammarError when it cannot."""
        known = self._known(grammar, has_end)
        if known is None:
            return self._builder.submit(self._build, grammar, has_end)
        done: Future[Constraint] = Future()
        done.set_result(known)
        return done

    def _ready(self) -> Vocabulary:
        if self._vocabulary is None:
            self._vocabulary = self._load()
        return self._vocabulary

    def _known(self, grammar: Grammar, has_end: bool) -> Constraint | None:
        """The constraint, if all of it has been built before."""
        with self._lock:
            marks = self._marks.get((grammar.begin_after, grammar.opening))
            if grammar.digest not in self._prototypes or (grammar.begin_after and marks is None):
                return None
            self._prototypes.move_to_end(grammar.digest)
            prototype = self._prototypes[grammar.digest][0]
        matcher = prototype.copy() if marks is None else DelayedMatcher(prototype, marks)
        return Constraint(matcher, self._ready(), has_end)

    def _build(self, grammar: Grammar, has_end: bool) -> Constraint:
        vocabulary = self._ready()
        known = self._known(grammar, has_end)
        if known is not None:
            return known
        matcher = GrammarMatcher.build(vocabulary, grammar.text)
        key = (grammar.begin_after, grammar.opening)
        marks = Marks(vocabulary, *key) if grammar.begin_after and key not in self._marks else None
        with self._lock:
            if marks is not None:
                self._marks[key] = marks
            while len(self._marks) > MOST_MARKS:
                self._marks.popitem(last=False)
            if grammar.digest not in self._prototypes:
                self._prototypes[grammar.digest] = (matcher, grammar.num_bytes)
                self._bytes += grammar.num_bytes
            while self._bytes > self._most_bytes and len(self._prototypes) > 1:
                self._bytes -= self._prototypes.popitem(last=False)[1][1]
        known = self._known(grammar, has_end)
        assert known is not None
        return known

    def begin_mask(self, constraints: Sequence[Fills | None]) -> Future[Mask]:
        """`mask`, computed by a thread of its own while this one waits for a device."""
        return self._filler.submit(self.mask, constraints)

    def mask(self, constraints: Sequence[Fills | None]) -> Mask:
        """One row for each, all ones where there is no constraint."""
        mask = np.full((len(constraints), self._ready().num_words), -1, np.int32)
        for row, constraint in zip(mask, constraints, strict=True):
            if constraint is not None:
                constraint.fill(row)
        return mask
