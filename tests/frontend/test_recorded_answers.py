"""Recorded model outputs of every family that has a parser, whole and cut at every place."""

from __future__ import annotations

import pytest

from octavo.frontend.answers import merged, message, read_answer

from .recorded import (
    OLLAMA_LEFT_OUT,
    SHARED,
    VLLM_LEFT_OUT,
    Case,
    left_out,
    ollama,
    reading,
    records,
    subcases,
    vllm_reasoning,
    vllm_tools,
)

if not SHARED.is_dir():
    pytest.skip("needs recorded cases in ../shared/data beside the checkout", allow_module_level=True)

CASES = [*vllm_tools(), *vllm_reasoning(), *ollama()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recorded_answer_is_read_as_recorded(case: Case) -> None:
    case.check(read_answer(case.text, case.how))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_place_of_a_cut_changes_nothing(case: Case) -> None:
    whole = case.how.parser()
    whole.push(case.text)
    whole.finish()
    expected = merged(whole.take())
    for at in range(len(case.text) + 1):
        parser = case.how.parser()
        parser.push(case.text[:at])
        parser.push(case.text[at:])
        parser.finish()
        assert merged(parser.take()) == expected, f"cut at {at}"
    parser = case.how.parser()
    events = []
    for char in case.text:
        parser.push(char)
        events += parser.take()
    parser.finish()
    assert merged(events + parser.take()) == expected


@pytest.mark.parametrize(("key", "case"), list(subcases()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_step_of_a_stream_adds_what_was_recorded(key: str, case: dict[str, str]) -> None:
    parser = reading(reasoning="granite").parser()
    parser.push(case["previous_text"])
    parser.take()
    parser.push(case["delta_text"])
    said = message(parser.take())
    assert (said.content, said.reasoning) == (case["content"] or "", case["reasoning"] or "")


def test_a_prompt_that_ends_inside_an_answer_says_whether_it_is_still_reasoning() -> None:
    record = next(case for key, _, case in records("reasoning/vllm-reasoning-parser-cases.json") if "prompt" in case)
    form = reading(reasoning="glm45").reasoning
    assert form is not None
    assert form.begins_inside(record["prompt"], is_continued=True) is not record["is_reasoning_end"]


def test_what_is_left_out_is_there_and_all_else_is_covered() -> None:
    keys = [key for key, *_ in records("tools/ollama-parser-cases.json")]
    assert all(any(key.startswith(prefix) for key in keys) for prefix in OLLAMA_LEFT_OUT)
    assert VLLM_LEFT_OUT.keys() <= {key for key, *_ in records("tools/vllm-tool-parser-cases.json")}
    covered = {case.name for case in CASES}
    assert [key for key in keys if left_out(key) is None and key not in covered] == []
    assert len(CASES) > 200
