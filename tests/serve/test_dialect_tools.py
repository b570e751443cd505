"""Tools and thinking in the other dialects, with their official clients: a device says what a script has for it."""

from __future__ import annotations

import json

import openai
import pytest

from ..lazy import lazily
from .test_responses import events

anthropic = lazily("anthropic")

MODEL = "octavo-pocket"
OSLO = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
SCRIPT = {
    "rain in Oslo": "It rains.",
    "weather in Oslo": OSLO,
    "two cities": f'I look.\n{OSLO}\n<tool_call>{{"name": "weather", "arguments": {{"city": "Rome"}}}}</tool_call>',
    "think first": f"<think>\nLet me see.\n</think>\n\n{OSLO}",
    "think and talk": "<think>Hm, hm.</think>The answer is 4.",
    "cut short": '<tool_call>{"name": "weather", "arguments": {"city": "' + "long " * 200,
    "say hello": "Hello!",
    "think on": "Let me see.\n</think>\n\nFour.",
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTIONS = [{"type": "function", "name": "weather", "description": "Of a city.", "parameters": SCHEMA}]
TOOLS = [{"name": "weather", "description": "Of a city.", "input_schema": SCHEMA}]


@pytest.fixture(scope="module")
def scripted(start, tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "script.json"
    path.write_text(json.dumps(SCRIPT))
    return start(device=f"fake:low=3,high=97,say=@{path}")


@pytest.fixture(scope="module")
def client(scripted):
    return openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def claude(scripted):
    return anthropic.Anthropic(base_url=scripted.url, api_key="none", max_retries=0)


def respond(client, said, **options):
    return client.responses.create(model=MODEL, input=said, tools=FUNCTIONS, **options)


def ask(claude, said, **options):
    return claude.messages.create(**{"model": MODEL, "max_tokens": 300, "messages": said, "tools": TOOLS} | options)


def user(text):
    return [{"role": "user", "content": text}]


def test_a_tool_loop_runs_over_responses(client):
    first = respond(client, "What is the weather in Oslo?")
    [call] = first.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Oslo"})
    assert (first.status, call.status) == ("completed", "completed")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain in Oslo"}
    kept = respond(client, [output], previous_response_id=first.id)
    sent = respond(client, [*user("What is the weather in Oslo?"), *first.output, output], store=False)
    assert kept.output_text == sent.output_text == "It rains."
    assert kept.usage.input_tokens == sent.usage.input_tokens


def test_a_tool_loop_runs_over_messages(claude):
    said = user("What is the weather in Oslo?")
    first = ask(claude, said)
    [use] = first.content
    assert (first.stop_reason, use.name, use.input) == ("tool_use", "weather", {"city": "Oslo"})
    said += [first.to_param()] if hasattr(first, "to_param") else [{"role": "assistant", "content": first.content}]
    said += [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "rain in Oslo"}]}]
    last = ask(claude, said)
    assert (last.stop_reason, last.content[0].text) == ("end_turn", "It rains.")


@pytest.mark.parametrize("text", ["two cities", "think first", "think and talk", "say hello"])
def test_a_streamed_response_is_the_whole_one(client, scripted, openai_spec, text):
    whole = respond(client, text)
    body = {"input": text, "tools": FUNCTIONS, "stream": True}
    found = events(scripted.http.post("/v1/responses", json=body))
    for event in found:
        openai_spec.check("ResponseStreamEvent", event)
    openai_spec.check("Response", scripted.http.get(f"/v1/responses/{whole.id}").json())
    plain = lambda items: [
        (item["type"], item.get("arguments"), item.get("name"), [part["text"] for part in item.get("content") or ()])
        for item in items
    ]
    streamed = found[-1]["response"]
    assert plain(streamed["output"]) == plain([item.to_dict() for item in whole.output])
    assert streamed["usage"]["output_tokens_details"] == whole.usage.output_tokens_details.to_dict()
    with client.responses.stream(model=MODEL, input=text, tools=FUNCTIONS) as stream:
        final = stream.get_final_response()
    assert final.output_text == whole.output_text


def test_thinking_is_an_item_and_a_block_of_its_own(client, claude):
    reply = respond(client, "think and talk")
    thought, message = reply.output
    assert (thought.type, thought.content[0].text.strip()) == ("reasoning", "Hm, hm.")
    assert message.content[0].text == "The answer is 4."
    assert reply.usage.output_tokens_details.reasoning_tokens > 0
    reply = ask(claude, user("think and talk"))
    assert [block.type for block in reply.content] == ["thinking", "text"]
    assert reply.content[0].thinking.strip() == "Hm, hm."
    assert reply.content[0].signature
    assert reply.usage.output_tokens_details.thinking_tokens > 0
    # What was thought goes back with what was said.
    said = [*user("think and talk"), {"role": "assistant", "content": reply.content}, *user("say hello")]
    assert ask(claude, said).content[0].text == "Hello!"
    quiet = ask(claude, user("think and talk"), thinking={"type": "adaptive", "display": "omitted"})
    assert (quiet.content[0].thinking, quiet.content[1].text) == ("", "The answer is 4.")


@pytest.mark.parametrize("text", ["two cities", "think first", "think and talk", "say hello"])
def test_a_streamed_message_is_the_whole_one(claude, text):
    whole = ask(claude, user(text))
    with claude.messages.stream(model=MODEL, max_tokens=300, messages=user(text), tools=TOOLS) as stream:
        final = stream.get_final_message()
    plain = lambda message: [block.to_dict() | {"id": ""} for block in message.content]
    assert plain(final) == plain(whole)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_an_answer_that_ends_by_itself_ends_its_turn(client, claude):
    reply = ask(claude, user("say hello"))
    assert (reply.stop_reason, reply.stop_sequence, reply.content[0].text) == ("end_turn", None, "Hello!")
    nothing = ask(claude, user("say hello"), stop_sequences=["H"])
    assert (nothing.content, nothing.stop_reason, nothing.stop_sequence) == ([], "stop_sequence", "H")
    reply = respond(client, "say hello")
    assert (reply.status, reply.output_text) == ("completed", "Hello!")
    nothing = respond(client, "say hello", extra_body={"stop": ["H"]})
    assert (nothing.status, nothing.output_text, len(nothing.output)) == ("completed", "", 1)


def test_thinking_is_switched_on_and_off_in_the_template(client, claude):
    on = {"type": "enabled", "budget_tokens": 100}
    reply = ask(claude, user("think on"), thinking=on)
    assert [block.type for block in reply.content] == ["thinking", "text"]
    assert (reply.content[0].thinking.strip(), reply.content[1].text.strip()) == ("Let me see.", "Four.")
    counted = {"model": MODEL, "messages": user("think on")}
    longer = claude.messages.count_tokens(**counted, thinking=on).input_tokens
    shorter = claude.messages.count_tokens(**counted, thinking={"type": "disabled"}).input_tokens
    assert longer > shorter == claude.messages.count_tokens(**counted).input_tokens
    for effort, is_on in (("high", True), ("none", False)):
        found = respond(client, "think on", reasoning={"effort": effort})
        assert (found.output[0].type == "reasoning") == is_on
        assert found.reasoning.effort == effort
    with pytest.raises(openai.BadRequestError, match=r"^.*reasoning\.effort must be one of") as wrong:
        respond(client, "think on", reasoning={"effort": "much"})
    assert wrong.value.param == "reasoning.effort"


def test_one_call_at_a_time_when_asked(client, claude):
    several = respond(client, "two cities")
    assert [item.type for item in several.output] == ["message", "function_call", "function_call"]
    one = respond(client, "two cities", parallel_tool_calls=False)
    assert [item.type for item in one.output] == ["message", "function_call"]
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert [block.type for block in ask(claude, user("two cities"), tool_choice=choice).content] == ["text", "tool_use"]


def test_a_call_that_is_cut_short_is_told_as_far_as_it_went(client, claude):
    reply = respond(client, "cut short", max_output_tokens=40)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    message = ask(claude, user("cut short"), max_tokens=40)
    assert message.stop_reason == "max_tokens"
    with claude.messages.stream(model=MODEL, max_tokens=40, messages=user("cut short"), tools=TOOLS) as stream:
        assert stream.get_final_message().stop_reason == "max_tokens"


@pytest.mark.parametrize("named", [False, True])
def test_a_call_can_be_demanded(server, named):
    """Without a script, so that the grammar alone makes the call; some begin to think and come to no end."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    function = {"type": "function", "name": "pick", "parameters": schema, "strict": True}
    tool = {"name": "pick", "input_schema": schema}
    choice = {"type": "function", "name": "pick"} if named else "required"
    picked = []
    for seed in range(4):
        ask = {"model": MODEL, "extra_body": {"seed": seed}}
        reply = client.responses.create(
            input="x", tools=[function], tool_choice=choice, parallel_tool_calls=False, max_output_tokens=100, **ask
        )
        if reply.status == "completed":
            picked += [json.loads(item.arguments) for item in reply.output if item.type == "function_call"]
            assert reply.output[-1].type == "function_call"
        demand = {"type": "tool", "name": "pick"} if named else {"type": "any", "disable_parallel_tool_use": True}
        message = claude.messages.create(messages=user("x"), tools=[tool], tool_choice=demand, max_tokens=100, **ask)
        if message.stop_reason != "max_tokens":
            assert message.stop_reason == "tool_use"
            picked.append(message.content[-1].input)
    assert len(picked) > 1
    assert all(one["n"] in (1, 2) for one in picked)
