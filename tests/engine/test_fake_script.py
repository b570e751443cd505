"""A fake device that is told what to answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from octavo.engine.executors.fake import FakeOptions, parse_options
from octavo.errors import StartupError

LONG = SamplingParams(max_tokens=200, temperature=0)


def answers(device: str, *prompts: str, params: SamplingParams = LONG) -> list[tuple[str, str | None]]:
    with LLM(device=device) as llm:
        outputs = llm.generate(list(prompts), params, use_tqdm=False)
        return [(output.outputs[0].text, output.outputs[0].finish_reason) for output in outputs]


def test_every_sequence_answers_the_text_and_ends() -> None:
    text = 'Ünë, dos=3 <tool_call>{"name": "f"}</tool_call> 🌍'
    assert answers(f"fake:low=3,high=97,say={text}", "a", "b") == [(text, "stop")] * 2


def test_a_file_says_which_text_answers_which_prompt(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"": "anything", "Paris": "call", "18 degrees": "answer"}))
    asked = ["none", "in Paris?", "in Paris? call 18 degrees", "18 degrees in Paris"]
    expected = ["anything", "call", "answer", "call"]
    assert [text for text, _ in answers(f"fake:say=@{path}", *asked)] == expected


def test_without_an_end_hashes_follow() -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    (text, reason), *_ = answers("fake:low=3,high=97,say=Hi!", "a", params=params)
    assert text.startswith("Hi!")
    assert len(text) > 3
    assert reason == "length"


def test_the_text_takes_the_rest_of_the_device_string() -> None:
    assert parse_options("fake:step_ms=2,say=a,say=b,c=d") == FakeOptions(step_ms=2, say="a,say=b,c=d")
    assert parse_options("fake:say=") == FakeOptions()


def test_a_script_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    for name, said in (("absent.json", "cannot read"), ("list.json", "must hold a JSON object of texts")):
        with pytest.raises(StartupError, match=said):
            LLM(device=f"fake:say=@{tmp_path / name}")
