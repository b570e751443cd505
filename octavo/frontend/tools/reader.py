"""Reader: text that arrives in pieces, for parsers written as if all of it were there.

A parser is a generator: it yields when it needs more text and is resumed when there is more, or when there will be no
more. Where the text was cut changes nothing, and every character is looked at a bounded number of times (R40).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]  # a parser that returns T
Out = Callable[[str], object]

SPACE = re.compile(r"\s*")


class Malformed(Exception):
    """The text is not what the convention says, or it ended too early."""


def drop(text: str) -> None:
    """An Out that forgets."""


class Collected:
    """An Out that keeps at most `most` characters; Malformed beyond."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._parts: list[str] = []

    def __call__(self, text: str) -> None:
        self._left -= len(text)
        self._parts.append(text)
        if self._left < 0:
            raise Malformed(self._parts[0][:20])

    def whole(self) -> str:
        """All that came."""
        return "".join(self._parts)


class Marks:
    """Some texts to look for. None may be a part of another, so that the first to appear is the only one to appear."""

    def __init__(self, *texts: str) -> None:
        assert texts and not any(a != b and a in b for a in texts for b in texts), texts
        self.texts = texts
        self.pattern = re.compile("|".join(map(re.escape, texts)))
        self._most = max(map(len, texts)) - 1
        self._firsts = re.compile("[" + "".join(re.escape(text[0]) for text in texts) + "]")

    def safe(self, text: str, start: int) -> int:
        """How far `text`, which holds none of them, can be no part of one that ends later."""
        at = max(start, len(text) - self._most)
        while found := self._firsts.search(text, at):
            at = found.start()
            if any(mark.startswith(text[at:]) for mark in self.texts):
                return at
            at += 1
        return len(text)


class Reader:
    """The text that is not read yet: `text` from `at` on; `ended` once no more will come."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._held: list[str] | None = None

    def feed(self, text: str) -> None:
        """More text has arrived."""
        self.text = self.text[self.at :] + text
        self.at = 0

    def take(self, count: int) -> str:
        """Read `count` characters that are there."""
        text = self.text[self.at : self.at + count]
        self.at += count
        if self._held is not None:
            self._held.append(text)
        return text

    def hold(self) -> None:
        """Remember what is read from here on."""
        self._held = []

    def release(self) -> str:
        """What was read since `hold`; empty when nothing was to be remembered."""
        held, self._held = self._held, None
        return "".join(held or ())

    def peek(self) -> Reading[str]:
        """The next character, unread; empty at the end."""
        while self.at == len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def accept(self, text: str) -> Reading[bool]:
        """Read `text` if it comes next."""
        while not self.text.startswith(text, self.at):
            # No more is copied than may be the beginning of `text`.
            if self.ended or self.at + len(text) <= len(self.text) or not text.startswith(self.text[self.at :]):
                return False
            yield
        self.take(len(text))
        return True

    def expect(self, text: str) -> Reading[None]:
        """Read `text`; Malformed if something else comes next."""
        if not (yield from self.accept(text)):
            raise Malformed(text)

    def spaces(self, out: Out = drop) -> Reading[None]:
        """Read white space."""
        while True:
            found = SPACE.match(self.text, self.at)
            if found and found.end() > self.at:
                out(self.take(found.end() - self.at))
            if self.at < len(self.text) or self.ended:
                return
            yield

    def run(self, pattern: re.Pattern[str], most: int) -> Reading[str]:
        """The longest run of characters that `pattern` (a class, starred) allows, unread; Malformed beyond `most`."""
        while True:
            found = pattern.match(self.text, self.at)
            assert found is not None
            if found.end() - self.at > most:
                raise Malformed(found[0][:20])
            if found.end() < len(self.text) or self.ended:
                return found[0]
            yield

    def until(self, marks: Marks, out: Out) -> Reading[str]:
        """Read up to the first of `marks`, which is returned and not read; up to the end if none comes, then empty."""
        while True:
            found = marks.pattern.search(self.text, self.at)
            if found is None:
                end = len(self.text) if self.ended else marks.safe(self.text, self.at)
            else:
                end = found.start()
            if end > self.at:
                out(self.take(end - self.at))
            if found is not None:
                return found[0]
            if self.ended:
                return ""
            yield

    def short(self, marks: Marks, most: int) -> Reading[tuple[str, str]]:
        """The text up to the first of `marks`, and that mark, both read; Malformed beyond `most` or at the end."""
        text = Collected(most)
        mark = yield from self.until(marks, text)
        if not mark:
            raise Malformed("the end")
        return text.whole(), self.take(len(mark))

    def rest(self, out: Out) -> Reading[None]:
        """Read all there will ever be."""
        while True:
            if self.at < len(self.text):
                out(self.take(len(self.text) - self.at))
            if self.ended:
                return
            yield


class Feed:
    """Runs a parser as its text arrives."""

    def __init__(self, reader: Reader, parser: Reading[None]) -> None:
        self._reader = reader
        self._parser = parser
        self._resume()

    def push(self, text: str) -> None:
        """More text."""
        self._reader.feed(text)
        self._resume()

    def finish(self) -> None:
        """There is no more."""
        self._reader.ended = True
        self._resume()

    def _resume(self) -> None:
        next(self._parser, None)


def read_all(reader: Reader, parser: Reading[T], texts: Sequence[str]) -> T:
    """What `parser` returns for these texts, which are all there is."""
    for text in texts:
        reader.feed(text)
    reader.ended = True
    try:
        next(parser)
    except StopIteration as done:
        return done.value
    raise AssertionError("a parser asks for more after the end")
