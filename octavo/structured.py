"""StructuredOutputsParams: what an answer must match, as a request asks for it. `grammar/` makes it a grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from octavo.errors import InvalidRequest
from octavo.limits import DEFAULT, Limits

FIELD = "structured_outputs"
KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


class StructuredOutputsParams(msgspec.Struct, omit_defaults=True):
    """What the output must match: exactly one of the first six. Names and meanings are vLLM's.

    `json` is a JSON schema, as an object or as text; `grammar` is GBNF (EBNF) or Lark; `structural_tag` is vLLM's
    `{"structures", "triggers"}` or `{"type": "structural_tag", "format": …}`, as an object or as text.

    `begin_after`: the constraint holds from the token behind the first of these texts in the output, in which
    special tokens count by their spelling (the end of reasoning, `["</think>"]`); until then anything may come but
    the end. `opening`: the constraint holds at once unless the output begins with this text (`"<think>"`), and then
    from behind one of `begin_after`. `source` is the request's own name for all this, which errors carry.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    begin_after: list[str] | None = None
    opening: str | None = None
    source: str = FIELD

    @property
    def kind(self) -> str:
        """Which of `KINDS` is set; call `check` first."""
        return next(name for name in KINDS if is_set(getattr(self, name)))

    def check(self, limits: Limits = DEFAULT) -> None:
        """Raise InvalidRequest unless exactly one constraint of the right type and size is set."""
        field = self.source
        named = [name for name in KINDS if is_set(getattr(self, name))]
        if len(named) != 1:
            got = " and ".join(named) or "none"
            raise InvalidRequest(f"{field} must have exactly one of {', '.join(KINDS)}; it has {got}", field)
        self._check_types(field)
        check_size(getattr(self, named[0]), named[0], limits, field)
        self._check_options(named[0], limits, field)
        self._check_beginning(limits, field)

    def _check_types(self, field: str) -> None:
        text = (self.regex, self.grammar, self.whitespace_pattern, self.opening)
        objects = (self.json, self.structural_tag)
        flags = (self.disable_any_whitespace, self.disable_additional_properties)
        expect(text, (str,), "text", field)
        expect(objects, (str, dict), "an object or text", field)
        expect(flags, (bool,), "true or false", field)
        if self.json_object not in (None, True, False):
            raise InvalidRequest(f"{field}.json_object must be true or false", field)
        for name in ("choice", "begin_after"):
            value = getattr(self, name)
            if value is None:
                continue
            if (
                not isinstance(value, (list, tuple))
                or not value
                or not all(isinstance(text, str) and text for text in value)
            ):
                raise InvalidRequest(f"{field}.{name} must be a list of at least one non-empty text", field)

    def _check_options(self, kind: str, limits: Limits, field: str) -> None:
        if self.whitespace_pattern is not None:
            if len(self.whitespace_pattern) > limits.whitespace_pattern_chars:
                most = limits.whitespace_pattern_chars
                raise InvalidRequest(f"{field}.whitespace_pattern allows {most} characters", field)
            if self.disable_any_whitespace:
                raise InvalidRequest(
                    f"{field}: whitespace_pattern and disable_any_whitespace contradict each other", field
                )
        for name in ("whitespace_pattern", "disable_any_whitespace", "disable_additional_properties"):
            if getattr(self, name) and kind not in ("json", "json_object", "structural_tag"):
                raise InvalidRequest(f"{field}.{name} goes with json, json_object or structural_tag, not {kind}", field)

    def _check_beginning(self, limits: Limits, field: str) -> None:
        marks = self.begin_after or []
        if len(marks) > limits.begin_marks or any(
            len(text) > limits.stop_chars for text in (*marks, self.opening or "")
        ):
            raise InvalidRequest(
                f"{field}.begin_after allows {limits.begin_marks} texts of {limits.stop_chars} characters each", field
            )
        if self.opening is not None and not (self.opening and marks):
            raise InvalidRequest(f"{field}.opening must not be empty and needs begin_after", field)


def expect(values: tuple[object, ...], types: tuple[type, ...], words: str, field: str) -> None:
    """Raise InvalidRequest for a value that is neither None nor of one of `types`."""
    for value in values:
        if value is not None and not isinstance(value, types):
            raise InvalidRequest(f"{field}: expected {words}, got {type(value).__name__}", field)


def is_set(value: object) -> bool:
    """Whether a field asks for something: json_object=False does not."""
    return value is not None and value is not False


def check_size(value: object, kind: str, limits: Limits, field: str) -> None:
    """Raise InvalidRequest when a constraint is empty, too long (in UTF-8 bytes of its JSON) or nested too deeply."""
    if isinstance(value, str) and not value.strip() and kind != "regex":
        raise InvalidRequest(f"{field}.{kind} is empty", field)
    if kind == "choice" and len(cast(list[str], value)) > limits.choices:
        raise InvalidRequest(f"{field}.choice allows {limits.choices} texts, got {len(cast(list[str], value))}", field)
    if isinstance(value, dict):
        check_shape(cast(object, value), kind, limits, field)
    size = num_bytes(value, field)
    if size > limits.grammar_bytes:
        raise InvalidRequest(f"{field}.{kind} has {size} bytes; at most {limits.grammar_bytes}", field)


def num_bytes(value: object, field: str) -> int:
    """The length of a constraint as UTF-8; InvalidRequest for what JSON or UTF-8 cannot spell."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
        return len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field} holds what JSON cannot spell ({type(error).__name__})", field) from None


def check_shape(value: object, kind: str, limits: Limits, field: str) -> None:
    """Raise InvalidRequest for too many levels, or more values than bytes are allowed: Python can share their parts."""
    level, depth, count = [value], 0, 0
    while level:
        depth += 1
        if depth > limits.grammar_depth:
            raise InvalidRequest(f"{field}.{kind} is nested deeper than {limits.grammar_depth} levels", field)
        inner: list[object] = []
        for outer in level:
            for item in children(outer):
                count += 1
                if isinstance(item, (dict, list, tuple)):
                    inner.append(cast(object, item))
            if count > limits.grammar_bytes:
                raise InvalidRequest(f"{field}.{kind} has over {limits.grammar_bytes} values", field)
        level = inner


def children(value: object) -> Iterator[object]:
    """The items of a container."""
    if isinstance(value, dict):
        yield from cast(dict[str, object], value).values()
    elif isinstance(value, (list, tuple)):
        yield from cast(list[object], value)
