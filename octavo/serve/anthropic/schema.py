"""Bodies of the Messages API, and how they become a ChatRequest."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from octavo.errors import InvalidRequest
from octavo.limits import Limits
from octavo.sampling import RULES, shown
from octavo.serve.anthropic.turns import Turn, chat_messages, read_system, read_turns
from octavo.serve.schema import Body, ChatRequest, Objects
from octavo.serve.translate import chat_request, extras, passed, told_as

NAMES = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "thinking_token_budget": "thinking.budget_tokens",
}  # what this API calls the fields of a ChatRequest
ELSEWHERE = {
    "container": "there are no containers here",
    "mcp_servers": "the caller runs all tools",
    "context_management": "nothing edits a conversation here",
}  # fields of Anthropic's that mean a service which is not here
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
TOOL_FIELDS = (
    ("name", str, "text", True),
    ("input_schema", dict, "an object", True),
    ("description", str, "text", False),
    ("strict", bool, "true or false", False),
)

Turns = Annotated[
    object,
    WithJsonSchema({"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role", "content"]}}),
]
Texts = Annotated[object, WithJsonSchema({"type": "array", "items": {"type": "string"}})]
TextOrBlocks = Annotated[
    object, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]})
]
Config = Annotated[object, WithJsonSchema({"type": "object"})]
Count = Annotated[object, WithJsonSchema({"type": "integer", "minimum": 1})]


class OutputConfig(Body):
    """What shape the answer has, and how much effort goes into it."""

    format: dict[str, object] | None = Field(None, description="json_schema with its schema.")
    effort: str | None = Field(None, description="How hard to think, for models whose template knows the word.")


class CountTokensRequest(extras("stop")):  # type: ignore[misc]
    """POST /v1/messages/count_tokens."""

    model: str | None = Field(None, description="Name of a served model.")
    messages: Turns = Field(description="The conversation so far; a last message of the assistant is continued.")
    system: TextOrBlocks = Field(None, description="System prompt.")
    tools: Objects = Field(None, description="Tools that the model may use.")
    tool_choice: Config = Field(None, description="auto, any, tool or none.")
    thinking: Config = Field(None, description="enabled with budget_tokens, adaptive, or disabled.")
    output_config: OutputConfig | None = Field(None, description="Shape of the answer, and effort.")
    cache_control: Config = Field(None, description="Accepted; equal beginnings are always found.")
    speed: str | None = Field(None, description="Accepted; there is one speed.")
    user_profile_id: str | None = Field(None, description="Accepted; changes nothing.")
    workspace_id: str | None = Field(None, description="Accepted; changes nothing.")
    container: object = Field(None, description="Refused: there are no containers.")
    mcp_servers: object = Field(None, description="Refused: the caller runs all tools.")
    context_management: object = Field(None, description="Refused: nothing edits a conversation.")


class MessagesRequest(CountTokensRequest):
    """POST /v1/messages."""

    max_tokens: Count = Field(description=RULES["max_tokens"].doc)
    stop_sequences: Texts = Field(None, description="Texts that end the answer; they are not part of it.")
    stream: bool | None = Field(None, description="Send the answer as events while it grows.")
    metadata: dict[str, object] | None = Field(None, description="Accepted; changes nothing.")
    service_tier: str | None = Field(None, description="Accepted; there is one tier.")
    inference_geo: str | None = Field(None, description="Accepted; the model runs here.")
    diagnostics: Config = Field(None, description="Accepted; changes nothing.")


def chat_of(body: CountTokensRequest, limits: Limits) -> ChatRequest:
    """The chat that the body asks for; InvalidRequest names the field that is wrong."""
    for name, why in ELSEWHERE.items():
        if getattr(body, name):
            raise InvalidRequest(f"{name} is not supported: {why}", name)
    turns = read_turns(body.messages, limits)
    fields = passed(body) | {"model": body.model, "messages": chat_messages(read_system(body.system), turns)}
    fields |= tool_fields(body.tools, body.tool_choice) | thinking_fields(body)
    if body.output_config is not None:
        fields["response_format"] = response_format(body.output_config.format)
        fields.setdefault("reasoning_effort", body.output_config.effort)
    if isinstance(body, MessagesRequest):
        RULES["max_tokens"].check("max_tokens", body.max_tokens)
        fields |= {"max_tokens": body.max_tokens, "stop": body.stop_sequences, "stream": body.stream}
    if is_begun(turns):
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return chat_request(fields, NAMES)


def is_begun(turns: list[Turn]) -> bool:
    """Whether the last message is the beginning of the answer."""
    last = turns[-1]
    return last.role == "assistant" and all(block.__struct_config__.tag == "text" for block in last.blocks())


def tool_fields(tools: object, choice: object) -> dict[str, object]:
    """Chat's tools, tool_choice and parallel_tool_calls."""
    fields: dict[str, object] = {"tools": functions(tools) or None}
    if choice is None:
        return fields
    kind = choice.get("type") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(kind, str) or kind not in (*CHOICES, "tool"):
        raise InvalidRequest(
            f"tool_choice must have the type auto, any, tool or none, got {shown(choice)}", "tool_choice"
        )
    alone = choice.get("disable_parallel_tool_use")
    if not isinstance(alone, bool | None):
        field = "tool_choice.disable_parallel_tool_use"
        raise InvalidRequest(f"{field} must be true or false, got {shown(alone)}", field)
    named = {"type": "function", "function": {"name": choice.get("name")}}
    fields["tool_choice"] = CHOICES.get(kind, named)
    return fields | ({"parallel_tool_calls": False} if alone else {})


def functions(tools: object) -> list[dict[str, Any]]:
    """The tools as chat's functions."""
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise InvalidRequest(f"tools must be a list, got {shown(tools)}", "tools")
    found: list[dict[str, Any]] = []
    for i, tool in enumerate(tools):
        field = f"tools[{i}]"
        if not isinstance(tool, dict):
            raise InvalidRequest(f"{field} must be an object with a name, got {shown(tool)}", field)
        if tool.get("type") not in (None, "custom"):
            kind = shown(tool["type"])
            raise InvalidRequest(f"{field} has type {kind}; this server has custom tools only", f"{field}.type")
        for name, kind, word, is_needed in TOOL_FIELDS:
            value = tool.get(name)
            if not isinstance(value, kind) and (is_needed or value is not None):
                raise InvalidRequest(f"{field}.{name} must be {word}, got {shown(value)}", f"{field}.{name}")
        function = {"name": tool["name"], "parameters": tool["input_schema"]}
        function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
        found.append({"type": "function", "function": function})
    return found


def thinking_fields(body: CountTokensRequest) -> dict[str, object]:
    """What `thinking` means for the template and for the sampler."""
    thinking = body.thinking
    if thinking is None:
        return {}
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if not isinstance(thinking, dict) or kind not in ("enabled", "disabled", "adaptive"):
        raise InvalidRequest(
            f"thinking must have the type enabled, adaptive or disabled, got {shown(thinking)}", "thinking"
        )
    if thinking.get("display") not in (None, "summarized", "omitted"):
        raise InvalidRequest(
            f"thinking.display must be summarized or omitted, got {shown(thinking['display'])}", "thinking.display"
        )
    if kind == "adaptive":
        return {}
    if kind == "disabled":
        return {"reasoning_effort": "none"}
    budget = thinking.get("budget_tokens")
    most = getattr(body, "max_tokens", None)
    if type(budget) is not int or budget < 1:
        field = "thinking.budget_tokens"
        raise InvalidRequest(f"{field} must be an integer of at least 1, got {shown(budget)}", field)
    if type(most) is int and budget >= most:
        raise InvalidRequest(
            f"thinking.budget_tokens must be less than max_tokens={most}, got {budget}", "thinking.budget_tokens"
        )
    # The names that templates ask for; one that asks for neither is not changed by them.
    switches: dict[str, object] = {"enable_thinking": True, "thinking": True}
    return {"thinking_token_budget": budget, "chat_template_kwargs": switches | (body.chat_template_kwargs or {})}


def response_format(format: dict[str, object] | None) -> object:
    """Chat's `response_format`, which gives a schema a name."""
    if format is None:
        return None
    if format.get("type") != "json_schema" or not isinstance(format.get("schema"), dict):
        raise InvalidRequest(
            f"output_config.format must be of type json_schema, with a schema, got {shown(format)}",
            "output_config.format",
        )
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": format["schema"], "strict": True}}


def words() -> AbstractContextManager[None]:
    """Errors of the ChatRequest in this API's words."""
    return told_as(NAMES)
