"""Control tokens: their names in configurations, and where a text spells them."""

from __future__ import annotations

import re
from collections.abc import Collection

from octavo.frontend.said import OURS, THEIRS, marks_of

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def control_pattern(tokens: Collection[str]) -> re.Pattern[str]:
    """Finds any of `tokens`, the longest where several begin."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))


def spelled(text: str, tokens: re.Pattern[str]) -> list[tuple[int, int]]:
    """Where `text` spells one of `tokens` without its template having written the first and the last character.

    Ranges may overlap: a token of the template's is found behind a longer one that begins before it.
    """
    found: list[tuple[int, int]] = []
    marks = marks_of(text)
    if THEIRS not in marks:
        return found
    at = 0
    while match := tokens.search(text, at):
        start, end = match.span()
        if marks[start : start + 1] + marks[end - 1 : end] == OURS + OURS:
            at = end
        else:
            found.append((start, end))
            at = start + 1
    return found
