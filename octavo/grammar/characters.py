"""Sets of characters as sorted, disjoint ranges of code points."""

from __future__ import annotations

from collections.abc import Iterable

Chars = tuple[tuple[int, int], ...]

NONE: Chars = ()
ALL: Chars = ((0, 0xD7FF), (0xE000, 0x10FFFF))  # every character but the halves of UTF-16


def chars(ranges: Iterable[tuple[int, int]]) -> Chars:
    """The set of some ranges, which may overlap."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def union(*sets: Chars) -> Chars:
    """What is in any of the sets."""
    filled = [one for one in sets if one]
    return filled[0] if len(filled) == 1 else chars(pair for one in filled for pair in one)


def complement(set: Chars) -> Chars:
    """Every other character."""
    out: list[tuple[int, int]] = []
    for first, last in ALL:
        at = first
        for low, high in set:
            if high < at or low > last:
                continue
            if low > at:
                out.append((at, low - 1))
            at = high + 1
        if at <= last:
            out.append((at, last))
    return tuple(out)


def meets(a: Chars, b: Chars) -> bool:
    """Whether two sets share a character."""
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i][1] < b[j][0]:
            i += 1
        elif b[j][1] < a[i][0]:
            j += 1
        else:
            return True
    return False
