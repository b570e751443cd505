"""What a body says an answer must match, in each of its spellings: `response_format` and `structured_outputs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

from octavo.errors import InvalidRequest
from octavo.limits import Limits
from octavo.sampling import shown
from octavo.structured import StructuredOutputsParams

OLD = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
SETTABLE = tuple(name for name in StructuredOutputsParams.__struct_fields__ if name != "source")
FORMATS = ("text", "json_object", "json_schema", "structural_tag")
NAME_CHARS = 64


def structured(body: BaseModel, limits: Limits) -> StructuredOutputsParams | None:
    """The checked constraint of a request; InvalidRequest for a wrong one, or for two."""
    format: object = getattr(body, "response_format", None)
    wanted: object = getattr(body, "structured_outputs", None)
    found = [one for one in (from_format(format), from_object(wanted), *from_old(body)) if one is not None]
    if len(found) > 1:
        names = " and ".join(one.source for one in found)
        raise InvalidRequest(f"{names} contradict each other; use one of them", found[1].source)
    if not found:
        return None
    found[0].check(limits)
    return found[0]


def from_format(format: object) -> StructuredOutputsParams | None:
    """OpenAI's `response_format`."""
    source = "response_format"
    if format is None:
        return None
    if not isinstance(format, dict) or format.get("type") not in FORMATS:
        kind = format.get("type") if isinstance(format, dict) else format
        raise InvalidRequest(f"{source}.type must be one of {', '.join(FORMATS)}; got {shown(kind)}", source)
    kind = format["type"]
    if kind == "structural_tag":
        return StructuredOutputsParams(structural_tag=format, source=source)
    only(format, {"text": (), "json_object": ("schema",)}.get(kind, ("json_schema",)), source)
    if kind == "text":
        return None
    if kind == "json_object":
        schema = format.get("schema")  # as llama.cpp has it
        if schema is None:
            return StructuredOutputsParams(json_object=True, source=source)
        return StructuredOutputsParams(json=schema_of(schema, source), source=source)
    wrapped = format.get("json_schema")
    if not isinstance(wrapped, dict):
        raise InvalidRequest(f"{source}.json_schema must be an object with a name and a schema", source)
    only(wrapped, ("name", "description", "schema", "strict"), f"{source}.json_schema")
    name = wrapped.get("name")
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS):
        raise InvalidRequest(
            f"{source}.json_schema.name must be 1 to {NAME_CHARS} characters, got {shown(name)}", source
        )
    if wrapped.get("strict") not in (None, True, False):
        raise InvalidRequest(f"{source}.json_schema.strict must be true or false", source)
    if wrapped.get("schema") is None:
        raise InvalidRequest(f"{source}.json_schema.schema is required", source)
    return StructuredOutputsParams(json=schema_of(wrapped["schema"], source), source=source)


def from_object(value: object) -> StructuredOutputsParams | None:
    """vLLM's `structured_outputs`."""
    source = "structured_outputs"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{source} must be an object, got {shown(value)}", source)
    given: dict[str, Any] = {name: one for name, one in value.items() if one is not None}
    # vLLM's choices among backends; there is one here.
    for name in ("backend", "disable_fallback"):
        given.pop(name, None)
    if "type" in given:
        raise InvalidRequest(f"{source}: unknown field 'type'; response_format has one", source)
    only(given, SETTABLE, source)
    if "json" in given:
        given["json"] = schema_of(given["json"], source)
    return StructuredOutputsParams(**given, source=source)


def from_old(body: BaseModel) -> list[StructuredOutputsParams]:
    """vLLM's spellings from before `structured_outputs`."""
    found: list[StructuredOutputsParams] = []
    white_space: object = getattr(body, "guided_whitespace_pattern", None)
    for old, name in OLD.items():
        value: object = getattr(body, old, None)
        if value is None:
            continue
        options: dict[str, Any] = {name: schema_of(value, old) if name == "json" else value}
        if name == "json" and white_space is not None:
            options["whitespace_pattern"] = white_space
        found.append(StructuredOutputsParams(**options, source=old))
    if white_space is not None and not any(one.source == "guided_json" for one in found):
        source = "guided_whitespace_pattern"
        raise InvalidRequest(f"{source} goes with guided_json", source)
    return found


def schema_of(value: object, source: str) -> str | dict[str, Any]:
    """A schema, as an object or as text; true and false, which are schemas, become text."""
    if isinstance(value, bool):
        return msgspec.json.encode(value).decode()
    if not isinstance(value, str | dict):
        raise InvalidRequest(f"{source}: a schema must be an object, got {shown(value)}", source)
    return value


def only(found: Mapping[str, object], known: tuple[str, ...], source: str) -> None:
    """Refuse what nobody would look at."""
    for name, value in found.items():
        if name not in known and name != "type" and value is not None:
            raise InvalidRequest(f"{source}: unknown field {shown(name)}", source)
