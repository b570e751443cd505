"""Lark grammars of requests: what could not be kept is refused, JSON schemas inside are judged like all others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from octavo.errors import InvalidRequest
from octavo.structured import FIELD

# Strings, regexes and comments, in which nothing else is to be looked for; then what is.
PIECES = re.compile(
    r'"(?:\\.|[^"\\\n])*"i?|/(?![/*])(?:\\.|[^/\\\n])+/[a-z]*|//[^\n]*|#[^\n]*'
    r"|(?P<json>%json\b)|(?P<options>%llguidance\b)|(?P<braces>%regex\b)|(?P<attributes>[a-z_][\w-]*\[[^\]\n]*\]\s*:)|(?P<grammar>@\w+)"
)
SAFE_ATTRIBUTES = re.compile(
    r'\s*(?:lazy|capture(?:\s*=\s*"[^"]*")?|suffix\s*=\s*(?:"(?:\\.|[^"\\])*"|/[^/]*/|\w+))\s*'
)
DECODER = json.JSONDecoder()


def check(text: str, max_depth: int, normalize: Callable[[object], object]) -> str:
    """The grammar with its inline schemas normalized; InvalidRequest for what would be ignored or not work."""
    out: list[str] = []
    at = depth = 0
    for found in PIECES.finditer(text):
        if found.start() < at:
            continue  # inside a schema
        depth = deepest(text[at : found.start()], depth, max_depth)
        out.append(text[at : found.start()])
        at = found.end()
        if found["json"] or found["options"] or found["braces"]:
            value, end = decoded(text, at)
            if found["options"] and value != {}:
                raise refusal(text, found.start(), "%llguidance takes no options here")
            out.append(f"{found[0]} {json.dumps(normalize(value) if found['json'] else value)}")
            at = end
        elif found["grammar"]:
            raise refusal(text, found.start(), f"{found[0]} names another grammar; there is only this one")
        else:
            if found["attributes"]:
                check_attributes(text, found)
            out.append(found[0])
    deepest(text[at:], depth, max_depth)
    out.append(text[at:])
    return "".join(out)


def deepest(text: str, depth: int, limit: int) -> int:
    """The number of parentheses open behind `text`; InvalidRequest for more than `limit`."""
    for char in text:
        depth += (char in "([") - (char in ")]")
        if depth > limit:
            raise InvalidRequest(f"the grammar's groups are nested deeper than {limit}", FIELD)
    return depth


def decoded(text: str, at: int) -> tuple[object, int]:
    """The JSON value at `at`, and where it ends."""
    while text[at : at + 1].isspace():
        at += 1
    try:
        return DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise refusal(text, at, f"no JSON follows: {str(error) or 'nested too deeply'}") from None


def check_attributes(text: str, found: re.Match[str]) -> None:
    """`stop`, `max_tokens` and `temperature` would need more than a mask."""
    inside = found[0][found[0].index("[") + 1 : found[0].rindex("]")]
    for one in inside.split(","):
        if not SAFE_ATTRIBUTES.fullmatch(one):
            raise refusal(
                text, found.start(), f"the attribute {one.strip()[:40]!r} is not supported; use lazy or suffix"
            )


def refusal(text: str, at: int, why: str) -> InvalidRequest:
    """The error for what stands at `at`."""
    line = text.count("\n", 0, at) + 1
    return InvalidRequest(f"the grammar, line {line}: {why}", FIELD)
