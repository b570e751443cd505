"""Values that models write as plain text, as JSON of the type that the tool's schema names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from octavo.frontend.tools.reader import Out
from octavo.frontend.tools.values import JSON, MAX_SCALAR, NUMBER, PYTHON, QUOTED, converted

DIGITS = re.compile(r"[-+]?\d+", re.ASCII)
MAX_SCHEMAS = 64  # of a union
TYPE_OF = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def kinds(schema: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that a schema allows, as far as it says so plainly; empty when it does not."""
    found: set[str] = set()
    parts: list[object] = [schema]
    for part in parts:
        if not isinstance(part, Mapping) or len(parts) > MAX_SCHEMAS:
            continue
        part = cast(Mapping[str, Any], part)
        named = part.get("type")
        found |= {kind for kind in (named if isinstance(named, list) else [named]) if isinstance(kind, str)}
        for word in ("anyOf", "oneOf", "allOf"):
            options = part.get(word)
            parts += options if isinstance(options, list) else []
        options = part.get("enum")
        if named is None and isinstance(options, list):
            found |= {TYPE_OF.get(type(option), "null") for option in options[:MAX_SCHEMAS]}
    return frozenset(found)


def convert(text: str, types: frozenset[str], on_lines: bool) -> str:
    """A value as JSON: of the first of `types` that it can be, else a string. Without `types`, any JSON it is."""
    if on_lines:
        text = text.removeprefix("\n").removesuffix("\n")
    bare = text.strip()
    word = bare.lower()
    if word in ("null", "none"):
        return "null"
    if types & {"integer", "number"} and len(bare) <= MAX_SCALAR:
        if NUMBER.fullmatch(bare):
            return bare
        if DIGITS.fullmatch(bare):
            return str(int(bare))
    if "boolean" in types and word in ("true", "false"):
        return word
    if not types or types & {"array", "object"}:
        found = converted(bare, JSON) or (converted(bare, PYTHON) if types else None)
        if found is not None and (not types or found[0] in "[{"):
            return found
    return json.dumps(text, ensure_ascii=False)


class StringValue:
    """A string that is sent while it is read. `on_lines`: without the line ends around it, and null is null."""

    def __init__(self, out: Out, on_lines: bool) -> None:
        self._out = out
        self._on_lines = on_lines
        self._held = ""
        self._is_cut = False
        self._begun = False

    def __call__(self, text: str) -> None:
        """More of it."""
        text = self._held + text
        self._held = ""
        if self._on_lines and not self._begun:
            if not self._is_cut and text:
                self._is_cut = True
                text = text.removeprefix("\n")
            if "null".startswith(text.removesuffix("\n").lower()):
                self._held = text
                return
        if not self._begun:
            self._begun = True
            self._out('"')
        if self._on_lines and text.endswith("\n"):
            self._held, text = "\n", text[:-1]
        if text:
            self._out(text.translate(QUOTED))

    def end(self) -> None:
        """That was all of it."""
        if self._begun:
            self._out('"')
        elif self._held.removesuffix("\n").lower() == "null":
            self._out("null")
        else:
            self._out(json.dumps(self._held.removesuffix("\n"), ensure_ascii=False))
