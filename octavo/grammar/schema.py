"""JSON schemas: what of them is enforced, and a reason for each thing that is not. Nothing is ignored silently.

The library enforces what `ENFORCED` lists (and refuses what it finds too hard: overlapping patternProperties, a oneOf
whose branches may overlap). It would ignore words that it does not know, so they are judged here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from octavo.errors import InvalidRequest
from octavo.grammar.formats import FORMATS, OUR_FORMATS
from octavo.structured import FIELD

Schema = dict[str, Any]

ENFORCED = frozenset(
    "$ref type enum const allOf anyOf oneOf properties required additionalProperties patternProperties minProperties "
    "maxProperties items prefixItems additionalItems minItems maxItems minLength maxLength pattern format minimum "
    "maximum exclusiveMinimum exclusiveMaximum multipleOf".split()
)
# Words that say nothing about which values are valid.
ANNOTATIONS = frozenset(
    "$schema $id id $anchor $defs definitions $comment title description default examples example readOnly writeOnly "
    "deprecated contentMediaType contentEncoding contentSchema discriminator externalDocs xml".split()
)
REFUSED = {
    "uniqueItems": "whether items differ cannot be decided token by token; leave it out and check the result",
    "contains": "counting matching items is not possible; constrain items or prefixItems",
    "minContains": "counting matching items is not possible; use minItems",
    "maxContains": "counting matching items is not possible; use maxItems",
    "not": "what must not match is not possible; say what may, with enum, pattern or anyOf",
    "if": "conditions are not possible; write the cases as anyOf",
    "then": "conditions are not possible; write the cases as anyOf",
    "else": "conditions are not possible; write the cases as anyOf",
    "dependentRequired": "dependencies are not possible; write the cases as anyOf",
    "dependentSchemas": "dependencies are not possible; write the cases as anyOf",
    "dependencies": "dependencies are not possible; write the cases as anyOf",
    "propertyNames": "use patternProperties with additionalProperties: false",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": "use items: false behind prefixItems",
    "$dynamicRef": "use $ref",
    "$dynamicAnchor": "use $anchor and $ref",
    "$recursiveRef": "use $ref",
    "$recursiveAnchor": "use $anchor and $ref",
    "$vocabulary": "only the standard vocabularies are known",
    "nullable": 'it is OpenAPI\'s; write "type": [..., "null"]',
    "x-guidance": "options of the grammar library cannot be set in a schema",
}
# What makes an unwanted word harmless.
HARMLESS = {"uniqueItems": False, "nullable": False, "not": False, "minContains": None, "unevaluatedProperties": True,
            "unevaluatedItems": True, "propertyNames": True, "$recursiveAnchor": False}  # fmt: skip

DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
SINCE = {
    "const": 6,
    "contains": 6,
    "propertyNames": 6,
    "$id": 6,
    "if": 7,
    "prefixItems": 2020,
    "$defs": 2019,
    "$anchor": 2019,
}
UNTIL = {"additionalItems": 2019, "id": 4}

ONE = frozenset(("additionalProperties", "additionalItems", "items"))  # hold a schema
MANY = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))  # hold a list of them
NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions"))  # hold them by name
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
MULTIPLE_OF_MAX = 100_000  # as an integer, without its decimal point: building one takes time that grows with it
BRACKETS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
SET_OPERATIONS = re.compile(r"(?<!\\)(?:\[|&&|--|~~)")


def normalize(schema: object, max_depth: int, close_objects: bool = False) -> object:
    """The schema with everything in it enforced by the library; InvalidRequest with the place of what cannot be.

    `close_objects` forbids properties that an object schema does not name, unless it speaks of them itself.
    """
    return Walk(schema, max_depth, close_objects).schema(schema, "#", 1)


def parse(text: str) -> object:
    """JSON text as a schema; InvalidRequest when it is none."""

    def refuse(word: str) -> object:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is not valid JSON: {str(error) or 'nested too deeply'}", FIELD) from None


def shown(value: object) -> str:
    """A value in a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


class Walk:
    """One pass over one schema."""

    def __init__(self, root: object, max_depth: int, close_objects: bool) -> None:
        self.root = root
        self.max_depth = max_depth
        self.close_objects = close_objects
        self.draft = self._draft(root)

    def _draft(self, root: object) -> int:
        name = root.get("$schema") if isinstance(root, dict) else None
        if name is None:
            return 0  # any word is known
        if not isinstance(name, str) or name.rstrip("#") not in DRAFTS:
            raise self.refusal("#", f"$schema {shown(name)} is unknown; known are {', '.join(DRAFTS)}")
        return DRAFTS[name.rstrip("#")]

    def refusal(self, path: str, why: str) -> InvalidRequest:
        """The error for what stands at `path`, a JSON pointer."""
        return InvalidRequest(f"the JSON schema at {path[:200]}: {why}", FIELD)

    def schema(self, schema: object, path: str, depth: int) -> object:
        """A schema at some place of the whole."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise self.refusal(path, f"a schema must be an object, true or false; got {shown(schema)}")
        if depth > self.max_depth:
            raise self.refusal(path, f"it is nested deeper than {self.max_depth} levels")
        out: Schema = {}
        for word, value in schema.items():
            self.check_word(schema, word, value, path)
            if word in REFUSED or (word not in ENFORCED and word not in ANNOTATIONS):
                continue
            if word in ANNOTATIONS and word not in ("$schema", "$id", "id", "$anchor", "$defs", "definitions"):
                continue
            out[word] = self.value(word, value, f"{path}/{escaped(word)}", depth)
        self.check_together(out, path)
        if (
            self.close_objects
            and is_object(out)
            and out.keys().isdisjoint(("additionalProperties", "patternProperties"))
        ):
            out["additionalProperties"] = False
        return self.with_formats(out, path)

    def check_word(self, schema: Schema, word: str, value: object, path: str) -> None:
        """Refuse a word that would not be enforced, unless its value makes it harmless."""
        if word in REFUSED:
            if word in HARMLESS and value == HARMLESS[word] and type(value) is type(HARMLESS[word]):
                return
            raise self.refusal(path, f"{word} is not supported: {REFUSED[word]}")
        if word in ENFORCED or word in ANNOTATIONS:
            if self.draft and not SINCE.get(word, 0) <= self.draft <= UNTIL.get(word, 9999):
                raise self.refusal(path, f"{word} means nothing in the draft that $schema names")
            if word == "$schema" and path != "#":
                raise self.refusal(path, "$schema can only stand at the top")
            return
        if not word.startswith("x-"):
            near = difflib.get_close_matches(word.lower(), [known.lower() for known in (*ENFORCED, *REFUSED)], 1, 0.8)
            if near:
                meant = next(known for known in (*ENFORCED, *REFUSED) if known.lower() == near[0])
                raise self.refusal(path, f"{shown(word)} is no keyword; did you mean {meant}?")

    def value(self, word: str, value: object, path: str, depth: int) -> object:
        """What belongs to a keyword, checked."""
        if word in ONE and not isinstance(value, list):
            return self.schema(value, path, depth + 1)
        if word in MANY or (word == "items" and isinstance(value, list)):
            if not isinstance(value, list) or (not value and word != "items"):
                raise self.refusal(path, f"it must be a list of schemas, got {shown(value)}")
            return [self.schema(one, f"{path}/{i}", depth + 1) for i, one in enumerate(value)]
        if word in NAMED:
            if not isinstance(value, dict):
                raise self.refusal(path, f"it must be an object of schemas, got {shown(value)}")
            return {
                name: self.schema(one, f"{path}/{escaped(name)}", depth + 1) for name, one in self.names(value, path)
            }
        check = CHECKS.get(word)
        return check(self, value, path) if check else value

    def names(self, schemas: Schema, path: str) -> Iterator[tuple[str, object]]:
        """Names and schemas; control characters have two spellings in JSON, of which only one would be seen."""
        for name, schema in schemas.items():
            if any(char < " " for char in name) and not path.endswith("patternProperties"):
                raise self.refusal(path, f"the name {shown(name)} has a control character")
            if path.endswith("patternProperties"):
                self.check_pattern(name, path)
            yield name, schema

    def check_pattern(self, value: object, path: str) -> object:
        """`pattern`: what JavaScript and the library read differently inside brackets is refused."""
        if not isinstance(value, str):
            raise self.refusal(path, f"it must be a regex, got {shown(value)}")
        for found in BRACKETS.finditer(value):
            if found[0].startswith("[") and SET_OPERATIONS.search(found[0][1:]):
                raise self.refusal(path, f"{shown(found[0])} holds [, &&, -- or ~~; put a backslash before them")
        return value

    def check_count(self, value: object, path: str) -> object:
        """`minItems` and its like: 2.0 is an integer, too."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or value < 0:
            raise self.refusal(path, f"it must be an integer of at least 0, got {shown(value)}")
        return value

    def check_multiple(self, value: object, path: str) -> object:
        """`multipleOf`, which must be short."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise self.refusal(path, f"it must be a number above 0, got {shown(value)}")
        digits = format(value, "f").rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        if int(digits.replace(".", "")) > MULTIPLE_OF_MAX or float(digits) != value:
            most = f"at most {MULTIPLE_OF_MAX} without its decimal point"
            raise self.refusal(path, f"{shown(value)} has too many digits; {most}")
        return value

    def check_ref(self, value: object, path: str) -> object:
        """`$ref`, which stays inside the schema."""
        if not isinstance(value, str):
            raise self.refusal(path, f"it must be text, got {shown(value)}")
        return value

    def check_format(self, value: object, path: str) -> object:
        """`format`, of those that are enforced."""
        if not isinstance(value, str):
            raise self.refusal(path, f"it must be text, got {shown(value)}")
        return value

    def check_enum(self, value: object, path: str) -> object:
        """`enum`, which has at least one value."""
        if not isinstance(value, list) or not value:
            raise self.refusal(path, f"it must be a list of at least one value, got {shown(value)}")
        return value

    def check_required(self, value: object, path: str) -> object:
        """`required`, a list of names."""
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.refusal(path, f"it must be a list of names, got {shown(value)}")
        if any(char < " " for name in value for char in name):
            raise self.refusal(path, "a name has a control character")
        return list(dict.fromkeys(value))

    def check_together(self, schema: Schema, path: str) -> None:
        """What depends on several words."""
        least = schema.get("minProperties", 0)
        sure = len(schema.get("required", ()))
        if least > max(1, sure):
            # The grammar counts a name that comes twice as two; a reader of the answer does not.
            raise self.refusal(
                path, f"minProperties={least} is not supported above 1; name {least} properties in required"
            )
        if least <= sure:
            schema.pop("minProperties", None)
        if "$ref" in schema and 0 < self.draft <= 7:
            beside = sorted(schema.keys() & ENFORCED - {"$ref"})
            if beside:
                raise self.refusal(path, f"in this draft {', '.join(beside)} beside $ref is ignored; use allOf")
        if isinstance(schema.get("items"), list) and self.draft >= 2020:
            raise self.refusal(path, "items with a list is prefixItems since draft 2020-12")

    def with_formats(self, schema: Schema, path: str) -> Schema:
        """The schema with formats that the library knows, or that are patterns of ours."""
        name = schema.get("format")
        if name is None:
            return schema
        types = schema.get("type", "string")
        if "string" not in (types if isinstance(types, list) else [types]):
            del schema["format"]  # it speaks of text only
        elif name in OUR_FORMATS:
            del schema["format"]
            schema["allOf"] = [*schema.get("allOf", ()), {"pattern": f"^(?:{OUR_FORMATS[name]})$"}]
        elif name not in FORMATS:
            known = ", ".join(sorted({*FORMATS, *OUR_FORMATS}))
            raise self.refusal(path, f"format {shown(name)} is not enforced; known are {known}; or use pattern")
        return schema


CHECKS: dict[str, Callable[[Walk, object, str], object]] = {
    **dict.fromkeys(COUNTS, Walk.check_count),
    "multipleOf": Walk.check_multiple,
    "pattern": Walk.check_pattern,
    "format": Walk.check_format,
    "enum": Walk.check_enum,
    "required": Walk.check_required,
    "$ref": Walk.check_ref,
}


def is_object(schema: Schema) -> bool:
    """Whether a schema is about objects."""
    types = schema.get("type")
    return "properties" in schema or types == "object" or (isinstance(types, list) and "object" in types)


def escaped(name: str) -> str:
    """A name as part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
