"""Offer: the tools of a chat request, which of them may or must be called, and what that asks of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs
from pydantic_core import from_json

from octavo.errors import InvalidRequest
from octavo.frontend.answers import AnswerReading
from octavo.frontend.tools.registry import FORCED, Forced
from octavo.frontend.tools.sink import MAX_NAME, functions_of
from octavo.limits import Limits
from octavo.sampling import shown
from octavo.serve.schema import ChatRequest
from octavo.structured import StructuredOutputsParams

Tools = list[dict[str, Any]]
MODES = ("none", "auto", "required")


@dataclass(frozen=True)
class Offer:
    """`tools` are those that the model is shown. `must`: it has to call one; `is_named`: this one, once.

    `several`: calls may be more than one. `field` is what the request calls its tools; `is_legacy`: `functions`.
    """

    tools: Tools
    must: bool = False
    is_named: bool = False
    several: bool = True
    is_legacy: bool = False

    @classmethod
    def of(cls, body: ChatRequest, limits: Limits) -> Offer:
        """What the body offers; InvalidRequest names the field that is wrong."""
        is_legacy = body.functions is not None
        if is_legacy and body.tools is not None:
            raise InvalidRequest("functions and tools are both set; use tools", "functions")
        if body.function_call is not None and not is_legacy:
            raise InvalidRequest("function_call needs functions; use tools and tool_choice", "function_call")
        field = "functions" if is_legacy else "tools"
        tools = wrapped(body.functions) if is_legacy else body.tools
        check_tools(tools, field, limits)
        offered: Tools = tools or []  # type: ignore[assignment]
        choice, place = (
            (named_of(body.function_call), "function_call") if is_legacy else (body.tool_choice, "tool_choice")
        )
        mode, names = chosen(choice, place)
        known = [tool["function"]["name"] for tool in offered]
        for name in names or ():
            if name not in known:
                raise InvalidRequest(f"{place} names {shown(name)}, which is not in {field}", place)
        if mode in ("required", "named") and not offered:
            raise InvalidRequest(f"{place} asks for a call, but there are no {field}", place)
        if mode == "none":
            offered = []
        elif names is not None:
            offered = [tool for tool in offered if tool["function"]["name"] in names]
        several = body.parallel_tool_calls is not False and mode != "named" and not is_legacy
        return cls(offered, mode in ("required", "named"), mode == "named", several, is_legacy)

    def reading(self, found: AnswerReading | None) -> AnswerReading | None:
        """How answers are read: as `found` (without tools, nothing is a call), unless calls are forced."""
        if not self.must:
            return found
        if found is None:
            return AnswerReading(FORCED, None, functions_of(self.tools), is_inside=False, visible=frozenset())
        return found if found.tools is not None and found.tools.forced is not None else replace(found, tools=FORCED)

    def constraint(self, how: AnswerReading | None) -> StructuredOutputsParams | None:
        """What makes the model call what it must, and strict functions as their schemas say; None if nothing does."""
        is_strict = any(tool["function"].get("strict") is True for tool in self.tools)
        if how is None or how.tools is None or how.tools.forced is None or not (self.must or is_strict):
            return None
        forced, opens = how.tools.forced, how.tools.opens
        tags = [self._tag(tool["function"], forced) for tool in self.tools]
        if self.must and not forced.is_behind_text:
            format = self._calls(forced)
        elif forced.trigger or opens:
            begin = forced.before
            tags = [tag | {"begin": begin + tag["begin"], "end": tag["end"] + forced.after} for tag in tags]
            format = {
                "type": "triggered_tags",
                "triggers": [forced.trigger or opens[0]],
                "tags": tags,
                "at_least_one": self.must,
                "stop_after_first": self.must and not self.several,
            }
        else:
            return None
        return StructuredOutputsParams(structural_tag={"type": "structural_tag", "format": format}, source="tools")

    def or_else(self, asked: StructuredOutputsParams, how: AnswerReading | None) -> StructuredOutputsParams:
        """A constraint on the content that leaves the model its calls, where both can be told in one."""
        forced = how.tools.forced if how is not None and how.tools is not None else None
        if forced is None or forced.is_behind_text or asked.kind not in ("json", "json_object"):
            return asked
        try:
            schema = json.loads(asked.json) if isinstance(asked.json, str) else asked.json or {"type": "object"}
        except ValueError:
            return asked  # which its check will name
        elements = [self._calls(forced), {"type": "json_schema", "json_schema": schema}]
        tag = {"type": "structural_tag", "format": {"type": "or", "elements": elements}}
        return structs.replace(asked, json=None, json_object=None, structural_tag=tag)

    def _calls(self, forced: Forced) -> dict[str, Any]:
        """One or several calls and nothing else."""
        calls = {
            "type": "tags_with_separator",
            "tags": [self._tag(tool["function"], forced) for tool in self.tools],
            "separator": forced.separator,
            "at_least_one": True,
            "stop_after_first": not self.several,
        }
        parts = [const(forced.before), calls, const(forced.after)]
        return {"type": "sequence", "elements": [part for part in parts if part is not None]}

    def _tag(self, function: Mapping[str, Any], forced: Forced) -> dict[str, Any]:
        """A call of one function. Schemas bind where a call is forced or the function is strict."""
        name = json.dumps(function["name"], ensure_ascii=False)[1:-1]
        bound = self.must or function.get("strict") is True
        schema = function.get("parameters") if bound else None
        content = {"type": "json_schema", "json_schema": schema or {"type": "object"}}
        return {"type": "tag", "begin": forced.begin.replace("NAME", name), "content": content, "end": forced.end}


def const(text: str) -> dict[str, Any] | None:
    """A literal part of a structural tag."""
    return {"type": "const_string", "value": text} if text else None


def wrapped(functions: object) -> object:
    """OpenAI's `functions` as `tools`."""
    if not isinstance(functions, list):
        return functions
    return [{"type": "function", "function": function} for function in functions]


def named_of(call: object) -> object:
    """OpenAI's `function_call` as `tool_choice`."""
    return {"type": "function", "function": call} if isinstance(call, dict) else call


def chosen(choice: object, field: str) -> tuple[str, list[str] | None]:
    """The mode of a tool_choice (none, auto, required, named) and the functions that it leaves; None leaves all."""
    if choice is None or (isinstance(choice, str) and choice in MODES):
        return choice or "auto", None
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and kind == "function":
        return "named", [name_in(choice, field)]
    allowed = choice.get("allowed_tools", choice) if isinstance(choice, dict) and kind == "allowed_tools" else None
    if isinstance(allowed, dict):
        mode, tools = allowed.get("mode"), allowed.get("tools")
        if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
            raise InvalidRequest(f"{field} of the type allowed_tools must have tools, and mode auto or required", field)
        return mode, [name_in(tool, field) for tool in tools]
    raise InvalidRequest(
        f"{field} must be none, auto, required, a function or allowed_tools; got {shown(choice)}", field
    )


def name_in(tool: object, field: str) -> str:
    """The function's name in {"type": "function", "function": {"name": …}}."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest(f"{field} must name a function, got {shown(tool)}", field)
    return name


def check_tools(tools: object, field: str, limits: Limits) -> None:
    """InvalidRequest unless `tools` is None or a list of functions."""
    if tools is None:
        return
    if not isinstance(tools, list) or len(tools) > limits.tools:
        raise InvalidRequest(f"{field} must be a list of at most {limits.tools} functions", field)
    for i, tool in enumerate(tools):
        check_function(tool, f"{field}[{i}]")


def check_function(tool: object, place: str) -> None:
    """InvalidRequest unless `tool` is a function with a name and, if it has parameters, a schema for them."""
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        what = f'{place} must be {{"type": "function", "function": {{"name": …}}}}, got {shown(tool)}'
        raise InvalidRequest(what, place)
    name = function["name"]
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or any(char.isspace() for char in name):
        raise InvalidRequest(f"{place}: a name is 1 to {MAX_NAME} characters without spaces, got {shown(name)}", place)
    if not isinstance(function.get("parameters"), dict | None):
        got = shown(function["parameters"])
        raise InvalidRequest(f"{place}: parameters must be a JSON schema, got {got}", place)
    if function.get("strict") not in (None, True, False):
        raise InvalidRequest(f"{place}: strict must be true or false, got {shown(function['strict'])}", place)


def modern(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with OpenAI's `function_call` and role `function` as tool calls and their results."""
    if not any("function_call" in message or message.get("role") == "function" for message in messages):
        return list(messages)  # type: ignore[arg-type]
    result: list[dict[str, Any]] = []
    number = 0
    for message in messages:
        copy = dict(message)
        if isinstance(copy.get("function_call"), dict):
            number += 1
            function = copy.pop("function_call")
            arguments = function.get("arguments")
            try:
                parsed = from_json(arguments or "{}") if isinstance(arguments, str | None) else arguments
            except ValueError:
                what = f"messages: the arguments of {shown(function.get('name'))} are not JSON"
                raise InvalidRequest(what, "messages") from None
            call = {"id": f"call_{number}", "type": "function", "function": {**function, "arguments": parsed}}
            copy.setdefault("tool_calls", [call])
        elif copy.get("role") == "function":
            copy |= {"role": "tool", "tool_call_id": f"call_{number}"}
        result.append(copy)
    return result
