"""What other dialects share: a body becomes a ChatRequest, and what is wrong with that is told in their words."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import msgspec
from pydantic import BaseModel, Field, ValidationError, create_model

from octavo.errors import InvalidRequest
from octavo.serve import schema
from octavo.serve.schema import FIELDS, Body, ChatRequest, Constraint, TextRequest

LONGEST_FINDING = 200  # characters
PLACE = re.compile(r" - at `\$(.*)`$")
# Generation parameters that are no other dialect's: they are spelled differently there, or mean several answers.
CHATS_OWN = frozenset(
    "n best_of max_tokens prompt_logprobs logprob_token_ids truncate_prompt_tokens truncation_side".split()
)
EXTRAS = {name: field for name, field in FIELDS.items() if name not in CHATS_OWN}
PASSED = (*EXTRAS, "priority", "cache_salt", "chat_template_kwargs", "structured_outputs", "vllm_xargs")


class Passed(Body):
    """What every dialect takes besides generation parameters."""

    priority: int | None = Field(None, description="Lower runs earlier under the priority policy.")
    cache_salt: str | None = Field(None, description="Requests share cached prefixes only within one salt.")
    chat_template_kwargs: dict[str, object] | None = Field(None, description="Variables of the chat template.")
    structured_outputs: Constraint = TextRequest.model_fields["structured_outputs"]  # type: ignore[assignment]
    vllm_xargs: dict[str, object] | None = TextRequest.model_fields["vllm_xargs"]  # type: ignore[assignment]


def extras(*without: str) -> type[Passed]:
    """The parameters that a dialect passes on under chat's names, but for those that it spells differently."""
    fields = {name: field for name, field in EXTRAS.items() if name not in without}
    return create_model("Extras", __base__=Passed, **fields)


def passed(body: BaseModel) -> dict[str, object]:
    """What the body says of those."""
    values = {name: getattr(body, name, None) for name in PASSED}
    return {name: value for name, value in values.items() if value is not None}


def chat_request(fields: Mapping[str, object], names: Mapping[str, str]) -> ChatRequest:
    """A ChatRequest of those `fields` that are not None. `names` are what the dialect calls them."""
    named = {name: value for name, value in fields.items() if value is not None}
    for name in named:
        if name not in ChatRequest.model_fields:
            own = names.get(name, name)
            raise InvalidRequest(f"{own} is not supported yet; leave it out", own)
    try:
        return ChatRequest.model_validate(named)
    except ValidationError as error:
        raise schema.explain(error.errors(include_url=False, include_context=False)[0]) from None


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
    what = what if len(what) <= LONGEST_FINDING else f"{what[:LONGEST_FINDING]}..."  # it quotes what came
    if what.startswith("Invalid value"):
        return InvalidRequest(f"{place} is {what.removeprefix('Invalid value ')}; {takes}", place)
    if what.startswith("Object missing required field"):
        name = what.rpartition(" ")[2].strip("`")
        return InvalidRequest(f"{place}.{name} is required", f"{place}.{name}")
    return InvalidRequest(f"{place}: {what[0].lower()}{what[1:].replace('`', '')}", place)
