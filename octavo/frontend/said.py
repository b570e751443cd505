"""Text that remembers which of its characters a request brought, while a chat template works on it (R41).

A template may trim, split, join and format what messages say. `Said` is a string whose operations carry a mark for each
character along, so that the end of a render tells a control token that the template wrote from one that messages
spell, in one piece or in pieces that only the template put together. Where an operation does not say where its
characters come from (JSON, widths, letters that change their number), all of its result counts as the request's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

THEIRS, OURS = b"\1", b"\0"
STAND_INS = range(0x100000, 0x10FFFD)  # private characters
Method = Callable[..., Any]


def _recased(method: Method) -> Method:
    """`method`, which changes characters one by one, unless it changes their number."""

    def call(self: Said, *args: Any) -> Said:
        return Said(method(self, *args), self.marks)

    call.__name__ = method.__name__
    return call


def _opaque(method: Method) -> Method:
    """`method`, of whose result nobody knows where it comes from."""

    def call(self: Said, *args: Any, **named: Any) -> Said:
        return Said(method(self, *args, **named))

    call.__name__ = method.__name__
    return call


class Said(str):
    """A string with a mark for each character: THEIRS from the request, OURS from the template.

    Without marks, or with marks that do not fit, all of it is the request's.
    """

    __slots__ = ("marks",)
    marks: bytes

    def __new__(cls, text: str, marks: bytes | None = None) -> Said:
        self = super().__new__(cls, text)
        length = len(self)
        self.marks = marks if marks is not None and len(marks) == length else THEIRS * length
        return self

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> Said:
        if not isinstance(key, slice):
            key = range(len(self))[key]
            key = slice(key, key + 1)
        return Said(str.__getitem__(self, key), self.marks[key])

    def __iter__(self) -> Iterator[Said]:  # type: ignore[override]
        return (self[i] for i in range(len(self)))

    def __add__(self, other: str) -> Said:
        return Said(str.__add__(self, other), self.marks + marks_of(other))

    def __radd__(self, other: str) -> Said:
        return Said(str.__add__(other, self), marks_of(other) + self.marks)

    def __mul__(self, count: SupportsIndex) -> Said:
        return Said(str.__mul__(self, count), self.marks * count)

    __rmul__ = __mul__  # type: ignore[assignment]

    def __mod__(self, values: object) -> Said:
        return formatted(self, str.__mod__, values)

    def __rmod__(self, left: str) -> Said:
        return formatted(left, str.__mod__, self)

    def lstrip(self, chars: str | None = None) -> Said:  # type: ignore[override]
        """As of a str."""
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None) -> Said:  # type: ignore[override]
        """As of a str."""
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None) -> Said:  # type: ignore[override]
        """As of a str."""
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Said:  # type: ignore[override]
        """As of a str."""
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str) -> Said:  # type: ignore[override]
        """As of a str."""
        return self[: len(self) - len(suffix)] if self.endswith(suffix) else self

    def _cut(self, pieces: Iterable[str], between: str | None) -> list[Said]:
        """These pieces of the text, one after the other, with `between` between them; None: with anything."""
        found: list[Said] = []
        at = 0
        for piece in pieces:
            if between is None:
                at = str.index(self, piece, at)
            found.append(self[at : at + len(piece)])
            at += len(piece) + len(between or "")
        return found

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Said]:  # type: ignore[override]
        """As of a str."""
        return self._cut(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Said]:  # type: ignore[override]
        """As of a str."""
        return self._cut(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[Said]:  # type: ignore[override]
        """As of a str."""
        whole = self._cut(str.splitlines(self, keepends=True), "")
        return whole if keepends else [line[: len(str.splitlines(line)[0])] for line in whole]

    def partition(self, sep: str) -> tuple[Said, ...]:  # type: ignore[override]
        """As of a str."""
        return tuple(self._cut(str.partition(self, sep), ""))

    def rpartition(self, sep: str) -> tuple[Said, ...]:  # type: ignore[override]
        """As of a str."""
        return tuple(self._cut(str.rpartition(self, sep), ""))

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Said:  # type: ignore[override]
        """As of a str."""
        if not old:
            return Said(str.replace(self, old, new, count))
        return joined(self._cut(str.split(self, old, count), old), new)

    def join(self, items: Iterable[str]) -> Said:  # type: ignore[override]
        """As of a str."""
        return joined(items, self)

    upper, lower, title = _recased(str.upper), _recased(str.lower), _recased(str.title)
    capitalize, swapcase, casefold = _recased(str.capitalize), _recased(str.swapcase), _recased(str.casefold)
    center, ljust, rjust = _opaque(str.center), _opaque(str.ljust), _opaque(str.rjust)
    zfill, expandtabs, translate = _opaque(str.zfill), _opaque(str.expandtabs), _opaque(str.translate)
    format, format_map, __format__ = _opaque(str.format), _opaque(str.format_map), _opaque(str.__format__)


def marks_of(text: str) -> bytes:
    """The marks of any string; one that remembers nothing is the template's."""
    return text.marks if isinstance(text, Said) else OURS * len(text)


def ours(text: str) -> Said:
    """Text of the template's own, as one that remembers."""
    return Said(text, marks_of(text))


def said(value: object) -> Any:
    """A copy of a JSON value in which every string is the request's, names of fields included."""
    if isinstance(value, str):
        return Said(value)
    if isinstance(value, Mapping):
        return {Said(key): said(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [said(item) for item in value]
    return value


def remembers(value: object) -> bool:
    """Whether a string of the request's is in `value`; iterators may hold one, and bytes may be one."""
    if isinstance(value, Said | bytes):
        return True
    if isinstance(value, Mapping):
        return any(remembers(key) or remembers(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(map(remembers, value))
    return isinstance(value, Iterator)


def joined(items: Iterable[str], separator: str = "") -> Said:
    """The items joined, each with its marks."""
    items = list(items)
    # str's own join: that of a separator that remembers would come back here.
    return Said(str.join(separator, items), marks_of(separator).join([marks_of(item) for item in items]))


def formatted(text: str, apply: Callable[[str, Any], str], values: object) -> Said:
    """`apply(text, values)` with its marks where the values come whole into text of the template's own.

    Each value that remembers is one private character at first, which then shows where it went.
    """
    plain = apply(text, values)
    many = values if isinstance(values, tuple) else (values,)
    simple = all(isinstance(value, Said | int | float) for value in many)
    if THEIRS in marks_of(text) or not simple:
        return Said(plain)
    free = (chr(code) for code in STAND_INS if chr(code) not in plain and chr(code) not in text)
    places: dict[str, str] = {}
    instead: list[object] = []
    for value in many:
        instead.append(next(free) if isinstance(value, Said) else value)
        if isinstance(value, Said):
            places[str(instead[-1])] = value
    marked = apply(text, tuple(instead))
    result = joined(places.get(char, ours(char)) for char in marked)
    return result if result == plain else Said(plain)
