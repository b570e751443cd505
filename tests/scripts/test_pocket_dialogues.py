"""What octavo-pocket is taught about extraction, tools and manners is right, fits its splits and its chat template."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from octavo.frontend.answers import AnswerFormat, read_answer
from octavo.frontend.chat import ChatTemplate

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "pocket"))

import extraction  # noqa: E402
import manners  # noqa: E402
import tools  # noqa: E402
from exchange import SPLITS, Draw, Exchange, Split  # noqa: E402

SOURCE = (ROOT / "octavo" / "pocket" / "chat_template.jinja").read_text(encoding="utf-8")
DRAWS: Mapping[str, Draw] = {
    "extraction": extraction.draw,
    "tools": tools.draw,
    "manners": manners.manners,
    "deflection": manners.deflection,
    "memory": manners.memory,
}
TYPES = {"string": str, "integer": int, "number": (int, float)}
HEADER, END = "<|im_start|>assistant\n", "<|im_end|>\n"


@cache
def drawn(skill: str, split: Split) -> list[Exchange]:
    rng = random.Random(f"{skill}:{split}")
    return [DRAWS[skill](rng, split) for _ in range(1000)]


def messages_of(exchange: Exchange) -> list[dict[str, Any]]:
    turns = [(exchange.asked, exchange.told)] if exchange.asked else []
    turns += [*exchange.between, (exchange.question, exchange.answer)]
    messages = [{"role": "system", "content": exchange.system}] if exchange.system else []
    for user, said in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
    return messages


def question_of(exchange: Exchange) -> tuple[str, ...]:
    """Everything that the user says, which is the question when there is but one turn."""
    return exchange.asked, exchange.question


def orders_before(exchange: Exchange) -> list[tuple[str, str]]:
    """The turns of one about tools as `question_of` has them where each is asked alone; a result follows its order."""
    users = [exchange.asked, *(user for user, _ in exchange.between), exchange.question]
    is_result = [user.startswith("<tool_response>") for user in users]
    pairs = zip(["", *users], users, is_result, strict=False)
    return [(before if result else "", user) for before, user, result in pairs] if exchange.tools else []


@pytest.mark.parametrize("split", SPLITS)
def test_extracted_values_stand_in_the_text(split: Split) -> None:
    for exchange in drawn("extraction", split):
        values = json.loads(exchange.answer)
        assert 2 <= len(values) <= 4, exchange
        for key, value in values.items():
            assert key in exchange.question, exchange
            assert value is None or str(value) in exchange.question, exchange
        assert any(value is not None for value in values.values()), exchange


def call_in(text: str) -> dict[str, Any]:
    assert text.startswith("<tool_call>\n") and text.endswith("\n</tool_call>"), text
    return json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))


@pytest.mark.parametrize("split", SPLITS)
def test_calls_fit_the_schema_of_exactly_one_offered_tool(split: Split) -> None:
    count = 0
    for exchange in drawn("tools", split):
        text = exchange.told or exchange.answer
        names = [tool["function"]["name"] for tool in exchange.tools]  # type: ignore[index]
        assert len(set(names)) == len(names) <= 3, exchange
        if not text.startswith("<tool_call>"):
            continue
        call, count = call_in(text), count + 1
        [function] = [tool["function"] for tool in exchange.tools if tool["function"]["name"] == call["name"]]  # type: ignore[index]
        properties = function["parameters"]["properties"]
        required = function["parameters"].get("required", list(properties))
        assert list(call["arguments"]) == required, exchange
        for name, value in call["arguments"].items():
            assert isinstance(value, TYPES[properties[name]["type"]]), exchange
            assert value in properties[name].get("enum", [value]), exchange
            assert str(value) in (exchange.asked or exchange.question), exchange
    assert count > 700


def test_a_sentence_that_no_offered_tool_fits_gets_words() -> None:
    refusals = [each for each in drawn("tools", "train") if each.answer in (tools.NONE, tools.NONE_ZH)]
    assert 60 < len(refusals) < 200
    assert all(each.tools for each in refusals)


@pytest.mark.parametrize("skill", DRAWS)
def test_what_is_held_out_is_not_in_training(skill: str) -> None:
    train = {asked for each in drawn(skill, "train") for asked in (question_of(each), *orders_before(each))}
    for split in ("values", "templates"):
        assert not train & {question_of(each) for each in drawn(skill, split)}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("skill", ["manners", "deflection", "memory"])
def test_answers_hold_their_own_facts(skill: str, split: Split) -> None:
    for exchange in drawn(skill, split):
        assert exchange.facts and exchange.is_right(exchange.answer), exchange


@pytest.mark.parametrize("skill", DRAWS)
def test_the_template_renders_the_answer_as_it_is(skill: str) -> None:
    template = ChatTemplate(SOURCE)
    for exchange in drawn(skill, "train")[:100]:
        messages, offered = messages_of(exchange), list(exchange.tools) or None
        whole = template.render(messages, tools=offered, add_generation_prompt=False).text
        prompt = template.render(messages[:-1], tools=offered).text
        assert whole == prompt + exchange.answer + END
        assert whole.count(HEADER) == sum(message["role"] == "assistant" for message in messages)


def test_a_call_and_its_result_read_and_render_as_they_were_taught() -> None:
    template, form = ChatTemplate(SOURCE), AnswerFormat.of(SOURCE)
    assert form.tools is not None and form.tools.name == "hermes"
    assert form.reasoning is not None and form.reasoning.name == "qwen3"
    seen = 0
    for exchange in drawn("tools", "train")[:300]:
        offered, plain = list(exchange.tools), messages_of(exchange)[:-1]
        chat = list(plain)
        for at, message in enumerate(plain):
            if not message["content"].startswith("<tool_response>"):
                continue
            seen += 1
            reading = form.reading(template.render(plain[: at - 1], tools=offered).text, offered)
            assert reading is not None
            told = plain[at - 1]["content"]
            [call] = read_answer(told, reading).tool_calls
            function = {"name": call.name, "arguments": json.loads(call.arguments)}
            assert function == call_in(told)
            result = message["content"].removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
            chat[at - 1] = {"role": "assistant", "tool_calls": [{"function": function}]}
            chat[at] = {"role": "tool", "content": result}
        assert template.render(chat, tools=offered).text == template.render(plain, tools=offered).text
    assert seen > 20


def test_only_training_asks_of_tools_several_times() -> None:
    assert any(exchange.between for exchange in drawn("tools", "train"))
    for split in ("values", "templates"):
        for exchange in drawn("tools", split):
            assert not exchange.between
            assert bool(exchange.asked) == exchange.question.startswith("<tool_response>")


def test_several_results_stand_in_one_turn_of_the_user() -> None:
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    text = ChatTemplate(SOURCE).render([{"role": "user", "content": "a"}, *results]).text
    expected = (
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
    )
    assert expected in text
