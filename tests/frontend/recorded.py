"""Recorded model outputs as cases: a text and what it says; and which records are left out, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.frontend.answers import AnswerFormat, AnswerReading, Message

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
Calls = list[tuple[str, Any]]
Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One recorded output. None stands for what its test does not look at."""

    name: str
    text: str
    how: AnswerReading
    content: str | None = None
    reasoning: str | None = None
    calls: Calls | None = None
    is_exact: bool = True  # white space at the borders counts

    def check(self, message: Message) -> None:
        """Compare what was read with what was recorded."""
        adjust: Callable[[str], str] = str if self.is_exact else str.strip
        if self.content is not None:
            assert adjust(message.content) == adjust(self.content)
        if self.reasoning is not None:
            assert adjust(message.reasoning) == adjust(self.reasoning)
        if self.calls is not None:
            assert [(call.name, json.loads(call.arguments)) for call in message.tool_calls] == self.calls


@dataclass(frozen=True)
class Pieces(Case):
    """One recorded output whose calls are any text between marks, which must come out as a call or as content.

    Reasoning and content are not told apart. `events` are contents and such texts, in order.
    """

    events: tuple[tuple[str | None, str | None], ...] = ()

    def check(self, message: Message) -> None:
        """Compare what was read with what was recorded, but for marks and white space."""
        found = message.reasoning + message.content.replace("<tool_call>", "").replace("</tool_call>", "")
        names = [call.name for call in message.tool_calls]
        expected = ""
        for content, raw in self.events:
            if raw is not None and names and names[0] in raw:
                names.pop(0)
            else:
                expected += content or raw or ""
        assert not names
        assert "".join(found.split()) == "".join(expected.split())


def reading(
    tools: str = "none",
    reasoning: str = "none",
    schemas: Mapping[str, Mapping[str, Any]] | None = None,
    inside: bool | None = None,
) -> AnswerReading:
    """How the parsers of these names read an answer; `inside` whether it begins inside reasoning, None: as usual."""
    form = AnswerFormat.of("", tools, reasoning)
    if inside is None:
        inside = bool(form.reasoning and form.reasoning.starts and form.reasoning.begins_inside(""))
    return AnswerReading(form.tools, form.reasoning, schemas or {}, inside, frozenset())


def records(path: str) -> list[tuple[str, str, Record]]:
    """Key, file and case of every record: a key is "file/test/name", with a number where that is not enough."""
    found: list[tuple[str, str, Record]] = []
    seen: dict[str, int] = {}
    for record in json.loads((SHARED / path).read_text()):
        file = Path(record["file"]).stem.removeprefix("test_").removesuffix("_test").removesuffix("_parser")
        case = record["case"]
        key = f"{file}/{record['test']}/{record.get('id') or case.get('name') or case.get('desc') or ''}".strip("/")
        seen[key] = seen.get(key, 0) + 1
        found.append((key if seen[key] == 1 else f"{key}/{seen[key]}", file, case))
    return found


def plain(value: Any) -> Any:
    """A recorded value without the marks of Go's types."""
    if isinstance(value, dict):
        return value["args"][0] if value.get("_call") == "int64" else {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def go_calls(calls: list[Record] | None) -> Calls:
    """Calls as Ollama's tests write them."""
    functions = [call["Function"] for call in calls or ()]
    return [(function["Name"], plain(function["Arguments"]) or {}) for function in functions]


# ---- vLLM

VLLM_TOOLS = {
    "gigachat3_tool": "gigachat3",
    "hunyuan_a13b_tool": "hunyuan_a13b",
    "llama4_pythonic_tool": "llama4_pythonic",
    "olmo3_tool": "olmo3",
    "pythonic_tool": "pythonic",
}
VLLM_REASONING = {
    "deepseekr1_reasoning": "deepseek_r1",
    "ernie45_reasoning": "ernie45",
    "glm4_moe_reasoning": "glm45",
    "granite_reasoning": "granite",
    "holo2_reasoning": "holo2",
    "hunyuan_reasoning": "hunyuan_a13b",
    "minimax_m2_append_reasoning": "minimax_m2_append_think",
    "minimax_m2_reasoning": "minimax_m2",
    "mistral_reasoning": "mistral",
    "olmo3_reasoning": "olmo3",
    "qwen3_reasoning": "qwen3",
}
VLLM_LEFT_OUT = {
    "llama4_pythonic_tool/test_tool_call/parallel_calls_streaming": "the recorded text is cut behind its first mark",
}


def vllm_tools() -> Iterator[Case]:
    """Tool calls in vLLM's tests; records without a model's output are not cases."""
    for key, file, case in records("tools/vllm-tool-parser-cases.json"):
        if "model_output" not in case or key in VLLM_LEFT_OUT:
            continue
        calls = [(call["name"], json.loads(call["arguments"])) for call in case["expected_tool_calls"]]
        content = case.get("expected_content") or ""
        yield Case(key, case["model_output"], reading(VLLM_TOOLS[file]), content, "", calls)


def vllm_reasoning() -> Iterator[Case]:
    """Reasoning in vLLM's tests; `subcases` has the others."""
    for key, file, case in records("reasoning/vllm-reasoning-parser-cases.json"):
        found = case.get("param_dict", {})
        if "output" not in found:
            continue
        inside = False if (case.get("chat_template_kwargs") or {}).get("thinking") is False else None
        how = reading(reasoning=VLLM_REASONING[file], inside=inside)
        yield Case(key, found["output"], how, found["content"] or "", found["reasoning"] or "")


def subcases() -> Iterator[tuple[str, Record]]:
    """Two steps of a stream each: what the second adds."""
    for key, _, case in records("reasoning/vllm-reasoning-parser-cases.json"):
        if "delta_text" in case.get("param_dict", {}):
            yield key, case["param_dict"]


# ---- Ollama

OTHERS = "a family that octavo has no parser for"
INTERNAL = "of a function inside Ollama, not of a model's output"
REPAIR = "a malformed call, which Ollama repairs and octavo leaves as content"
PARTIAL = "a call that is cut off: octavo has sent the beginning of it, Ollama drops it"
OUTPUTS = "marks of tool results, which models do not write"
OLLAMA_LEFT_OUT = {
    "glimmer/": OTHERS,
    "laguna/": OTHERS,
    "parsers/": INTERNAL,
    "gemma4/TestGemma4RepairCandidates": REPAIR,
    "gemma4/TestParseGemma4ToolCall_Repairs": REPAIR,
    "gemma4/TestRepair": REPAIR,
    "glm46/TestRepairGLM46XML": REPAIR,
    "glm46/TestGLMToolCallXMLOrderPreservation/reverse order": REPAIR,
    "glm46/TestGLM46ParserRejectsIncompleteToolCallOnDone": PARTIAL,
    "qwen38/": "a call that is cut off before anything is certain, which octavo leaves as content",
    "lfm2/TestLFM2Parser_HasThinkingSupport": INTERNAL,
    "lfm2/TestLFM2Parser_parseToolCallsContent/escaped_quote_in_value": "keeps the backslashes of Python's escapes",
    "ministral/TestFindJSONEnd": INTERNAL,
    "olmo3/TestParseOlmo3Value": INTERNAL,
    "qwen3coder/TestOverlapFunction": INTERNAL,
    "qwen3coder/TestQwenXMLTransform": INTERNAL,
    "qwen3coder/TestTrailingWhitespaceLen": INTERNAL,
    "cogito/TestCogitoParser/tool_output_parsing": OUTPUTS,
    "cogito/TestCogitoParser_parseToolCallContent/missing_json_block_end": "a forgotten fence behind whole arguments",
    "deepseek3/TestDeepSeekParser/tool_output": OUTPUTS,
    "deepseek3/TestDeepSeekParser_EdgeCases/consecutive_tool_calls": "drops a second section of calls",
    "deepseek3/TestDeepSeekParser_EdgeCases/malformed_tool_call_invalid_json": "drops a malformed call's text",
    "deepseek3/TestDeepSeekParser_EdgeCases/partial_think_tag": "drops what might have become a mark",
    "qwen3vl_thinking/TestQwen3VLThinkingParserStreaming/interleaved thinking": "keeps a mark that comes twice",
    "gemma4/TestGemma4Parser/thinking_disabled": "drops reasoning that was not asked for",
}


def left_out(key: str) -> str | None:
    """Why a record is no case."""
    return next((why for prefix, why in OLLAMA_LEFT_OUT.items() if key.startswith(prefix)), None)


def ollama() -> Iterator[Case]:
    """Ollama's records. Its parsers trim white space around content, so that does not count."""
    for key, file, case in records("tools/ollama-parser-cases.json"):
        if left_out(key) is None:
            made = MAKERS[file](key, case)
            yield made


def text_of(case: Record) -> str:
    """The model's output."""
    if "steps" in case:
        return "".join(step["input"] for step in case["steps"])
    chunks = case.get("chunks")
    if chunks and isinstance(chunks[0], dict):
        return "".join(chunk["content"] for chunk in chunks)
    return "".join(chunks) if chunks is not None else case.get("input", "")


def simple(tools: str, reasoning: str, inside: Callable[[Record], bool | None]) -> Callable[[str, Record], Case]:
    """Cases with expectedContent, expectedThinking and expectedCalls."""

    def make(key: str, case: Record) -> Case:
        named = next((name for name in ("expectedCalls", "expectedToolCalls") if name in case), None)
        calls = go_calls(case[named]) if named else None
        how = reading(tools, reasoning, inside=inside(case))
        content = case.get("expectedContent", case.get("expectedText"))
        return Case(key, text_of(case), how, content, case.get("expectedThinking"), calls, is_exact=False)

    return make


def deepseek(key: str, case: Record) -> Case:
    if "parseToolCallContent" not in key:
        thinks = bool(case.get("hasThinking") or case.get("hasThinkingSupport") or case.get("expectedThinking"))
        return simple("deepseek_v3", "deepseek_r1", lambda _: thinks)(key, case)
    text = f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{case['content']}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    calls = [] if case.get("expectError") else go_calls([case["expected"]])
    return Case(key, text, reading("deepseek_v3"), None, None, calls)


def gemma4(key: str, case: Record) -> Case:
    if "ArgsToJSON" in key:
        text = f"<|tool_call>call:f{case['input']}<tool_call|>"
        return Case(key, text, reading("gemma4"), "", None, [("f", json.loads(case["expected"]))])
    return simple("gemma4", "gemma4", lambda _: None)(key, case)


def glm(key: str, case: Record) -> Case:
    if "wantKeys" in case:
        calls = [("function_name", dict(zip(case["wantKeys"], case["wantValues"], strict=True)))]
        return Case(key, case["xml"], reading("glm45"), "", "", calls)
    if "Finalizes" in key:
        return Case(key, text_of(case), reading("glm45"), "", "", [("grep", {"pattern": "needle", "path": "."})])
    return streamed("glm45", "glm45")(key, case)


def lfm2(key: str, case: Record) -> Case:
    if "parseToolCall" not in key:
        reasoning = "lfm2" if case.get("hasThinking") else "none"
        return simple("lfm2", reasoning, lambda _: None)(key, case)
    text = case["content"]
    if not text.startswith("<|"):
        text = f"<|tool_call_start|>[{text}]<|tool_call_end|>"
    expected = case.get("expected")
    calls = go_calls(expected if isinstance(expected, list) else [expected]) if expected else []
    return Case(key, text, reading("lfm2"), None, None, calls)


def olmo3(key: str, case: Record) -> Case:
    if "FunctionCalls" not in key:
        return simple("olmo3", "none", lambda _: None)(key, case)
    return Case(
        key,
        f"<function_calls>{case['input']}</function_calls>",
        reading("olmo3"),
        None,
        None,
        go_calls(case["expected"]),
    )


def ministral(key: str, case: Record) -> Case:
    events = [event for step in case["steps"] for event in step["wantEvents"]]
    return Case(
        key,
        text_of(case),
        reading("mistral", "mistral", inside=bool(case.get("think"))),
        "".join(event.get("content", "") for event in events),
        "".join(event.get("thinking", "") for event in events),
        [(event["name"], json.loads(event["args"])) for event in events if "name" in event],
        is_exact=False,
    )


def streamed(tools: str, reasoning: str, inside: bool | None = None) -> Callable[[str, Record], Case]:
    """Cases of a stream, with the events of each step."""

    def make(key: str, case: Record) -> Case:
        is_inside = False if "NonThinkingPrefill" in key else inside
        events = tuple(
            (event.get("content"), event.get("raw")) for step in case["steps"] for event in step["wantEvents"]
        )
        return Pieces(key, text_of(case), reading(tools, reasoning, inside=is_inside), events=events)

    return make


def qwen3_coder(key: str, case: Record) -> Case:
    if "paramType" not in case:
        return streamed("qwen3_coder", "none")(key, case)
    text = f"<tool_call>\n<function=f>\n<parameter=p>{case['raw']}</parameter>\n</function>\n</tool_call>"
    kinds = case["paramType"]
    schema = {"properties": {"p": {"type": kinds[0] if len(kinds) == 1 else kinds} if kinds else {}}}
    return Case(key, text, reading("qwen3_coder", schemas={"f": schema}), "", "", [("f", {"p": case["want"]})])


MAKERS: dict[str, Callable[[str, Record], Case]] = {
    "cogito": deepseek,
    "cohere": lambda key, case: Case(key, case["chunk"], reading("cohere", "cohere"), "The answer is 42.", "", []),
    "deepseek3": deepseek,
    "functiongemma": simple("functiongemma", "none", lambda _: None),
    "gemma4": gemma4,
    "glm46": glm,
    "lfm2": lfm2,
    "ministral": ministral,
    "nemotron3nano": simple("qwen3_coder", "qwen3", lambda case: case["thinkValue"]["Value"]),
    "olmo3": olmo3,
    "olmo3_think": simple("olmo3", "olmo3", lambda _: True),
    "qwen3coder": qwen3_coder,
    "qwen3vl_nonthinking": streamed("hermes", "none"),
    "qwen3vl_thinking": streamed("hermes", "deepseek_r1"),
}
