"""Tool calls and reasoning from Python: LLM.chat over a device that says what it is told to."""

from __future__ import annotations

import json

import pytest

from octavo import LLM, SamplingParams
from octavo.errors import StartupError

SAID = (
    '<think>\nHm.\n</think>\n\nI look.\n<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
MESSAGES = [{"role": "user", "content": "weather in Paris?"}]
LONG = SamplingParams(max_tokens=200, temperature=0)


def test_an_output_has_content_reasoning_and_calls_apart() -> None:
    with LLM(device=f"fake:say={SAID}") as llm:
        [output] = llm.chat(MESSAGES, LONG, tools=TOOLS, use_tqdm=False)
        one = output.outputs[0]
        assert one.text == SAID
        message = one.message
        assert (message.content, message.reasoning) == ("I look.", "Hm.")
        [call] = message.tool_calls
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
        [output] = llm.chat(MESSAGES, LONG, use_tqdm=False)
        assert output.outputs[0].message.tool_calls == ()
        assert output.outputs[0].message.content.endswith("</tool_call>")
        [output] = llm.generate("weather?", LONG, use_tqdm=False)
        assert output.outputs[0].message.content == SAID


def test_parsers_can_be_named_or_left_out() -> None:
    with LLM(device=f"fake:say={SAID}", tool_call_parser="none", reasoning_parser="none") as llm:
        [output] = llm.chat(MESSAGES, LONG, tools=TOOLS, use_tqdm=False)
        assert output.outputs[0].message.content == SAID
    said = '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'
    with LLM(device=f"fake:say={said}", tool_call_parser="mistral") as llm:
        [output] = llm.chat(MESSAGES, LONG, tools=TOOLS, use_tqdm=False)
        assert [call.name for call in output.outputs[0].message.tool_calls] == ["get_weather"]
    with pytest.raises(StartupError, match="tool_call_parser must be one of"):
        LLM(device="fake", tool_call_parser="mistrall")
