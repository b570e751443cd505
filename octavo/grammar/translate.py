"""From what a request asks for to a grammar in the library's form: {"grammars": [...]} as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from octavo.grammar import gbnf, lark, lexing, regex, schema
from octavo.grammar.tags import TagWriter
from octavo.limits import DEFAULT, Limits
from octavo.structured import StructuredOutputsParams

WHITESPACE = r"[ \n\r\t]{1,64}"  # between the parts of a JSON text, where a weak model might never stop
ESCAPES = 'nrbtf\\"'  # without \u, so that each name of a property has one spelling


def translate(
    wanted: StructuredOutputsParams, special: Mapping[str, int] | None = None, limits: Limits = DEFAULT
) -> str:
    """The grammar of a checked request; InvalidRequest for what is not possible. `special`: token ids by spelling."""
    depth = limits.grammar_depth

    def judged(value: object) -> object:
        return with_options(schema.normalize(value, depth, wanted.disable_additional_properties), wanted, depth)

    kind = wanted.kind
    if kind == "json":
        value = schema.parse(wanted.json) if isinstance(wanted.json, str) else wanted.json
        return whole(json_schema=judged(value))
    if kind == "json_object":
        return whole(json_schema=judged({"type": "object"}))
    if kind == "regex":
        assert wanted.regex is not None
        return whole(lark_grammar=f"start: {slashed(regex.translate(wanted.regex, depth))}\n")
    if kind == "choice":
        return whole(lark_grammar="start: " + " | ".join(json.dumps(text) for text in wanted.choice or ()) + "\n")
    if kind == "grammar":
        assert wanted.grammar is not None
        return whole(lark_grammar=from_grammar(wanted.grammar, depth, judged))
    tag = schema.parse(wanted.structural_tag) if isinstance(wanted.structural_tag, str) else wanted.structural_tag
    writer = TagWriter(special or {}, judged, lambda text: slashed(regex.translate(text, depth)), depth)
    return whole(lark_grammar=writer.write(tag))


def whole(**grammar: object) -> str:
    """The library's form."""
    return json.dumps({"grammars": [grammar]}, ensure_ascii=False)


def slashed(pattern: str) -> str:
    """A translated regex, which holds no slash and no line end, as Lark writes it."""
    return f"/{pattern}/" if pattern else '""'


def from_grammar(text: str, depth: int, judged: Any) -> str:
    """A grammar as Lark. One with `::=` outside comments is GBNF."""
    if re.search(r"^[^#\n]*::=", text, re.MULTILINE):
        return lexing.to_lark(gbnf.parse(text, depth))
    return lark.check(text, depth, judged)


def with_options(value: object, wanted: StructuredOutputsParams, depth: int) -> object:
    """A schema with the library's options for white space."""
    options: dict[str, object] = {"json_allowed_escapes": ESCAPES}
    if wanted.disable_any_whitespace:
        options["whitespace_flexible"] = False
    else:
        pattern = wanted.whitespace_pattern
        options["whitespace_pattern"] = regex.translate(pattern, depth) if pattern else WHITESPACE
    if value is True:
        value = {}
    return {**value, "x-guidance": options} if isinstance(value, dict) else value
