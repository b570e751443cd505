"""Anthropic's turns: blocks of text, thinking, tool use and tool results, read and told to the model as messages."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from octavo.errors import InvalidRequest
from octavo.limits import Limits
from octavo.sampling import shown
from octavo.serve.translate import explain

TAKES = "this server takes text, thinking, tool_use and tool_result"


class Text(Struct, tag="text"):
    """Text that somebody said."""

    text: str


class Thinking(Struct, tag="thinking"):
    """What the model thought; the signature is not looked at."""

    thinking: str
    signature: str = ""


class RedactedThinking(Struct, tag="redacted_thinking"):
    """What another server's model thought; nobody here can read it."""

    data: str


class ToolUse(Struct, tag="tool_use"):
    """A call the model wants made."""

    id: str
    name: str
    input: dict[str, object]


class ToolResult(Struct, tag="tool_result"):
    """What a call returned."""

    tool_use_id: str
    content: str | list[Text] = ""
    is_error: bool = False


Block = Text | Thinking | RedactedThinking | ToolUse | ToolResult
HERE: dict[str, tuple[type[Struct], ...]] = {
    "user": (Text, ToolResult),
    "assistant": (Text, Thinking, RedactedThinking, ToolUse),
    "system": (Text,),
}


class Turn(Struct):
    """What one side said."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    def blocks(self) -> list[Block]:
        """Its content as blocks."""
        return [Text(self.content)] if isinstance(self.content, str) else self.content


def read_system(value: object) -> str | None:
    """The `system` parameter as one text."""
    try:
        found = msgspec.convert(value, str | list[Text] | None)
    except msgspec.ValidationError as error:
        raise explain(error, "system", "system takes text") from None
    return "\n\n".join(block.text for block in found) if isinstance(found, list) else found


def read_turns(value: object, limits: Limits) -> list[Turn]:
    """The `messages`; InvalidRequest names the first place that is wrong."""
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"messages must be a list of at least one message, got {shown(value)}", "messages")
    if len(value) > limits.messages:
        raise InvalidRequest(f"messages allows {limits.messages} of them, got {len(value)}", "messages")
    found: list[Turn] = []
    known: set[str] = set()
    for i, one in enumerate(value):
        field = f"messages[{i}]"
        try:
            turn = msgspec.convert(one, Turn)
        except msgspec.ValidationError as error:
            raise explain(error, field, TAKES) from None
        for j, block in enumerate(turn.blocks()):
            check_block(block, turn.role, f"{field}.content[{j}]", known, limits)
        found.append(turn)
    return found


def check_block(block: Block, role: str, field: str, known: set[str], limits: Limits) -> None:
    """InvalidRequest for a block that this role cannot say, or a result of no call in `known`, which grows."""
    if not isinstance(block, HERE[role]):
        kind = type(block).__struct_config__.tag
        raise InvalidRequest(f"{field} is {kind}, which a message of the {role} cannot hold", field)
    if isinstance(block, ToolUse):
        for name, value in (("id", block.id), ("name", block.name)):
            if not 0 < len(value) <= limits.id_chars:
                raise InvalidRequest(f"{field}.{name} must be 1 to {limits.id_chars} characters", f"{field}.{name}")
        known.add(block.id)
    elif isinstance(block, ToolResult) and block.tool_use_id not in known:
        raise InvalidRequest(
            f"{field}.tool_use_id names no tool_use before it: {shown(block.tool_use_id)}", f"{field}.tool_use_id"
        )


def chat_messages(system: str | None, turns: list[Turn]) -> list[dict[str, object]]:
    """The conversation as chat messages: neighbors of one role are one message, and results are messages of tools."""
    found: list[dict[str, object]] = [{"role": "system", "content": system}] if system else []
    names: dict[str, str] = {}
    for turn in turns:
        for block in turn.blocks():
            last = found[-1] if found and found[-1]["role"] == turn.role else None
            if isinstance(block, RedactedThinking):
                continue
            if isinstance(block, ToolResult):
                found.append(result(block, names[block.tool_use_id]))
                continue
            if last is None:
                found.append(last := {"role": turn.role, "content": None})
            if isinstance(block, ToolUse):
                names[block.id] = block.name
                calls = last.setdefault("tool_calls", [])
                assert isinstance(calls, list)
                function = {"name": block.name, "arguments": block.input}
                calls.append({"id": block.id, "type": "function", "function": function})
            elif isinstance(block, Thinking):
                last["reasoning_content"] = f"{last.get('reasoning_content', '')}{block.thinking}"
            else:
                last["content"] = added(last["content"], block.text)
    return found


def result(block: ToolResult, name: str) -> dict[str, object]:
    """A tool's message."""
    texts = [block.content] if isinstance(block.content, str) else [part.text for part in block.content]
    content: object = "The tool failed:" if block.is_error else None  # chat messages have no other place for it
    for text in texts:
        content = added(content, text)
    return {"role": "tool", "tool_call_id": block.tool_use_id, "name": name, "content": content or ""}


def added(content: object, text: str) -> object:
    """A message's content with one more text: parts, as soon as there are two."""
    if content is None:
        return text
    part = {"type": "text", "text": text}
    if isinstance(content, str):
        return [{"type": "text", "text": content}, part]
    assert isinstance(content, list)
    return [*content, part]
