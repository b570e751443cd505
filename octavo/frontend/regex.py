"""Regular expressions as automata, for searching text that a model writes: time is linear, whatever the pattern.

The syntax is Python's without what an automaton has not: back references, look-around, word borders and `$`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from octavo.errors import InvalidRequest
from octavo.limits import DEFAULT

MAX_DEPTH = 50  # nested groups
DIGITS = frozenset(string.digits)
LETTERS = frozenset(string.ascii_letters)
CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda char: char.isalnum() or char == "_",
    "s": str.isspace,
}
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
CODES = {"x": 2, "u": 4, "U": 8}  # hexadecimal digits


@dataclass(frozen=True)
class Chars:
    """A set of characters: ranges (first, last) and tests, perhaps negated, with or without regard to case."""

    ranges: tuple[tuple[str, str], ...] = ()
    tests: tuple[Callable[[str], bool], ...] = ()
    negated: bool = False
    ignore_case: bool = False

    def __contains__(self, char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if self.ignore_case else (char,)
        found = any(
            any(first <= form <= last for first, last in self.ranges) or any(test(form) for test in self.tests)
            for form in forms
        )
        return found != self.negated


@dataclass(frozen=True)
class Start:
    """The beginning of the text, or of a line."""

    of_line: bool


@dataclass(frozen=True)
class Then:
    """One after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """One of several."""

    choices: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """`low` to `high` times; None is without end."""

    part: Node
    low: int
    high: int | None


Node = Chars | Start | Then | Either | Repeat
NOTHING = Then(())


def literal(text: str) -> Node:
    """The pattern that matches `text` alone."""
    return Then(tuple(Chars(((char, char),)) for char in text))


def size(node: Node) -> int:
    """How many states a node takes at most, counted before any is made."""
    match node:
        case Then(parts) | Either(parts):
            return 1 + sum(map(size, parts))
        case Repeat(part, low, high):
            return 1 + (size(part) + 1) * max(low + 1, high or 0)
        case _:
            return 1


def longest(node: Node) -> int | None:
    """How many characters a match of the node has at most; None without end."""
    match node:
        case Chars():
            return 1
        case Start():
            return 0
        case Then(parts):
            lengths = [longest(part) for part in parts]
            return None if None in lengths else sum(length for length in lengths if length is not None)
        case Either(choices):
            lengths = [longest(choice) for choice in choices]
            return None if None in lengths else max((length for length in lengths if length is not None), default=0)
        case Repeat(part, _, high):
            one = longest(part)
            return 0 if one == 0 else None if one is None or high is None else one * high


@dataclass(frozen=True)
class Flags:
    """(?i), (?s) and (?m)."""

    ignore_case: bool = False
    dot_all: bool = False
    multiline: bool = False


class Parser:
    """A pattern as a Node; InvalidRequest tells what is wrong and where."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.depth = 0

    def parse(self) -> Node:
        """The whole pattern."""
        node = self._either(self._leading_flags())
        if self.at < len(self.pattern):
            raise self._wrong("unbalanced )")
        return node

    def _wrong(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"stop_regex: {what} at position {self.at} of {self.pattern[:40]!r}", "stop_regex")

    def _peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def _take(self, text: str) -> bool:
        if not self._peek(text):
            return False
        self.at += len(text)
        return True

    def _next(self) -> str:
        if self.at >= len(self.pattern):
            raise self._wrong("the pattern ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def _leading_flags(self) -> Flags:
        end = self.pattern.find(")")
        letters = self.pattern[2:end]
        if not self._peek("(?") or end < 3 or not set(letters) <= set("ism"):
            return Flags()
        self.at = end + 1
        return Flags("i" in letters, "s" in letters, "m" in letters)

    def _either(self, flags: Flags) -> Node:
        choices = [self._then(flags)]
        while self._take("|"):
            choices.append(self._then(flags))
        return choices[0] if len(choices) == 1 else Either(tuple(choices))

    def _then(self, flags: Flags) -> Node:
        parts: list[Node] = []
        while self.at < len(self.pattern) and not self._peek("|") and not self._peek(")"):
            parts.append(self._repeated(self._atom(flags)))
        return parts[0] if len(parts) == 1 else Then(tuple(parts))

    def _repeated(self, node: Node) -> Node:
        bounds = self._bounds()
        if bounds is None:
            return node
        if isinstance(node, Start):
            raise self._wrong("a beginning cannot be repeated")
        self._take("?")  # a lazy match ends where the first of all matches ends, too
        if self._peek("+") or self._peek("*") or self._peek("?"):
            raise self._wrong("one repetition of another, or a possessive one,")
        return Repeat(node, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        end = self.pattern.find("}", self.at)
        if not self._peek("{") or end < 0:
            return None
        low, comma, high = self.pattern[self.at + 1 : end].partition(",")
        if not all(set(number) <= DIGITS and len(number) <= 6 for number in (low, high)) or not (low or high):
            return None  # as in Python, a brace that bounds nothing is a character
        self.at = end + 1
        first = int(low or 0)
        last = (int(high) if high else None) if comma else first
        if last is not None and last < first:
            raise self._wrong(f"{{{first},{last}}} has its bounds in the wrong order")
        return first, last

    def _atom(self, flags: Flags) -> Node:
        char = self._next()
        match char:
            case "(":
                return self._group(flags)
            case "[":
                return self._class(flags)
            case ".":
                return Chars((), (), True) if flags.dot_all else Chars((("\n", "\n"),), (), True)
            case "^":
                return Start(flags.multiline)
            case "$":
                raise self._wrong("$ is not supported (a text that still grows has no end)")
            case "*" | "+" | "?":
                raise self._wrong(f"nothing to repeat before {char}")
            case "\\":
                if self._take("A"):
                    return Start(False)
                return self._escape(flags)
            case _:
                return Chars(((char, char),), ignore_case=flags.ignore_case)

    def _group(self, flags: Flags) -> Node:
        if self._take("?P<"):
            end = self.pattern.find(">", self.at)
            if end < 0 or not self.pattern[self.at : end].isidentifier():
                raise self._wrong("a group has no proper name")
            self.at = end + 1
        elif self._take("?"):
            end = self.pattern.find(":", self.at)
            letters = self.pattern[self.at : end] if end >= 0 else "?"
            if not set(letters) <= set("ism"):
                raise self._wrong("look-around and other extensions are not supported: use (?:…) or (?i:…)")
            self.at = end + 1
            flags = Flags(
                flags.ignore_case or "i" in letters, flags.dot_all or "s" in letters, flags.multiline or "m" in letters
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._wrong(f"groups are nested deeper than {MAX_DEPTH}")
        node = self._either(flags)
        self.depth -= 1
        if not self._take(")"):
            raise self._wrong("a ( is not closed")
        return node

    def _escape(self, flags: Flags) -> Chars:
        char = self._next()
        if char.lower() in CLASSES:
            return Chars((), (CLASSES[char.lower()],), negated=char.isupper())
        if char in CODES:
            digits = self.pattern[self.at : self.at + CODES[char]]
            code = int(digits, 16) if len(digits) == CODES[char] and set(digits) <= set(string.hexdigits) else -1
            if not 0 <= code <= 0x10FFFF:
                raise self._wrong(f"\\{char} needs {CODES[char]} hexadecimal digits")
            self.at += len(digits)
            char = chr(code)
        elif char in CONTROLS:
            char = CONTROLS[char]
        elif char in LETTERS or char in DIGITS:
            raise self._wrong(f"\\{char} is not supported")
        return Chars(((char, char),), ignore_case=flags.ignore_case)

    def _class(self, flags: Flags) -> Node:
        negated = self._take("^")
        ranges: list[tuple[str, str]] = []
        tests: list[Callable[[str], bool]] = []
        while (not ranges and not tests) or not self._peek("]"):
            first = self._member(flags)
            if self._peek("-") and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self._member(flags)
                if not first.ranges or not last.ranges or last.ranges[0][0] < first.ranges[0][0]:
                    raise self._wrong("a range of characters has no proper ends")
                first = Chars(((first.ranges[0][0], last.ranges[0][0]),))
            ranges += first.ranges
            tests += (lambda char, part=first: char in part,) if first.tests else ()
        self.at += 1
        return Chars(tuple(ranges), tuple(tests), negated, flags.ignore_case)

    def _member(self, flags: Flags) -> Chars:
        char = self._next()
        return self._escape(flags) if char == "\\" else Chars(((char, char),))


@dataclass(slots=True, eq=False)
class State:
    """Where an unanchored search is: the character sets that may come next.

    `matched`: some pattern ends here. `idle`: no match can have begun before this place.
    """

    nodes: frozenset[int]
    matched: bool
    idle: bool
    following: dict[str, State] = field(default_factory=dict)


Thread = dict[int, int]  # automaton node -> where the earliest match that may reach it began


class Automaton:
    """Several patterns searched at once (Thompson's construction, made deterministic as far as the text asks for it).

    InvalidRequest when a pattern needs more than `max_states`, or matches the empty text.
    """

    def __init__(self, patterns: Iterable[Node], max_states: int = DEFAULT.stop_regex_states) -> None:
        nodes = tuple(patterns)
        count = sum(map(size, nodes))
        if count > max_states:
            raise InvalidRequest(
                f"stop_regex needs {count} states; at most {max_states} are allowed, so use shorter patterns or "
                "smaller repetitions",
                "stop_regex",
            )
        lengths = [longest(node) for node in nodes]
        self.longest = None if None in lengths else max((length for length in lengths if length is not None), default=0)
        self._chars: list[Chars | Start | None] = []
        self._out: list[tuple[int, ...]] = []
        self._accepts: dict[int, int] = {}  # node -> pattern
        entries: list[int] = []
        for i, node in enumerate(nodes):
            end = self._add(None)
            self._accepts[end] = i
            entries.append(self._build(node, end))
            if end in self._closure([entries[-1]], True, True):
                raise InvalidRequest("stop_regex matches the empty text; make a part of it obligatory", "stop_regex")
        self._entries = entries
        self._known: dict[tuple[frozenset[int], bool, bool], State] = {}
        self._transitions = 0
        self.start = State(frozenset(self._closure(entries, True, True)), False, True)

    def _add(self, chars: Chars | Start | None, *out: int) -> int:
        self._chars.append(chars)
        self._out.append(out)
        return len(self._out) - 1

    def _build(self, node: Node, end: int) -> int:
        """The node that begins `node` and goes on to `end`."""
        match node:
            case Chars() | Start():
                return self._add(node, end)
            case Then(parts):
                for part in reversed(parts):
                    end = self._build(part, end)
                return end
            case Either(choices):
                return self._add(None, *[self._build(choice, end) for choice in choices])
            case Repeat(part, low, high):
                if high is None:
                    loop = self._add(None)
                    self._out[loop] = (self._build(part, loop), end)
                    end = loop
                else:
                    for _ in range(high - low):
                        end = self._add(None, self._build(part, end), end)
                for _ in range(low):
                    end = self._build(part, end)
                return end

    def _closure(self, nodes: Iterable[int], at_start: bool, at_line: bool) -> list[int]:
        """What is reached without a character: sets to be matched, and ends."""
        seen: set[int] = set()
        found: list[int] = []
        stack = list(nodes)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            kind = self._chars[node]
            if isinstance(kind, Chars) or node in self._accepts:
                found.append(node)
            elif kind is None or at_start or (kind.of_line and at_line):
                stack += self._out[node]
        return found

    def step(self, state: State, char: str) -> State:
        """The state after one more character, remembered."""
        outs = [self._out[node][0] for node in state.nodes if char in self._set(node)]
        moved = self._closure(outs, False, char == "\n")
        matched = any(node in self._accepts for node in moved)
        fresh = self._closure(self._entries, False, char == "\n")
        nodes = frozenset(node for node in (*moved, *fresh) if node not in self._accepts)
        if self._transitions >= DEFAULT.stop_regex_transitions:  # what a text can make this remember is bounded
            self._known.clear()
            self._transitions = 0
        self._transitions += 1
        key = (nodes, matched, not moved)
        following = self._known.get(key)
        if following is None:
            following = self._known[key] = State(nodes, matched, not moved)
        state.following[char] = following
        return following

    def _set(self, node: int) -> Chars:
        chars = self._chars[node]
        assert isinstance(chars, Chars)
        return chars

    def first_match(self, text: str, at_start: bool, at_line: bool) -> Iterator[tuple[int, int]]:
        """(start, pattern) of every match that ends where `text` does, one per pattern, the leftmost of each.

        at_start, at_line: whether `text` begins the whole, or a line of it.
        """
        threads: Thread = {}
        for at in range(len(text) + 1):
            fresh = self._closure(self._entries, at_start and at == 0, at_line if at == 0 else text[at - 1] == "\n")
            for node in fresh:
                threads.setdefault(node, at)
            if at == len(text):
                break
            moved: Thread = {}
            for node, begun in sorted(threads.items(), key=lambda item: item[1]):
                if node not in self._accepts and text[at] in self._set(node):
                    for reached in self._closure(self._out[node], False, text[at] == "\n"):
                        moved.setdefault(reached, begun)
            threads = moved
        for node, pattern in self._accepts.items():
            if node in threads:
                yield threads[node], pattern
