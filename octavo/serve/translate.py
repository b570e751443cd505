"""What other dialects share: a body becomes a ChatRequest, and what is wrong with that is told in their words."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import msgspec

from octavo.errors import InvalidRequest
from octavo.serve.schema import ChatRequest

PLACE = re.compile(r" - at `\$(.*)`$")


def chat_request(fields: Mapping[str, object], names: Mapping[str, str]) -> ChatRequest:
    """A ChatRequest of those `fields` that are not None. `names` are what the dialect calls them."""
    named = {name: value for name, value in fields.items() if value is not None}
    for name in named:
        if name not in ChatRequest.model_fields:
            own = names.get(name, name)
            raise InvalidRequest(f"{own} is not supported yet; leave it out", own)
    return ChatRequest.model_validate(named)


@contextmanager
def told_as(names: Mapping[str, str]) -> Generator[None]:
    """What is wrong with a field of the ChatRequest is said of the dialect's field that it came from."""
    try:
        yield
    except InvalidRequest as error:
        root = re.split(r"[.\[]", error.field or "", maxsplit=1)[0]
        if root not in names:
            raise
        name = names[root]
        message = re.sub(rf"\b{re.escape(root)}\b(\[\d+\])*", name, error.message)
        raise InvalidRequest(message, name) from error


def explain(error: msgspec.ValidationError, field: str, takes: str) -> InvalidRequest:
    """A msgspec finding about `field` as our error. `takes`: which types there are."""
    text = str(error)
    at = PLACE.search(text)
    place = field + (at[1] if at else "")
    what = text[: at.start()] if at else text
    if what.startswith("Invalid value"):
        return InvalidRequest(f"{place} is {what.removeprefix('Invalid value ')}; {takes}", place)
    if what.startswith("Object missing required field"):
        name = what.rpartition(" ")[2].strip("`")
        return InvalidRequest(f"{place}.{name} is required", f"{place}.{name}")
    return InvalidRequest(f"{place}: {what[0].lower()}{what[1:].replace('`', '')}", place)
