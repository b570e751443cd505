"""Bodies of the Responses API, and how they become a ChatRequest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from octavo.errors import InvalidRequest
from octavo.sampling import shown
from octavo.serve.schema import Body, Objects, StreamOptions, count
from octavo.serve.translate import extras, passed, told_as

NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}  # what this API calls the fields of a ChatRequest
LOGPROBS = "message.output_text.logprobs"
INCLUDE = frozenset(
    (
        *(LOGPROBS, "reasoning.encrypted_content", "file_search_call.results", "web_search_call.results"),
        *("web_search_call.action.sources", "message.input_image.image_url", "computer_call_output.output.image_url"),
        "code_interpreter_call.outputs",
    )
)
ELSEWHERE = {
    "conversation": "there are no conversation objects here; use previous_response_id",
    "prompt": "there are no stored prompts here; send instructions and input",
    "context_management": "nothing compacts a conversation here; truncation='auto' drops its oldest turns",
    "moderation": "nothing is moderated here",
}  # fields of OpenAI's that mean a service which is not here
Choice = Annotated[object, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]})]
Texts = Annotated[object, WithJsonSchema({"type": "array", "items": {"type": "string"}})]
Input = Annotated[
    object,
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
]


Summary = Literal["auto", "concise", "detailed"]


class ReasoningConfig(Body):
    """How much the model thinks."""

    effort: str | None = Field(None, description="How hard to think, for models whose template knows the word.")
    summary: Summary | None = Field(None, description="Accepted; what was thought comes whole, in `content`.")
    generate_summary: Summary | None = Field(None, description="Accepted, as `summary`.")
    context: str | None = Field(None, description="Accepted; the model's template decides what it is shown again.")
    mode: str | None = Field(None, description="Accepted; there is one mode.")


class TextConfig(Body):
    """What shape the text has."""

    format: dict[str, object] | None = Field(None, description="text, json_object, or json_schema with its schema.")
    verbosity: str | None = Field(None, description="How much to say, for models whose template knows the word.")


class CountRequest(extras()):  # type: ignore[misc]
    """POST /v1/responses/input_tokens."""

    model: str | None = Field(None, description="Name of a served model.")
    input: Input = Field(None, description="Text, or a list of items.")
    instructions: str | None = Field(None, description="System message; not carried over to the next response.")
    previous_response_id: str | None = Field(None, description="The response that this one continues.")
    tools: Objects = Field(None, description="Functions that the model may call.")
    tool_choice: Choice = Field(None, description="auto, none, required, a function, or allowed_tools.")
    parallel_tool_calls: bool | None = Field(None, description="Allow several calls in one response.")
    text: TextConfig | None = Field(None, description="Shape of the text.")
    reasoning: ReasoningConfig | None = Field(None, description="How much to think.")
    truncation: str | None = Field(None, description="auto drops the oldest turns that do not fit; default disabled.")


class ResponseRequest(CountRequest):
    """POST /v1/responses."""

    stream: bool | None = Field(None, description="Send the response as events while it grows.")
    stream_options: StreamOptions | None = Field(None, description="Accepted with `stream`; nothing is obfuscated.")
    background: bool | None = Field(None, description="Answer at once and go on without the caller; needs `store`.")
    store: bool | None = Field(None, description="Keep the response for later; default true.")
    include: Texts = Field(None, description=f"What else to return; {LOGPROBS} is what has an effect here.")
    max_output_tokens: Annotated[object, WithJsonSchema({"type": "integer", "minimum": 1})] = Field(
        None, description="Most tokens to generate, those of reasoning included."
    )
    top_logprobs: Annotated[object, WithJsonSchema({"type": "integer", "minimum": 0})] = Field(
        None, description="Log-probabilities of this many likeliest tokens of the text."
    )
    metadata: dict[str, str] | None = Field(None, description="At most 16 short pairs that come back unchanged.")
    user: str | None = Field(None, description="Accepted; changes nothing.")
    safety_identifier: str | None = Field(None, description="Accepted; changes nothing.")
    service_tier: str | None = Field(None, description="Accepted; there is one tier.")
    prompt_cache_key: str | None = Field(None, description="Accepted; equal beginnings are always found.")
    prompt_cache_retention: str | None = Field(None, description="Accepted; changes nothing.")
    prompt_cache_options: dict[str, object] | None = Field(None, description="Accepted; changes nothing.")
    conversation: object = Field(None, description="Refused: there are no conversation objects.")
    prompt: object = Field(None, description="Refused: there are no stored prompts.")
    context_management: object = Field(None, description="Refused: nothing compacts a conversation.")
    moderation: object = Field(None, description="Refused: nothing is moderated.")
    max_tool_calls: int | None = Field(None, description="Accepted; bounds tools of the server, which has none.")


def check(body: ResponseRequest) -> None:
    """InvalidRequest for the first field that asks for what is not here, or contradicts another."""
    for name, why in ELSEWHERE.items():
        if getattr(body, name) is not None:
            raise InvalidRequest(f"{name} is not supported: {why}", name)
    if body.background and body.store is False:
        raise InvalidRequest("background needs store=true: the response could not be read later", "background")
    if body.truncation not in (None, "auto", "disabled"):
        raise InvalidRequest(f"truncation must be auto or disabled, got {shown(body.truncation)}", "truncation")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is only allowed with stream=true", "stream_options")
    include = body.include
    if include is not None:
        if not isinstance(include, list) or len(include) > len(INCLUDE):
            raise InvalidRequest(f"include must be a list of names, got {shown(include)}", "include")
        for name in include:
            if not isinstance(name, str) or name not in INCLUDE:
                raise InvalidRequest(
                    f"include has {shown(name)}, which is none of {', '.join(sorted(INCLUDE))}", "include"
                )
    check_metadata(body.metadata)


def check_metadata(metadata: Mapping[str, str] | None) -> None:
    """InvalidRequest for more or longer pairs than OpenAI takes."""
    pairs = metadata or {}
    if len(pairs) > 16:
        raise InvalidRequest(f"metadata may have 16 pairs, got {len(pairs)}", "metadata")
    for key, value in pairs.items():
        if len(key) > 64 or len(value) > 512:
            raise InvalidRequest(
                f"metadata keys may have 64 characters and values 512, got {len(key)} and {len(value)}", "metadata"
            )


def chat_fields(body: ResponseRequest | CountRequest, messages: Sequence[object]) -> dict[str, object]:
    """The ChatRequest's fields: `messages`, and what else the body asks for in its own words."""
    fields: dict[str, object] = {"model": body.model, "messages": messages}
    fields |= passed(body) | tool_fields(body.tools, body.tool_choice)
    fields["parallel_tool_calls"] = body.parallel_tool_calls
    if body.text is not None:
        fields |= {"response_format": response_format(body.text.format), "verbosity": body.text.verbosity}
    if body.reasoning is not None:
        fields["reasoning_effort"] = body.reasoning.effort
    if not isinstance(body, ResponseRequest):
        return fields
    wanted = LOGPROBS in (body.include or ()) or bool(body.top_logprobs)  # type: ignore[operator]  # check() saw a list
    top = count("top_logprobs", body.top_logprobs, 0, 20)
    fields |= {"max_completion_tokens": body.max_output_tokens, "stream": body.stream, "user": body.user}
    return fields | ({"logprobs": True, "top_logprobs": top or 0} if wanted else {})


def tool_fields(tools: object, choice: object) -> dict[str, object]:
    """Chat's `tools` and `tool_choice`."""
    wanted = functions(tools)
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("tools")
        if not isinstance(allowed, list) or choice.get("mode") not in ("auto", "required"):
            raise InvalidRequest("tool_choice.tools must be a list, and mode auto or required", "tool_choice")
        names = [tool.get("name") if isinstance(tool, dict) else None for tool in allowed]
        known = [tool["name"] for tool in wanted]
        for name in names:
            if name not in known:
                raise InvalidRequest(f"tool_choice allows {shown(name)}, which is not in tools", "tool_choice")
        wanted = [tool for tool in wanted if tool["name"] in names]
        choice = choice["mode"]
    elif isinstance(choice, dict):
        if choice.get("type") != "function":
            raise InvalidRequest(
                f"tool_choice has type {shown(choice.get('type'))}; this server has function tools only", "tool_choice"
            )
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    chat = [{"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}} for tool in wanted]
    return {"tools": chat or None, "tool_choice": choice}


def functions(tools: object) -> list[dict[str, Any]]:
    """The checked `tools`, each with name, description, parameters and strict, as far as it has them."""
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise InvalidRequest(f"tools must be a list of functions, got {shown(tools)}", "tools")
    found: list[dict[str, Any]] = []
    for i, tool in enumerate(tools):
        field = f"tools[{i}]"
        if not isinstance(tool, dict):
            raise InvalidRequest(f"{field} must be an object with a type, got {shown(tool)}", field)
        if tool.get("type") != "function":
            kind = shown(tool.get("type"))
            raise InvalidRequest(f"{field} has type {kind}; this server has function tools only", f"{field}.type")
        if not isinstance(tool.get("name"), str):
            raise InvalidRequest(f"{field}.name must be text, got {shown(tool.get('name'))}", f"{field}.name")
        for name, kind in (("description", str), ("parameters", dict), ("strict", bool)):
            if not isinstance(tool.get(name), kind | None):
                raise InvalidRequest(f"{field}.{name} is wrong, got {shown(tool[name])}", f"{field}.{name}")
        kept = ("type", "name", "description", "parameters", "strict")
        found.append({name: tool[name] for name in kept if tool.get(name) is not None})
    return found


def response_format(format: Mapping[str, object] | None) -> object:
    """Chat's `response_format`, which holds a schema one level deeper."""
    if format is None or format.get("type") == "text":
        return None
    if format.get("type") != "json_schema":
        return dict(format)
    return {"type": "json_schema", "json_schema": {name: value for name, value in format.items() if name != "type"}}


def words() -> AbstractContextManager[None]:
    """Errors of the ChatRequest in this API's words."""
    return told_as(NAMES)
