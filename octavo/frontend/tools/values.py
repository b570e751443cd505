"""Values as models write them, JSON or nearly so, passed on as JSON text while they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from octavo.frontend.tools.reader import Collected, Malformed, Marks, Out, Reader, Reading, read_all

MAX_DEPTH = 64
MAX_SCALAR = 512  # characters of a number or a word
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)
SCALAR = re.compile(r"[-+.\w]*")
BARE_KEY = re.compile(r"[-.$\w]*")
# What is plainly right is read at once. Neither can fail behind a repetition, so neither ever goes back.
ITEMS = re.compile(r'(?:(?:-?(?:0|[1-9]\d{0,17})|true|false|null|"[^"\\\x00-\x1f]*")[ \t\n\r]*,[ \t\n\r]*)+', re.ASCII)
PLAIN = re.compile(r'(?:[^"\\\x00-\x1f]+|\\["\\/bfnrt])+')
HEX = re.compile(r"[0-9a-fA-F]+")
# What JSON does not allow inside a string, and how it is spelled there.
CONTROL = {code: json.dumps(chr(code))[1:-1] for code in range(32)}
QUOTED = CONTROL | {ord('"'): '\\"', ord("\\"): "\\\\"}
PYTHON_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": "",
    "\\": "\\", "'": "'", '"': '"',
}  # fmt: skip
PYTHON_HEX = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True)
class Notation:
    """How values are written: words and their JSON, what opens and closes a string, and how keys look.

    `quotes` maps a quotation mark to the escapes inside: json, python, or none.
    """

    words: Mapping[str, str]
    quotes: Mapping[str, str]
    bare_keys: bool = False
    tuples: bool = False
    ends: Mapping[str, Marks] = field(init=False)

    def __post_init__(self) -> None:
        ends = {quote: Marks(quote, "\\") if escapes else Marks(quote) for quote, escapes in self.quotes.items()}
        object.__setattr__(self, "ends", ends)


LITERALS = {"true": "true", "false": "false", "null": "null"}
JSON = Notation(LITERALS, {'"': "json"})
PYTHON = Notation(
    LITERALS | {"True": "true", "False": "false", "None": "null"}, {"'": "python", '"': "python"}, tuples=True
)


def value(r: Reader, out: Out, notation: Notation = JSON) -> Reading[None]:
    """Read one value; Malformed at the first character that cannot belong to one, which stays unread."""
    opening = "{[(" if notation.tuples else "{["
    closers: list[str] = []
    while True:
        yield from r.spaces(out)
        if closers and closers[-1] == "]" and notation is JSON and (items := ITEMS.match(r.text, r.at)):
            out(r.take(len(items[0])))
            continue
        char = yield from r.peek()
        if char and char in opening:
            if len(closers) == MAX_DEPTH:
                raise Malformed(f"deeper than {MAX_DEPTH} levels")
            r.take(1)
            out("{" if char == "{" else "[")
            closers.append({"{": "}", "[": "]", "(": ")"}[char])
            yield from r.spaces(out)
            if (yield from r.peek()) != closers[-1]:
                if char == "{":
                    yield from key(r, out, notation)
                continue
        elif not (yield from string(r, out, notation)):
            yield from scalar(r, out, notation)
        if not (yield from after(r, out, notation, closers)):
            return


def after(r: Reader, out: Out, notation: Notation, closers: list[str]) -> Reading[bool]:
    """Read what stands behind a value: closing brackets, then a comma; whether another value follows."""
    while closers:
        yield from r.spaces(out)
        char = yield from r.peek()
        if char == closers[-1]:
            r.take(1)
            out("}" if char == "}" else "]")
            closers.pop()
        elif char == ",":
            r.take(1)
            out(",")
            if closers[-1] == "}":
                yield from r.spaces(out)
                yield from key(r, out, notation)
            return True
        else:
            raise Malformed(char)
    return False


def key(r: Reader, out: Out, notation: Notation) -> Reading[None]:
    """Read a key and its colon."""
    if not (yield from string(r, out, notation)):
        name = (yield from r.run(BARE_KEY, MAX_SCALAR)) if notation.bare_keys else ""
        if not name:
            raise Malformed("no key")
        r.take(len(name))
        out(f'"{name}"')
    yield from r.spaces(out)
    yield from r.expect(":")
    out(":")


def string(r: Reader, out: Out, notation: Notation) -> Reading[bool]:
    """Read a string if one comes next."""
    for quote in notation.quotes:
        if (yield from r.accept(quote)):
            break
    else:
        return False
    out('"')
    escapes = notation.quotes[quote]
    table = CONTROL if escapes == "json" else QUOTED
    while True:
        if escapes == "json" and (plain := PLAIN.match(r.text, r.at)):
            out(r.take(len(plain[0])))
        mark = yield from r.until(notation.ends[quote], lambda text: out(text.translate(table)))
        if not mark:
            raise Malformed("the end")
        r.take(len(mark))
        if mark == quote:
            out('"')
            return True
        out((yield from (json_escape(r) if escapes == "json" else python_escape(r))))


def json_escape(r: Reader) -> Reading[str]:
    """What follows a backslash, as JSON; one that JSON does not have is a backslash of its own."""
    char = yield from r.peek()
    if char and char in '"\\/bfnrt':
        return "\\" + r.take(1)
    if char == "'":
        return r.take(1)
    if char == "u":
        while len(r.text) - r.at < 5 and not r.ended:
            yield
        if HEX.fullmatch(r.text, r.at + 1, r.at + 5) and len(r.text) - r.at >= 5:
            return "\\" + r.take(5)
    return "\\\\"


def python_escape(r: Reader) -> Reading[str]:
    """What follows a backslash, as JSON; one that Python does not have is a backslash of its own."""
    char = yield from r.peek()
    if char and char in PYTHON_ESCAPES:
        return PYTHON_ESCAPES[r.take(1)].translate(QUOTED)
    if char in PYTHON_HEX:
        size = 1 + PYTHON_HEX[char]
        while len(r.text) - r.at < size and not r.ended:
            yield
        digits = r.text[r.at + 1 : r.at + size]
        if len(digits) == size - 1 and HEX.fullmatch(digits) and int(digits, 16) < 0x110000:
            r.take(size)
            return json.dumps(chr(int(digits, 16)))[1:-1]
    return "\\\\"


def scalar(r: Reader, out: Out, notation: Notation) -> Reading[None]:
    """Read a number or a word."""
    text = yield from r.run(SCALAR, MAX_SCALAR)
    word = notation.words.get(text)
    if word is None:
        if not NUMBER.fullmatch(text):
            raise Malformed(text[:20])
        word = text
    r.take(len(text))
    out(word)


def text_value(r: Reader, most: int) -> Reading[str]:
    """Read a JSON string of at most `most` characters and return its text."""
    text = Collected(most + 2)  # with its quotes
    if not (yield from string(r, text, JSON)):
        raise Malformed("no string")
    return json.loads(text.whole())


def converted(text: str, notation: Notation) -> str | None:
    """A whole value as JSON text, or None when it is not one."""
    parts: list[str] = []
    reader = Reader()

    def whole() -> Reading[None]:
        yield from value(reader, parts.append, notation)
        yield from reader.spaces()
        if reader.at < len(reader.text):
            raise Malformed("more than a value")

    try:
        read_all(reader, whole(), [text])
    except Malformed:
        return None
    return "".join(parts)
