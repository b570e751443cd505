"""Tool calls over real sockets, with the official client as the judge: a device that says what a script has for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from octavo import config

from .conftest import Server, Start

CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
TWO = CALL + '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
SCRIPT = {
    "say hello": "Hello!",
    "weather in Paris": CALL,
    "weather and time": f"I will look.\n{TWO}",
    "18 degrees": "It has 18 degrees in Paris.",
    "think first": f"<think>\nLet me see.\n</think>\n\n{CALL}",
    "think and talk": "<think>Hm, hm.</think>The answer is 4.",
    "broken": '<tool_call>{"name": 3}</tool_call>',
    "cut short": '<tool_call>{"name": "write", "arguments": {"text": "' + "long " * 200,
    "call it wrongly": '<tool_call>\n{"name": "get_weather", "arguments": {"town": "Lyon"}}\n</tool_call>',
    "call then talk": f"One. {CALL} Two.",
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "How the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
TOOLS: list[Any] = [WEATHER, NOW]


@pytest.fixture(scope="module")
def scripted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    path = tmp_path_factory.mktemp("script") / "script.json"
    path.write_text(json.dumps(SCRIPT))
    return start(device=f"fake:low=3,high=97,say=@{path}")


@pytest.fixture(scope="module")
def client(scripted: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    options = {"max_tokens": 300, "temperature": 0, "tools": TOOLS} | options
    return client.chat.completions.create(
        model="octavo-pocket", messages=[{"role": "user", "content": text}], **options
    )


def gather(chunks: Iterable[ChatCompletionChunk]) -> dict[str, Any]:
    """A stream put together as clients do it."""
    said: dict[str, Any] = {"content": "", "reasoning": "", "calls": {}, "finish_reason": None, "usage": None}
    for chunk in chunks:
        said["usage"] = chunk.usage and counted(chunk.usage)
        for choice in chunk.choices:
            delta = choice.delta
            said["content"] += delta.content or ""
            said["reasoning"] += getattr(delta, "reasoning_content", None) or ""
            said["finish_reason"] = choice.finish_reason or said["finish_reason"]
            for call in delta.tool_calls or ():
                found = said["calls"].setdefault(
                    call.index, {"id": call.id, "name": call.function.name, "arguments": ""}
                )
                found["arguments"] += call.function.arguments or ""
    return said


def in_whole(reply: Any) -> dict[str, Any]:
    message = reply.choices[0].message
    calls = {
        i: {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for i, call in enumerate(message.tool_calls or ())
    }
    return {
        "content": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "calls": calls,
        "finish_reason": reply.choices[0].finish_reason,
        "usage": counted(reply.usage),
    }


def counted(usage: Any) -> tuple[int, int]:
    """Tokens of the answer, and of its reasoning."""
    return usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens


@pytest.mark.parametrize("text", SCRIPT)
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI, text: str) -> None:
    whole = in_whole(ask(client, text))
    streamed = gather(ask(client, text, stream=True, stream_options={"include_usage": True}))
    for call in (*whole["calls"].values(), *streamed["calls"].values()):
        assert call.pop("id").startswith("call_")
    assert streamed == whole


def test_a_call_has_null_content_and_its_own_finish_reason(client: openai.OpenAI) -> None:
    choice = ask(client, "weather in Paris").choices[0]
    assert choice.message.content is None
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_several_calls_and_the_text_before_them(client: openai.OpenAI) -> None:
    message = ask(client, "weather and time").choices[0].message
    assert message.content == "I will look."
    assert [call.function.name for call in message.tool_calls] == ["get_weather", "now"]
    assert len({call.id for call in message.tool_calls}) == 2
    alone = ask(client, "weather and time", parallel_tool_calls=False).choices[0].message
    assert [call.function.name for call in alone.tool_calls] == ["get_weather"]


def test_what_is_no_call_is_content(client: openai.OpenAI) -> None:
    choice = ask(client, "broken").choices[0]
    assert (choice.message.content, choice.message.tool_calls) == (SCRIPT["broken"], None)
    assert choice.finish_reason == "stop"
    for options in ({"tools": openai.NOT_GIVEN}, {"tool_choice": "none"}):
        choice = ask(client, "weather in Paris", **options).choices[0]
        assert (choice.message.content, choice.finish_reason) == (CALL, "stop")


def test_a_call_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    choice = ask(client, "cut short", max_tokens=60).choices[0]
    assert choice.finish_reason == "length"
    [call] = choice.message.tool_calls
    assert call.function.arguments.startswith('{"text": "long long')


def test_reasoning_comes_apart_and_its_tokens_are_counted(client: openai.OpenAI) -> None:
    reply = ask(client, "think first")
    message = reply.choices[0].message
    assert message.reasoning_content == message.reasoning == "Let me see."
    assert message.content is None
    assert message.tool_calls[0].function.name == "get_weather"
    thought = reply.usage.completion_tokens_details.reasoning_tokens
    assert 0 < thought < reply.usage.completion_tokens
    reply = ask(client, "think and talk", tools=openai.NOT_GIVEN, extra_body={"include_reasoning": False})
    assert reply.choices[0].message.content == "The answer is 4."
    assert not hasattr(reply.choices[0].message, "reasoning")


def test_thinking_ends_when_its_budget_is_used(client: openai.OpenAI) -> None:
    for budget in (0, 1, 3):
        reply = ask(client, "think and talk", extra_body={"thinking_token_budget": budget})
        assert reply.usage.completion_tokens_details.reasoning_tokens == budget
    reply = ask(client, "think and talk", extra_body={"thinking_token_budget": -1})
    assert reply.choices[0].message.reasoning == "Hm, hm."


def test_log_probabilities_are_told_once_for_each_token(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"logprobs": True, "extra_body": {"return_token_ids": True}}
    whole = ask(client, "call then talk", **options)
    told = [one.token for one in whole.choices[0].logprobs.content]
    assert len(told) == whole.usage.completion_tokens
    chunks = list(ask(client, "call then talk", stream=True, **options))
    tokens = [
        one.token
        for c in chunks
        for choice in c.choices
        for one in (choice.logprobs.content if choice.logprobs else ())
    ]
    assert tokens == told
    ids = [id for c in chunks for choice in c.choices for id in getattr(choice, "token_ids", None) or ()]
    assert ids == whole.choices[0].token_ids


def test_a_tool_loop_ends_with_the_answer(client: openai.OpenAI) -> None:
    """What applications do: ask, call, tell the result, until there is an answer."""
    tools: dict[str, Callable[..., str]] = {"get_weather": lambda city: f"18 degrees in {city}", "now": lambda: "noon"}
    messages: list[Any] = [{"role": "user", "content": "weather in Paris"}]
    for _ in range(5):
        reply = client.chat.completions.create(model="octavo-pocket", messages=messages, tools=TOOLS, max_tokens=200)
        message = reply.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = tools[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert message.content == SCRIPT["18 degrees"]
    assert len(messages) == 4


def test_the_older_spelling_works(client: openai.OpenAI) -> None:
    functions = [tool["function"] for tool in TOOLS]
    reply = ask(client, "weather in Paris", tools=openai.NOT_GIVEN, functions=functions, function_call="auto")
    choice = reply.choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.name == "get_weather"
    assert choice.message.tool_calls is None
    history: list[Any] = [
        {"role": "user", "content": "weather in Paris"},
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
        },
        {"role": "function", "name": "get_weather", "content": "18 degrees"},
    ]
    reply = client.chat.completions.create(model="octavo-pocket", messages=history, functions=functions, max_tokens=99)
    assert reply.choices[0].message.content == SCRIPT["18 degrees"]
    chunks = list(ask(client, "weather in Paris", tools=openai.NOT_GIVEN, functions=functions, stream=True))
    deltas = [choice.delta.function_call for chunk in chunks for choice in chunk.choices if choice.delta.function_call]
    assert deltas[0].name == "get_weather"
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"city": "Paris"}


REQUIRED: list[Any] = ["required", {"type": "function", "function": {"name": "get_weather"}}]


@pytest.mark.parametrize("choice", REQUIRED, ids=["required", "named"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_must_come_comes_whatever_the_model_wants(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    tools: list[Any] = [WEATHER | {"function": WEATHER["function"] | {"parameters": BOUNDED}}]  # type: ignore[operator]
    # A device that draws lots may begin to think instead, and not end.
    options: dict[str, Any] = {"max_tokens": 400, "extra_body": {"thinking_token_budget": 0}}
    reply = ask(client, "say hello", tools=tools, tool_choice=choice, stream=stream, **options)
    said = gather(reply) if stream else in_whole(reply)
    assert said["calls"]
    for call in said["calls"].values():
        assert call["name"] == "get_weather"
        assert json.loads(call["arguments"]).keys() == {"city"}
    assert said["content"] == ""
    assert said["finish_reason"] == ("tool_calls" if choice == "required" else "stop")


BOUNDED = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def test_allowed_tools_leave_some(client: openai.OpenAI) -> None:
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": allowed}
    assert ask(client, "say hello", tool_choice=choice).choices[0].message.content == "Hello!"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, "tool_choice"),
    ({"tool_choice": "required", "tools": []}, "tool_choice"),
    ({"tools": [{"type": "function"}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0]"),
    ({"tools": [WEATHER] * 1025}, "tools"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"tools": None, "function_call": "auto"}, "function_call"),
    ({"reasoning_effort": "immense"}, "reasoning_effort"),
    ({"thinking_token_budget": -2}, "thinking_token_budget"),
    ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format"),
]


@pytest.mark.parametrize(("fields", "field"), WRONG)
def test_what_is_wrong_is_named(scripted: Server, fields: dict[str, Any], field: str) -> None:
    body = {"messages": [{"role": "user", "content": "say hello"}], "tools": TOOLS} | fields
    reply = scripted.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == field


def test_effort_reaches_the_template(scripted: Server) -> None:
    def prompt(**fields: Any) -> str:
        body = {"messages": [{"role": "user", "content": "say hello"}], "return_prompt_text": True, "max_tokens": 1}
        return scripted.http.post("/v1/chat/completions", json=body | fields).json()["prompt_text"]

    assert not prompt().endswith("<think>\n")
    assert prompt(reasoning_effort="high").endswith("<think>\n")
    assert not prompt(reasoning_effort="none").endswith("<think>\n")
    assert not prompt(reasoning_effort="high", chat_template_kwargs={"enable_thinking": False}).endswith("<think>\n")


def test_langchain_calls_tools(scripted: Server) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="needs langchain-openai (pip install octavo[test])")
    model = langchain.ChatOpenAI(base_url=f"{scripted.url}/v1", api_key="none", model="octavo-pocket", max_tokens=200)
    bound = model.bind_tools(TOOLS)
    asked: list[Any] = [("user", "weather in Paris")]
    message = bound.invoke(asked)
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("get_weather", {"city": "Paris"})]
    streamed = None
    for chunk in bound.stream(asked):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [("get_weather", {"city": "Paris"})]
    words = pytest.importorskip("langchain_core.messages")
    result = words.ToolMessage("18 degrees", tool_call_id=message.tool_calls[0]["id"])
    history = [words.HumanMessage("weather in Paris"), message, result]
    assert bound.invoke(history).content == SCRIPT["18 degrees"]


def test_what_must_come_comes_behind_the_reasoning(client: openai.OpenAI) -> None:
    tools: list[Any] = [WEATHER | {"function": WEATHER["function"] | {"parameters": BOUNDED}}]  # type: ignore[operator]
    for thinks in (True, False):  # the prompt begins the reasoning, or the answer does
        extra = {"chat_template_kwargs": {"enable_thinking": thinks}}
        said = in_whole(ask(client, "think and talk", tools=tools, tool_choice="required", extra_body=extra, seed=1))
        assert said["reasoning"] == "Hm, hm."
        assert {call["name"] for call in said["calls"].values()} == {"get_weather"}
        schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": BOUNDED}}
        options: dict[str, Any] = {"tools": openai.NOT_GIVEN, "response_format": schema, "extra_body": extra, "seed": 1}
        said = in_whole(ask(client, "think and talk", **options))
        assert said["reasoning"] == "Hm, hm."
        assert json.loads(said["content"])["city"] in ("Paris", "Rome")


def test_an_answer_in_a_format_may_call_a_tool_instead(client: openai.OpenAI) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": BOUNDED}}
    [call] = ask(client, "call it wrongly", response_format=schema).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"town": "Lyon"}
    plain = {"tools": openai.NOT_GIVEN, "extra_body": {"thinking_token_budget": 0}}
    reply = ask(client, "say hello", response_format=schema, **plain)
    assert json.loads(reply.choices[0].message.content)["city"] in ("Paris", "Rome")


def test_a_strict_function_is_called_as_its_schema_says(client: openai.OpenAI) -> None:
    function = WEATHER["function"] | {"parameters": BOUNDED}  # type: ignore[operator]
    for strict in (False, True):
        tools: list[Any] = [WEATHER | {"function": function | {"strict": strict}}]
        [call] = ask(client, "call it wrongly", tools=tools, seed=2).choices[0].message.tool_calls
        if strict:
            assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
        else:
            assert json.loads(call.function.arguments) == {"town": "Lyon"}
    assert ask(client, "say hello", tools=tools).choices[0].message.content == "Hello!"


def test_several_answers_have_calls_of_their_own(client: openai.OpenAI) -> None:
    choices = ask(client, "weather in Paris", n=3, temperature=1).choices
    assert [choice.finish_reason for choice in choices] == ["tool_calls"] * 3
    assert len({choice.message.tool_calls[0].id for choice in choices}) == 3
    chunks = ask(client, "weather in Paris", n=2, temperature=1, stream=True)
    found = {choice.index: choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason}
    assert found == {0: "tool_calls", 1: "tool_calls"}


def test_the_examples_of_the_documentation_run(scripted: Server, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        code = example.replace("http://127.0.0.1:8000", scripted.url).replace(
            "LLM()", "LLM(device='fake:low=3,high=97')"
        )
        exec(compile(code, "docs/tools.md", "exec"), {})
    assert capsys.readouterr().out


def test_every_parser_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")
    names = {*config.TOOL_CALL_PARSERS, *config.REASONING_PARSERS}
    assert not [name for name in names if f"`{name}`" not in page]
