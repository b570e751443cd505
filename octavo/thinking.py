"""A bound on the tokens of reasoning: where it begins and ends in a sequence of tokens, and when it must end."""

from __future__ import annotations

from msgspec import Struct


class ThinkingBudget(Struct, frozen=True, array_like=True):
    """At most `tokens` between the tokens `start` and `end`; `is_inside`: the output begins between them."""

    tokens: int
    start: tuple[int, ...]
    end: tuple[int, ...]
    is_inside: bool


class Thoughts:
    """How far one output is in its reasoning: a function of its tokens alone, so that it can be computed again.

    Only the first reasoning counts.
    """

    def __init__(self, budget: ThinkingBudget) -> None:
        self._start = budget.start
        self._end = budget.end
        self._left = budget.tokens
        self._inside = budget.is_inside
        self._is_over = False
        self._tail: tuple[int, ...] = ()  # the last tokens, as many as the longer mark has
        self._keep = max(len(budget.start), len(budget.end))

    def push(self, token: int) -> None:
        """One more token of the output."""
        if self._is_over:
            return
        self._tail = (*self._tail, token)[-self._keep :]
        if not self._inside:
            if self._start and self._tail[-len(self._start) :] == self._start:
                self._inside = True
                self._tail = ()
        elif self._tail[-len(self._end) :] == self._end:
            self._is_over = True
        else:
            self._left -= 1

    def end_now(self) -> None:
        """Let reasoning end with the next tokens, if it is going on."""
        self._left = 0

    def forced(self) -> int | None:
        """The token that must come next; None if any may."""
        if self._is_over or not self._inside or self._left > 0:
            return None
        # What is there of the end already counts, whoever wrote it.
        size = next(n for n in range(len(self._end) - 1, -1, -1) if self._tail[len(self._tail) - n :] == self._end[:n])
        return self._end[size]
