"""The items of a response's input and output: read from a request, given ids, and told to the model as messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct
from pydantic_core import from_json

from octavo.errors import InvalidRequest
from octavo.limits import Limits
from octavo.sampling import shown
from octavo.serve.service import new_id
from octavo.serve.sse import encode
from octavo.serve.translate import explain

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, tag="input_text"):
    """Text that was said to the model."""

    text: str


class OutputText(Struct, tag="output_text"):
    """Text that a model said; `logprobs`, each an object as JSON, when they were asked for."""

    text: str
    annotations: list[object] = []
    logprobs: list[msgspec.Raw] = []


class Refusal(Struct, tag="refusal"):
    """A model's refusal, which only other servers' answers hold."""

    refusal: str


class ReasoningText(Struct, tag="reasoning_text"):
    """What a model thought."""

    text: str


class SummaryText(Struct, tag="summary_text"):
    """A summary of it, which only other servers' answers hold."""

    text: str


class Message(Struct, tag="message"):
    """What somebody said; content is a list of parts once it was read."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | OutputText | Refusal]
    id: str | None = None
    status: Status | None = "completed"


class FunctionCall(Struct, tag="function_call"):
    """A call the model wants made; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = "completed"


class FunctionCallOutput(Struct, tag="function_call_output"):
    """What a call returned."""

    call_id: str
    output: str | list[InputText]
    id: str | None = None
    status: Status | None = "completed"


class Reasoning(Struct, tag="reasoning"):
    """What the model thought before it spoke or called."""

    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    id: str | None = None
    status: Status | None = "completed"
    encrypted_content: str | None = None


class ItemReference(Struct, tag="item_reference"):
    """An item that is stored already."""

    id: str


Item = Message | FunctionCall | FunctionCallOutput | Reasoning
PREFIXES: dict[type[Item], str] = {
    Message: "msg_",
    FunctionCall: "fc_",
    FunctionCallOutput: "fco_",
    Reasoning: "rs_",
}


def read(value: object, limits: Limits) -> list[Item | ItemReference]:
    """The items of a request's `input`, each with an id; InvalidRequest names the first that is not one."""
    if isinstance(value, str):
        return [identified(Message("user", [InputText(value)]), limits, "input")]
    if not isinstance(value, list):
        raise InvalidRequest(f"input must be text or a list of items, got {shown(value)}", "input")
    if len(value) > limits.messages:
        raise InvalidRequest(f"input allows {limits.messages} items, got {len(value)}", "input")
    return [read_item(item, limits, f"input[{i}]") for i, item in enumerate(value)]


def read_item(value: object, limits: Limits, field: str) -> Item | ItemReference:
    """One item of a request."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field} must be an object with a type, got {shown(value)}", field)
    if value.get("type") is None:
        value = {**value, "type": "message" if "role" in value or "id" not in value else "item_reference"}
    if isinstance(value.get("content"), list):
        value = value | {"content": [bare(part) for part in value["content"]]}
    try:
        item = msgspec.convert(value, Item | ItemReference)
    except msgspec.ValidationError as error:
        what = "this server takes text, function calls and their outputs, and reasoning"
        raise explain(error, field, what) from None
    if isinstance(item, ItemReference):
        return item
    if isinstance(item, Message):
        item.content = parts(item)
    return identified(item, limits, field)


def bare(part: object) -> object:
    """A part of a message without what tells of its tokens and sources, which no model is shown."""
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if name not in ("logprobs", "annotations")}


def parts(message: Message) -> list[InputText | OutputText | Refusal]:
    """The content of a message as the parts that its role has, which is how it is listed."""
    said = message.role == "assistant"
    if isinstance(message.content, str):
        return [OutputText(message.content) if said else InputText(message.content)]
    return [
        part if isinstance(part, Refusal) else OutputText(part.text) if said else InputText(part.text)
        for part in message.content
    ]


def identified(item: Item, limits: Limits, field: str) -> Item:
    """The item with an id, a new one if it brings none; InvalidRequest for one that is too long."""
    names = (("id", item.id), ("call_id", getattr(item, "call_id", None)), ("name", getattr(item, "name", None)))
    for name, value in names:
        if value is not None and not 0 < len(value) <= limits.id_chars:
            raise InvalidRequest(
                f"{field}.{name} must be 1 to {limits.id_chars} characters, got {shown(value)}", f"{field}.{name}"
            )
    item.id = item.id or new_id(PREFIXES[type(item)])
    item.status = item.status or "completed"
    return item


def messages(instructions: str | None, items: Iterable[Item]) -> list[dict[str, object]]:
    """The items as chat messages, with `instructions` as the first system message."""
    found: list[dict[str, object]] = [{"role": "system", "content": instructions}] if instructions else []
    thought = ""  # belongs to the assistant's next message
    names: dict[str, str] = {}  # function by call id
    for item in items:
        if isinstance(item, Reasoning):
            thought = "".join(part.text for part in item.content or item.summary)
            continue
        if isinstance(item, FunctionCall):
            names[item.call_id] = item.name
            last = found[-1] if found and found[-1]["role"] == "assistant" and not thought else None
            if last is None:
                found.append(last := assistant(None, thought))
            calls = last.setdefault("tool_calls", [])
            assert isinstance(calls, list)
            calls.append(call(item))
        elif isinstance(item, FunctionCallOutput):
            if item.call_id not in names:
                raise InvalidRequest(f"no function_call in input has the call_id {shown(item.call_id)}", "input")
            content = text(item.output)
            named = {"tool_call_id": item.call_id, "name": names[item.call_id]}
            found.append({"role": "tool", "content": content, **named})
        elif item.role == "assistant":
            found.append(assistant(text(item.content), thought))
        else:
            found.append({"role": "user" if item.role == "user" else "system", "content": text(item.content)})
        thought = ""
    return joined(found)


def assistant(content: str | list[dict[str, str]] | None, thought: str) -> dict[str, object]:
    """A message of the assistant."""
    message: dict[str, object] = {"role": "assistant", "content": content}
    return message | {"reasoning_content": thought} if thought else message


def call(item: FunctionCall) -> dict[str, object]:
    """A tool call as chat messages carry it."""
    arguments = item.arguments or "{}"
    try:
        from_json(arguments)
    except ValueError:
        # A model can write what is not JSON, and is told so by the call's output: as a string it can be shown again.
        arguments = encode(item.arguments).decode()
    return {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": arguments}}


def text(content: str | Sequence[InputText | OutputText | Refusal]) -> str | list[dict[str, str]]:
    """Content as chat messages carry it: plain text if it is one."""
    if isinstance(content, str):
        return content
    said = [part.refusal if isinstance(part, Refusal) else part.text for part in content]
    return said[0] if len(said) == 1 else [{"type": "text", "text": one} for one in said]


def joined(found: list[dict[str, object]]) -> list[dict[str, object]]:
    """The messages with the system messages they begin with made one: many templates look at the first alone."""
    count = next((i for i, message in enumerate(found) if message["role"] != "system"), len(found))
    if count < 2:
        return found
    texts = [flat(message["content"]) for message in found[:count]]
    return [{"role": "system", "content": "\n\n".join(texts)}, *found[count:]]


def flat(content: object) -> str:
    """A message's content as one text."""
    if isinstance(content, str):
        return content
    assert isinstance(content, list)
    return "\n".join(part["text"] for part in content)


def find(stored: Mapping[str, Item], wanted: Iterable[Item | ItemReference]) -> list[Item]:
    """The items with references replaced by what is stored under their ids; InvalidRequest for one that is not."""
    found: list[Item] = []
    for i, item in enumerate(wanted):
        if isinstance(item, ItemReference):
            if item.id not in stored:
                raise InvalidRequest(f"input[{i}] names an item that is not stored: {shown(item.id)}", f"input[{i}].id")
            item = stored[item.id]
        found.append(item)
    return found
