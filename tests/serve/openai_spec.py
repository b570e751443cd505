"""OpenAI's own specification as a judge: a reply or stream event is valid under the schema it names, or it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

HOME = "urn:openai"

# Where OpenAI's servers send null and its document forgets to say so.
ALSO_NULL = {
    "CreateCompletionResponse": (
        "choices/items/properties/finish_reason",  # every event of a stream but the last
        "choices/items/properties/logprobs/anyOf/0/properties/token_logprobs/items",  # an echoed prompt's first token
        "choices/items/properties/logprobs/anyOf/0/properties/top_logprobs/items",
        "usage",  # events under stream_options.include_usage
    ),
}


def read(path: Path) -> dict[str, Any]:
    """The document at `path`; OpenAPI 3.0's `nullable`, which it still uses, spelled as JSON Schema does."""
    document = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    document = {"components": {"schemas": with_null(document["components"]["schemas"])}}
    for name, places in ALSO_NULL.items():
        for place in places:
            *way, last = ["properties", *place.split("/")]
            at: Any = document["components"]["schemas"][name]
            for key in way:
                at = at[int(key)] if isinstance(at, list) else at[key]
            at[last] = {"anyOf": [at[last], {"type": "null"}]}
    return document


def with_null(schema: Any) -> Any:
    """`schema` with `nullable: true` as an alternative type."""
    if isinstance(schema, list):
        return [with_null(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: with_null(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


class OpenAISpec:
    """Validators by schema name, as in `components.schemas`."""

    def __init__(self, path: Path) -> None:
        document = read(path)
        self._schemas: dict[str, Any] = document["components"]["schemas"]
        resource = Resource(contents=document, specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource(HOME, resource)
        self._validators: dict[str, Draft202012Validator] = {}

    def check(self, schema: str, value: object) -> None:
        """AssertionError, with the place and the rule, unless `value` is valid under `schema`."""
        if schema not in self._validators:
            reference = {"$ref": f"{HOME}#/components/schemas/{schema}"}
            self._validators[schema] = Draft202012Validator(reference, registry=self._registry)
        error = best_match(self._validators[schema].iter_errors(value))
        if error is not None:
            raise AssertionError(f"{schema}: {error.json_path}: {error.message[:400]}")

    def properties(self, schema: str) -> set[str]:
        """The names of an object schema's properties, those it inherits among them."""
        found: set[str] = set()
        for part in (schema := self._schemas[schema]).get("allOf", [schema]):
            found |= set(part.get("properties", {}))
            if "$ref" in part:
                found |= self.properties(part["$ref"].rpartition("/")[2])
        return found

    def check_stream(self, schema: str, body: str) -> list[dict[str, Any]]:
        """Check every event of a stream of server-sent events that ends with [DONE]; returns them."""
        found = list(events(body))
        assert body.endswith("data: [DONE]\n\n"), body[-200:]
        for event in found:
            self.check(schema, event)
        return found


def events(body: str) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream's body, [DONE] left out."""
    for block in body.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))
