"""Structural tags: free text in which marked parts must match. In the shapes of vLLM and of OpenAI (and XGrammar).

{"structures": [{"begin": "<f>", "schema": {…}, "end": "</f>"}], "triggers": ["<f"]}
{"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": […], "tags": […]}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from octavo.errors import InvalidRequest
from octavo.grammar.schema import shown
from octavo.structured import FIELD

ANYTHING = "TEXT: /(?s:.)*/"
FORMATS = ("const_string", "json_schema", "any_text", "sequence", "or", "tag", "triggered_tags", "tags_with_separator",
           "regex", "grammar")  # fmt: skip

Format = Mapping[str, Any]


class TagWriter:
    """Writes one structural tag as Lark.

    `special` are the ids of special tokens by spelling, which text does not match. `schema`, `regex` and `grammar` turn
    what they are given into an expression, the last with the rules it needs.
    """

    def __init__(
        self,
        special: Mapping[str, int],
        schema: Callable[[object], object],
        regex: Callable[[str], str],
        max_depth: int,
    ) -> None:
        self.special = special
        self.schema = schema
        self.regex = regex
        self.max_depth = max_depth
        self.lines = [ANYTHING]
        spelled = sorted(special, key=len, reverse=True)
        self.tokens = re.compile("|".join(map(re.escape, spelled))) if spelled else None

    def write(self, tag: object) -> str:
        """The whole grammar."""
        if not isinstance(tag, dict):
            raise refusal("", f"it must be an object, got {shown(tag)}")
        if "structures" in tag or "triggers" in tag:
            body = self.structures(tag)
        elif "format" in tag:
            only(tag, ("type", "format"), "")
            body = self.format(tag["format"], "format", 1, is_last=True)
        else:
            raise refusal("", "it must have structures and triggers, or a format")
        return "\n".join([f"start: {body}", *self.lines]) + "\n"

    def structures(self, tag: Format) -> str:
        """vLLM's shape."""
        only(tag, ("type", "structures", "triggers"), "")
        structures = listed(tag.get("structures"), "structures")
        tags = []
        for i, one in enumerate(structures):
            place = f"structures[{i}]"
            if not isinstance(one, dict):
                raise refusal(place, f"it must be an object, got {shown(one)}")
            only(one, ("begin", "schema", "end"), place)
            content = {"type": "json_schema", "json_schema": one.get("schema", True)}
            tags.append({"type": "tag", "begin": one.get("begin"), "content": content, "end": one.get("end", "")})
        return self.triggered(
            {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}, "structures", 1
        )

    def format(self, format: object, place: str, depth: int, is_last: bool = False) -> str:
        """One format as an expression. `is_last`: nothing follows it."""
        if not isinstance(format, dict) or format.get("type") not in FORMATS:
            kind = format.get("type") if isinstance(format, dict) else format
            raise refusal(place, f"type must be one of {', '.join(FORMATS)}; got {shown(kind)}")
        if depth > self.max_depth:
            raise refusal(place, f"it is nested deeper than {self.max_depth} levels")
        kind = format["type"]
        if kind == "const_string":
            only(format, ("type", "value"), place)
            return self.text(worded(format.get("value"), f"{place}.value"))
        if kind == "json_schema":
            only(format, ("type", "json_schema"), place)
            return self.rule(f"%json {json.dumps(self.schema(format.get('json_schema')))}")
        if kind == "regex":
            only(format, ("type", "pattern"), place)
            return self.rule(self.regex(worded(format.get("pattern"), f"{place}.pattern")))
        if kind == "grammar":
            raise refusal(place, "a grammar inside a structural tag is not supported; use regex or json_schema")
        if kind == "any_text":
            only(format, ("type",), place)
            if not is_last:
                raise refusal(place, "any_text can only be the content of a tag or come last")
            return "TEXT"
        if kind == "sequence":
            only(format, ("type", "elements"), place)
            elements = listed(format.get("elements"), f"{place}.elements")
            last = len(elements) - 1
            parts = [
                self.format(e, f"{place}.elements[{i}]", depth + 1, is_last and i == last)
                for i, e in enumerate(elements)
            ]
            return f"({' '.join(parts)})"
        if kind == "or":
            only(format, ("type", "elements"), place)
            elements = listed(format.get("elements"), f"{place}.elements")
            parts = [self.format(e, f"{place}.elements[{i}]", depth + 1, is_last) for i, e in enumerate(elements)]
            return f"({' | '.join(parts)})"
        if kind == "tag":
            return self.tag(format, place, depth, "")
        if kind == "triggered_tags":
            if not is_last:
                raise refusal(place, "triggered_tags can only come last")
            return self.triggered(format, place, depth)
        return self.separated(format, place, depth)

    def tag(self, tag: Format, place: str, depth: int, begun: str) -> str:
        """One tag, of whose beginning `begun` has come already."""
        only(tag, ("type", "begin", "content", "end"), place)
        begin = worded(tag.get("begin"), f"{place}.begin")[len(begun) :]
        ends = tag.get("end", "")
        ends = [worded(end, f"{place}.end", may_be_empty=True) for end in (ends if isinstance(ends, list) else [ends])]
        content = tag.get("content")
        if isinstance(content, dict) and content.get("type") == "any_text":
            if not all(ends):
                raise refusal(place, "a tag around any_text needs an end")
            body = " | ".join(self.until(end) for end in ends)
            return f"({self.text(begin)} ({body}))"
        inner = self.format(content, f"{place}.content", depth + 1)
        return f"({self.text(begin)} {inner} ({' | '.join(self.text(end) for end in ends)}))"

    def triggered(self, format: Format, place: str, depth: int) -> str:
        """Free text, and a tag wherever a trigger comes."""
        only(format, ("type", "triggers", "tags", "at_least_one", "stop_after_first"), place)
        triggers = [worded(one, f"{place}.triggers") for one in listed(format.get("triggers"), f"{place}.triggers")]
        tags = listed(format.get("tags"), f"{place}.tags")
        bodies: dict[str, list[str]] = {trigger: [] for trigger in triggers}
        for i, tag in enumerate(tags):
            where = f"{place}.tags[{i}]"
            begin = worded(tag.get("begin") if isinstance(tag, dict) else None, f"{where}.begin")
            trigger = next((one for one in triggers if begin.startswith(one)), None)
            if trigger is None:
                raise refusal(where, f"begin {shown(begin)} starts with none of the triggers")
            bodies[trigger].append(self.tag(tag, where, depth + 1, trigger))
        unused = [trigger for trigger, found in bodies.items() if not found]
        if unused:
            raise refusal(place, f"no tag begins with the trigger {shown(unused[0])}")
        each = " | ".join(f"{self.until(trigger)} ({' | '.join(found)})" for trigger, found in bodies.items())
        any_tag = self.rule(each)
        if flag(format, "stop_after_first", place):
            return any_tag if flag(format, "at_least_one", place) else f"({any_tag} | TEXT)"
        return f"{any_tag}{'+' if flag(format, 'at_least_one', place) else '*'} TEXT"

    def separated(self, format: Format, place: str, depth: int) -> str:
        """Tags with a separator between them."""
        only(format, ("type", "tags", "separator", "at_least_one", "stop_after_first"), place)
        tags = listed(format.get("tags"), f"{place}.tags")
        parts = [self.format({"type": "tag", **tag} if isinstance(tag, dict) else tag, f"{place}.tags[{i}]", depth + 1)
                 for i, tag in enumerate(tags)]  # fmt: skip
        one = self.rule(" | ".join(parts))
        separator = self.text(worded(format.get("separator"), f"{place}.separator", may_be_empty=True))
        many = one if flag(format, "stop_after_first", place) else f"{one} ({separator} {one})*"
        return f"({many})" if flag(format, "at_least_one", place) else f"({many})?"

    def rule(self, body: str) -> str:
        """A rule of its own."""
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name}: {body}")
        return name

    def until(self, mark: str) -> str:
        """Any text up to and with `mark`."""
        parts = self.parts(mark)
        if isinstance(parts[0], int):
            return f"TEXT {self.text(mark)}"
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name}[lazy]: TEXT {json.dumps(parts[0])}")
        return " ".join([name, *(spelled(part) for part in parts[1:])])

    def text(self, text: str) -> str:
        """A literal, in which special tokens are tokens."""
        return " ".join(spelled(part) for part in self.parts(text)) if text else '""'

    def parts(self, text: str) -> list[str | int]:
        """A text cut at special tokens, which are given as ids."""
        out: list[str | int] = []
        at = 0
        for found in self.tokens.finditer(text) if self.tokens else ():
            out += [text[at : found.start()]] if found.start() > at else []
            out.append(self.special[found[0]])
            at = found.end()
        return [*out, text[at:]] if at < len(text) else out


def spelled(part: str | int) -> str:
    """A piece of text or a special token in Lark."""
    return f"<[{part}]>" if isinstance(part, int) else json.dumps(part)


def refusal(place: str, why: str) -> InvalidRequest:
    """The error for what stands at `place`."""
    return InvalidRequest(f"structural_tag{f' at {place}' if place else ''}: {why}", FIELD)


def only(found: Format, known: tuple[str, ...], place: str) -> None:
    """Refuse what nobody would look at."""
    for name in found:
        if name not in known:
            raise refusal(place, f"{shown(name)} is unknown; known are {', '.join(known)}")


def listed(value: object, place: str) -> list[Any]:
    """A list of at least one thing."""
    if not isinstance(value, list) or not value:
        raise refusal(place, f"it must be a list of at least one, got {shown(value)}")
    return value


def worded(value: object, place: str, may_be_empty: bool = False) -> str:
    """Text."""
    if not isinstance(value, str) or not (value or may_be_empty):
        raise refusal(place, f"it must be text, got {shown(value)}")
    return value


def flag(format: Format, name: str, place: str) -> bool:
    """A switch, off when it is left out."""
    value = format.get(name, False)
    if not isinstance(value, bool):
        raise refusal(f"{place}.{name}", f"it must be true or false, got {shown(value)}")
    return value
