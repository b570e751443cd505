"""Tool calls in an answer's text: one example of each convention, what is no call, and that nothing is ever slow."""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from octavo import SamplingParams, config
from octavo.cli import serve
from octavo.errors import StartupError
from octavo.frontend import reasoning
from octavo.frontend.answers import AnswerFormat, merged, read_answer
from octavo.frontend.output import SequenceOutput
from octavo.frontend.tokenizer import Tokenizer
from octavo.frontend.tools import registry
from octavo.frontend.tools.registry import BY_NAME, FORMATS
from octavo.frontend.tools.sink import CallArguments, CallStart
from octavo.messages import Finish, TokenDelta

from .conftest import write_byte_level
from .recorded import reading

SCHEMAS = {
    "get_weather": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    "now": {"properties": {}},
}
WEATHER = ("get_weather", {"city": "São Paulo", "days": 3})
NOW = ("now", {})
JSON = '{"city": "São Paulo", "days": 3}'
OBJECT = f'{{"name": "get_weather", "arguments": {JSON}}}'
OBJECTS = f'[{OBJECT}, {{"name": "now", "arguments": {{}}}}]'
BOTH = [WEATHER, NOW]

EXAMPLES: list[tuple[str, str, list[tuple[str, object]]]] = [
    ("hermes", f"<tool_call>\n{OBJECT}\n</tool_call>", [WEATHER]),
    ("hermes", f'<tool_call>{OBJECT}</tool_call>\n<tool_call>\n{{"name": "now"}}\n</tool_call>', BOTH),
    ("hermes", f'<tool_call>{{"arguments": {JSON}, "id": 7, "name": "get_weather"}}</tool_call>', [WEATHER]),
    ("hermes", f'<tool_call>{{"type": "function", "function": {OBJECT}}}</tool_call>', [WEATHER]),
    ("hermes", f'<tool_call>{{"name": "get_weather", "arguments": {json.dumps(JSON)}}}</tool_call>', [WEATHER]),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', [NOW]),
    ("hermes", f"<tool_call>{OBJECT}", [WEATHER]),
    ("longcat", f"<longcat_tool_call>{OBJECT}</longcat_tool_call>", [WEATHER]),
    ("granite", f"<|tool_call|>{OBJECTS}", BOTH),
    ("granite-20b-fc", f"<function_call> {OBJECT}", [WEATHER]),
    ("phi4_mini_json", f"functools{OBJECTS}", BOTH),
    ("phi4_mini_json", f"<|tool_call|>{OBJECTS}<|/tool_call|>", BOTH),
    ("internlm", f'<|action_start|><|plugin|>{{"name": "get_weather", "parameters": {JSON}}}<|action_end|>', [WEATHER]),
    ("jamba", f"<tool_calls>{OBJECTS}</tool_calls>", BOTH),
    ("minimax", f'<tool_calls>\n{OBJECT}\n{{"name": "now", "arguments": {{}}}}\n</tool_calls>', BOTH),
    ("nemotron", f"<TOOLCALL>{OBJECTS}</TOOLCALL>", BOTH),
    (
        "cohere_command3",
        f'<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {JSON}}}]<|END_ACTION|>',
        [WEATHER],
    ),
    ("gigachat3", f"function call{OBJECT}", [WEATHER]),
    ("llama3_json", f'{{"name": "get_weather", "parameters": {JSON}}}', [WEATHER]),
    ("llama3_json", f'<|python_tag|>{OBJECT}; {{"name": "now", "parameters": {{}}}}', BOTH),
    ("llama3_json", f"<|python_start|>{OBJECT}<|python_end|>", [WEATHER]),
    ("pythonic", "[get_weather(city='São Paulo', days=3), now()]", BOTH),
    ("llama4_pythonic", '<|python_start|>[get_weather(city="S\\xe3o Paulo", days=3)]<|python_end|>', [WEATHER]),
    ("olmo3", "<function_calls>get_weather(city='São Paulo', days=3)\nnow()</function_calls>", BOTH),
    ("lfm2", '<|tool_call_start|>[get_weather(city="São Paulo", days=3), now()]<|tool_call_end|>', BOTH),
    ("mistral", f"[TOOL_CALLS]{OBJECTS}", BOTH),
    ("mistral", f"[TOOL_CALLS] get_weather[ARGS]{JSON}[TOOL_CALLS]now[ARGS]{{}}", BOTH),
    ("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{JSON}", [WEATHER]),
    ("mistral", f"[TOOL_CALLS]get_weather{JSON}", [WEATHER]),
    (
        "deepseek_v3",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{JSON}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
    ),
    (
        "deepseek_v31",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{JSON}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
    ),
    (
        "deepseek_v32",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">São Paulo</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        BOTH,
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nSão Paulo\n</parameter>\n<parameter=days>\n3\n"
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        BOTH,
    ),
    (
        "qwen3_coder",
        "<function=get_weather><parameter=city>São Paulo</parameter><parameter=days>03</parameter></function>",
        [WEATHER],
    ),
    (
        "seed_oss",
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>São Paulo</parameter>\n"
        "<parameter=days>3</parameter>\n</function>\n</seed:tool_call>",
        [WEATHER],
    ),
    (
        "minimax_m2",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">São Paulo</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        BOTH,
    ),
    (
        "glm45",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>São Paulo</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        BOTH,
    ),
    (
        "glm47",
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>São Paulo</arg_value><arg_key>days</arg_key>"
        "<arg_value>3</arg_value></tool_call>",
        [WEATHER],
    ),
    (
        "kimi_k2",
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{JSON}"
        "<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        BOTH,
    ),
    ("gemma4", '<|tool_call>call:get_weather{city:<|"|>São Paulo<|"|>,days:3}<tool_call|>', [WEATHER]),
    (
        "functiongemma",
        "<start_function_call>call:get_weather{city:<escape>São Paulo<escape>,days:3}<end_function_call>",
        [WEATHER],
    ),
    (
        "openai",
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{JSON}<|call|>"
        "<|start|>assistant<|channel|>commentary to=functions.now<|message|>{}<|call|>",
        BOTH,
    ),
]


def found(text: str, name: str) -> list[tuple[str, object]]:
    said = read_answer(text, reading(name, schemas=SCHEMAS))
    return [(call.name, json.loads(call.arguments)) for call in said.tool_calls]


@pytest.mark.parametrize(("name", "text", "expected"), EXAMPLES)
def test_calls_are_found_whole_and_cut_at_every_place(name: str, text: str, expected: list[tuple[str, object]]) -> None:
    how = reading(name, schemas=SCHEMAS)
    for before in ("", "Let me see.\n\n") if name not in ("llama3_json", "pythonic") else ("",):
        said = read_answer(before + text, how)
        assert [(call.name, json.loads(call.arguments)) for call in said.tool_calls] == expected
        assert said.content == before.strip()
        whole = how.parser()
        whole.push(before + text)
        whole.finish()
        events = merged(whole.take())
        for at in range(len(before + text)):
            parser = how.parser()
            parser.push((before + text)[:at])
            parser.push((before + text)[at:])
            parser.finish()
            assert merged(parser.take()) == events, at


def test_every_convention_has_an_example() -> None:
    assert {BY_NAME[name].name for name, *_ in EXAMPLES} == {form.name for form in FORMATS}


def test_arguments_are_told_while_they_are_written() -> None:
    parser = reading("hermes").parser()
    parser.push('<tool_call>{"name": "write", "arguments": {"text": "Once upon')
    assert merged(parser.take()) == [CallStart(0, "write"), CallArguments(0, '{"text": "Once upon')]
    parser.push(" a time")
    assert parser.take() == [CallArguments(0, " a time")]
    parser = reading("qwen3_coder", schemas={"write": {"properties": {"text": {"type": "string"}}}}).parser()
    parser.push('<tool_call>\n<function=write>\n<parameter=text>\nOnce "upon')
    assert merged(parser.take()) == [CallStart(0, "write"), CallArguments(0, '{"text": "Once \\"upon')]


def test_ids_are_the_models_own_where_it_gives_some() -> None:
    ids = {"kimi_k2": "functions.now:3", "mistral": "abcdefghi"}
    texts = {
        "kimi_k2": "<|tool_call_begin|>functions.now:3<|tool_call_argument_begin|>{}<|tool_call_end|>",
        "mistral": "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}",
    }
    for name, id in ids.items():
        assert [call.id for call in read_answer(texts[name], reading(name)).tool_calls] == [id]
    assert len(BY_NAME["mistral"].id()) == 9
    assert BY_NAME["hermes"].id().startswith("call_")


NO_CALLS = [
    ("hermes", "<tool_call>no JSON</tool_call> after"),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    ("hermes", '<tool_call>{"name": 7, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {bad}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "argum'),
    ("hermes", "a < b <tool <tool_cal"),
    ("hermes", '<tool_call>{"name": "' + "x" * 300 + '", "arguments": {}}</tool_call>'),
    ("llama3_json", '{"name": "unknown", "parameters": {"a": 1}}'),
    ("llama3_json", '{"name": "now", "description": "a tool"}'),
    ("llama3_json", '{"answer": 42}'),
    ("llama3_json", "  [1, 2, 3]  "),
    ("llama3_json", '<|python_tag|>print("hello")'),
    ("pythonic", "[see](http://x.org) and [1, 2]"),
    ("pythonic", "[unknown(a=1)]"),
    ("pythonic", "[now(3)]"),
    ("pythonic", "[now and then]"),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS]not a name\n"),
    ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
    ("glm45", '<tool_call>{"name": "f"}</tool_call>'),
    ("qwen3_coder", "<tool_call>\n<function=f>\n"),
    ("kimi_k2", "<|tool_call_begin|>functions.f:0 {}"),
    ("gemma4", "<|tool_call>call:f[1]<tool_call|>"),
    ("minimax_m2", "<minimax:tool_call><parameter></minimax:tool_call>"),
    ("phi4_mini_json", "import functools\nfunctools.reduce(f, [1])"),
]


@pytest.mark.parametrize(("name", "text"), NO_CALLS)
def test_what_is_no_call_stays_in_the_content_as_it_was(name: str, text: str) -> None:
    said = read_answer(text, reading(name, schemas=SCHEMAS))
    assert said.tool_calls == ()
    assert said.content == text


def test_arguments_that_stop_being_json_keep_what_was_sent_and_leave_the_rest_as_content() -> None:
    said = read_answer('<tool_call>{"name": "f", "arguments": {"a": 1, "b": oops}}</tool_call> x', reading("hermes"))
    assert [call.arguments for call in said.tool_calls] == ['{"a": 1, "b": ']
    assert said.content == "oops}}</tool_call> x"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"a\nb\tc"', "a\nb\tc"),
        (r'"\d+ it\'s"', r"\d+ it's"),
        (r'"\u00e9\ud83c\udf0d\n"', "é🌍\n"),
        (r'"\u12"', r"\u12"),
        ("[1, -2.5e3, true, null, {}, []]", [1, -2500.0, True, None, {}, []]),
        ('{"a": {"b": [{"c": "}"}]}}', {"a": {"b": [{"c": "}"}]}}),
    ],
)
def test_json_that_is_nearly_right_is_made_right(written: str, value: object) -> None:
    assert found(f'<tool_call>{{"name": "f", "arguments": {{"x": {written}}}}}</tool_call>', "hermes") == [
        ("f", {"x": value})
    ]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r"'it\'s \n \x41 \u00e9 \q'", "it's \n A é \\q"),
        ('"a\\\\b"', "a\\b"),
        ("(1, 2.0)", [1, 2.0]),
        ("{'k': [True, None, 'x', false]}", {"k": [True, None, "x", False]}),
        ("-3", -3),
    ],
)
def test_python_values_become_json(written: str, value: object) -> None:
    assert found(f"<function_calls>f(x={written})</function_calls>", "olmo3") == [("f", {"x": value})]


PARTS = [
    *sorted({mark for form in FORMATS for mark in form.marks} | {"</tool_call>", "<think>", "</think>"}),
    *(text for _, text, _ in EXAMPLES),
    *"{}[]()\":,= \n\\'",
    "get_weather",
    "now",
    "true",
    "name",
    "arguments",
    '"name": ',
    "word ",
    "é",
    "42",
]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_text_is_an_error_and_no_cut_changes_anything(data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(PARTS), max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    thinking = data.draw(st.sampled_from(["none", "qwen3", "mistral", "granite", "hunyuan_a13b"]))
    for form in FORMATS:
        how = reading(form.name, thinking, SCHEMAS)
        parsers = [how.parser(), how.parser()]
        parsers[0].push(text)
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            parsers[1].push(text[start:end])
        results = []
        for parser in parsers:
            parser.finish()
            results.append(merged(parser.take()))
        assert results[0] == results[1], form.name


HOSTILE = {
    "open marks": lambda form, size: "".join(form.opens or form.marks[:1] or ("{",)) * (size // 12),
    "half marks": lambda form, size: (form.marks[0][:-1] if form.marks else "{") * (size // 12),
    "brackets": lambda form, size: "".join(form.opens) + '{"name": "now", "arguments": ' + "[" * size,
    "one string": lambda form, size: "".join(form.opens) + '{"name": "now", "arguments": {"a": "' + "x" * size,
    "escapes": lambda form, size: "".join(form.opens) + '{"name": "now", "arguments": {"a": "' + "\\" * size,
    "spaces": lambda form, size: "".join(form.opens) + " " * size,
    "numbers": lambda form, size: "".join(form.opens) + '{"arguments": {"a": [' + "1," * (size // 2),
    "digits": lambda form, size: "".join(form.opens) + '{"arguments": {"a": ' + "1" * size,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_twice_the_text_takes_twice_the_time(form: registry.ToolFormat, kind: str) -> None:
    """R40. The small form; the slow one goes to 1 MiB."""
    assert slowdown(form, kind, 2**13, pieces=64) < 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("form", {type(form.read): form for form in FORMATS}.values(), ids=lambda form: form.name)
def test_a_mebibyte_takes_twice_the_time_of_half_of_it(form: registry.ToolFormat, kind: str) -> None:
    assert slowdown(form, kind, 2**19, pieces=4096) < 2.5


def slowdown(form: registry.ToolFormat, kind: str, size: int, pieces: int) -> float:
    """How much longer twice the text takes: best of three, in pieces of one size."""

    def spent(size: int) -> float:
        text = HOSTILE[kind](form, size)
        best = 1e9
        for _ in range(3):
            parser = reading(form.name, "qwen3", SCHEMAS).parser()
            step = max(1, len(text) // pieces)
            start = time.process_time()
            for at in range(0, len(text), step):
                parser.push(text[at : at + step])
            parser.finish()
            best = min(best, time.process_time() - start)
        return best

    # The floor is what a clock can tell apart.
    return spent(2 * size) / max(spent(size), 2e-3)


def test_random_bytes_of_text_are_content() -> None:
    dice = random.Random(4)
    for form in FORMATS:
        text = "".join(dice.choice("abc <>{}[]\"'\\|=\n") for _ in range(400)).strip()
        said = read_answer(text, reading(form.name, schemas=SCHEMAS))
        assert said.content == text, form.name


TEMPLATES = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("cohere_command3", "cohere_command3"),
    "HuggingFaceTB-SmolLM3-3B": (None, "qwen3"),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "Qwen-Qwen3-0.6B": ("hermes", "qwen3"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("deepseek_v3", "qwen3"),
    "google-gemma-2-2b-it": (None, None),
    "ibm-granite-granite-3.3-2B-Instruct": ("granite", "granite_thinking_parser"),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3_json", None),
    "microsoft-Phi-3.5-mini-instruct": (None, None),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral", None),
    "openai-gpt-oss-120b": ("openai", "openai_gptoss"),
    "vllm-template_alpaca": (None, None),
    "vllm-template_chatml": (None, None),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_parsers_are_found_from_real_chat_templates(name: str, shared_data: object) -> None:
    template = (shared_data / "chat_templates" / f"{name}.jinja").read_text()  # type: ignore[operator]
    form = AnswerFormat.of(template)
    assert (form.tools and form.tools.name, form.reasoning and form.reasoning.name) == TEMPLATES[name]


def test_flags_override_what_the_template_shows() -> None:
    form = AnswerFormat.of("<tool_call> <think>", "mistral", "none")
    assert form.tools is BY_NAME["mistral"]
    assert form.reasoning is None
    assert form.origin == {"tool calls": "mistral (as asked)", "reasoning": "not parsed, as asked"}
    assert AnswerFormat.of("<tool_call>", "none", "none").tools is None
    for names in (("herms", "auto"), ("auto", "qwen")):
        with pytest.raises(StartupError, match="must be auto, none or one of"):
            AnswerFormat.of("", *names)


def test_the_names_that_flags_take_are_those_there_are() -> None:
    assert config.TOOL_CALL_PARSERS == registry.NAMES
    assert config.REASONING_PARSERS == reasoning.NAMES
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    help = parser.format_help()
    assert all(name in help for name in ("--tool-call-parser", "--reasoning-parser", "qwen3_coder", "deepseek_r1"))


def test_special_tokens_are_shown_to_a_parser_that_needs_them_and_to_nobody_else(tmp_path: Path) -> None:
    folder = write_byte_level(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True), AddedToken("<|other|>", special=True)])
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    form = AnswerFormat.of("[TOOL_CALLS]")
    how = form.reading("", [{"type": "function", "function": {"name": "now"}}], form.visible(tokenizer))
    ids = tokenizer.encode("Hi<|other|>[TOOL_CALLS]now{}", add_special_tokens=False)
    said = SequenceOutput(0, SamplingParams(), [], tokenizer, reading=how)
    said.push(TokenDelta(0, ids, finish=Finish("length")))
    output = said.take(delta=False)
    assert (output.text, output.message.content) == ("Hi[TOOL_CALLS]now{}", "Hi")
    assert [call.name for call in output.message.tool_calls] == ["now"]
    plain = SequenceOutput(0, SamplingParams(), [], tokenizer)
    plain.push(TokenDelta(0, ids, finish=Finish("length")))
    assert plain.take(delta=False).text == "Hinow{}"
