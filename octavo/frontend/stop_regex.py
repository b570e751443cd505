"""Stop patterns searched in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.frontend.regex import Automaton, Parser, literal
from octavo.limits import DEFAULT


class StopPatterns:
    """What several continuations of one request stop at: regexes and plain strings in one automaton."""

    def __init__(self, patterns: Sequence[str], strings: Sequence[str]) -> None:
        self.names = (*patterns, *strings)
        self.automaton = Automaton([*(Parser(text).parse() for text in patterns), *map(literal, strings)])
        longest = self.automaton.longest
        self.hold = DEFAULT.stop_regex_hold if longest is None else min(longest - 1, DEFAULT.stop_regex_hold)


class StopRegex:
    """Cuts a text that comes in chunks where the first match begins, and shows nothing that may still belong to one.

    The match that ends first wins; of those that end together the one that begins first. At most `hold` characters
    are held back: a match that began before them is cut where they begin. The split into chunks changes nothing.
    """

    def __init__(self, patterns: StopPatterns, include_in_output: bool = False) -> None:
        self._patterns = patterns
        self._include = include_in_output
        self._state = patterns.automaton.start
        self._held = ""
        self._last = "\n"  # the character before what is held: the text begins like a line does
        self._is_start = True
        self.matched: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Return the text that is safe to show now, and the pattern that ended it or None.

        After a match: no text, and the same pattern.
        """
        if self.matched is not None:
            return "", self.matched
        state, idle = self._state, 0  # `idle`: characters of `held` and `text` before any live match
        automaton, held = self._patterns.automaton, len(self._held)
        for at, char in enumerate(text, 1):
            following = state.following.get(char)
            state = following if following is not None else automaton.step(state, char)
            if state.matched:
                return self._match(self._held + text[:at], idle)
            if state.idle:
                idle = held + at
        self._state = state
        whole = self._held + text
        self._release(whole, max(idle, len(whole) - self._patterns.hold, 0))
        return whole[: len(whole) - len(self._held)], None

    def _release(self, whole: str, safe: int) -> None:
        if safe:
            self._last, self._is_start = whole[safe - 1], False
        self._held = whole[safe:]

    def _match(self, whole: str, idle: int) -> tuple[str, str]:
        # What one character at a time would have shown by now is shown, whatever the chunks.
        first = max(idle, len(whole) - 1 - self._patterns.hold, 0)
        at_start = self._is_start and first == 0
        at_line = (whole[first - 1] if first else self._last) == "\n"
        found = list(self._patterns.automaton.first_match(whole[first:], at_start, at_line))
        start, index = min(found, default=(0, 0))
        self.matched = self._patterns.names[index]
        self._held = ""
        return (whole if self._include else whole[: first + start]), self.matched

    def flush(self) -> str:
        """Return the text still held back, which no pattern claims any more."""
        held, self._held, self._state = self._held, "", self._patterns.automaton.start
        return held
