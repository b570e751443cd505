"""What octavo-pocket is taught: every draw is right, and what is held out stays out of training."""

from __future__ import annotations

import importlib
import random
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "pocket"))
SPLITS = ("train", "values", "templates")
DRAWS = 2000


@cache
def drawn(skill: str, split: str) -> list[Any]:
    """Exchanges of a module of scripts/pocket, whose neighbors are found as when it runs as a script."""
    rng = random.Random(f"{skill} {split}")
    draw = importlib.import_module(skill).draw
    return [draw(rng, split) for _ in range(3 * DRAWS if split == "train" else DRAWS)]


def asked_numbers(question: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", question)]


def operation(thought: str) -> str:
    """The sign of a working, from the operands it restates: "345+278:"."""
    return re.findall(r"\d+([+\-×÷])\d+[:=]", thought)[0]


def equations(thought: str) -> list[str]:
    """The equations of a working; "4×7=28+3=31" goes on with its product and means "4×7=28" and "28+3=31"."""
    thought = re.sub(r"(\d×\d)=(\d\d)\+(\d)=(\d\d)", r"\1=\2 \2+\3=\4", thought)
    steps = [step.rstrip(":") for step in re.split(r"[.。]? |[.。]", thought)]
    return [step for step in steps if re.fullmatch(r"[-+×÷\d]+=[-+×÷\d]+", step)]


@cache
def value(terms: str) -> int:
    return eval(re.sub(r"\b0+(?=\d)", "", terms).replace("×", "*").replace("÷", "//"))


def check_steps(thought: str) -> None:
    """Both sides of every equation are the same; a borrow stands as the ten of its digit."""
    found = equations(thought)
    assert found, thought
    for equation in found:
        left, right = equation.split("=")
        assert value(left) == value(right), (equation, thought)


@pytest.mark.parametrize("name", ["arithmetic", "units", "sentiment", "stories"])
def test_training_never_shows_what_is_held_out(name: str) -> None:
    trained = {exchange.question for exchange in drawn(name, "train")}
    for split in ("values", "templates"):
        assert not trained & {exchange.question for exchange in drawn(name, split)}


@pytest.mark.parametrize("split", SPLITS)
def test_a_calculation_ends_in_its_result_and_every_step_holds(split: str) -> None:
    compute = {"+": int.__add__, "-": int.__sub__, "×": int.__mul__}
    for exchange in drawn("arithmetic", split):
        assert exchange.answer.startswith(f"{exchange.thought} "), exchange
        said = exchange.answer[len(exchange.thought) + 1 :]
        assert re.fullmatch(r"The answer is -?\d+\.|答案是-?\d+。", said), exchange
        result = int(re.findall(r"-?\d+", said)[0])
        first, second = asked_numbers(exchange.question)
        sign = operation(exchange.thought)
        # Some wordings name the second operand first: "subtract 3 from 5".
        assert any(
            compute[sign](x, y) == result if sign in compute else y and x == y * result
            for x, y in ((first, second), (second, first))
        ), exchange
        check_steps(exchange.thought)


def test_each_operation_is_asked_in_the_order_its_wording_means() -> None:
    backwards = (
        "from", "less than", "fewer", "below", " off ", "take", "Take", "gives", "giving", "hand", "at first",
        "of the", "of our", "of debt", "out of", "更", "弄丢了",
    )  # fmt: skip
    for exchange in drawn("arithmetic", "train"):
        first, second = asked_numbers(exchange.question)
        if operation(exchange.thought) == "-" and not any(word in exchange.question for word in backwards):
            assert re.search(rf"(is |是){first - second}[.。]", exchange.answer), exchange


@pytest.mark.parametrize(
    ("a", "sign", "b", "steps"),
    [
        (345, "+", 278, "345+278: 5+8=13 4+7+1=12 3+2+1=06."),
        (7, "+", 98, "07+98: 7+8=15 0+9+1=10."),
        (345, "-", 278, "3>2 345-278: 15-8=7 14-7-1=6 03-2-1=0."),
        (278, "-", 345, "2<3 345-278: 15-8=7 14-7-1=6 03-2-1=0."),
        (55, "-", 55, "5=5 5=5 55-55: 05-5=0 05-5-0=0."),
        (7, "×", 345, "345×7: 5×7=35 4×7=28+3=31 3×7=21+3=24."),
        (34, "×", 27, "34×27: 4×7=28 3×7=21+2=23 4×2=08 3×2=06+0=06 238+0680: 3+8=11 2+6+1=09 0+0+0=00."),
        (861, "÷", 7, "861÷7: 08=7×1+1 16=7×2+2 21=7×3+0."),
        (840, "÷", 40, "840÷40=84÷4: 08=4×2+0 04=4×1+0."),
    ],
)
def test_the_working_is_written_column_by_column(a: int, sign: str, b: int, steps: str) -> None:
    assert importlib.import_module("arithmetic").Task(a, sign, b).working == steps


@pytest.mark.parametrize("split", SPLITS)
def test_a_conversion_multiplies_by_its_factor(split: str) -> None:
    for exchange in drawn("units", split):
        assert exchange.answer.startswith(f"{exchange.thought} "), exchange
        said = exchange.answer[len(exchange.thought) + 1 :]
        number, result = (int(each) for each in re.findall(r"-?\d+", said))
        assert str(number) in exchange.question
        if "°C" in said:
            celsius, fahrenheit = (number, result) if said.index("°C") < said.index("°F") else (result, number)
            assert fahrenheit * 5 == celsius * 9 + 160
        else:
            factor = int(re.findall(r"= ?(\d+)", exchange.thought)[0])
            assert max(number, result) == factor * min(number, result), exchange
            check_steps(exchange.thought)


@pytest.mark.parametrize("split", SPLITS)
def test_a_sentiment_is_one_of_three_words_and_each_is_as_frequent(split: str) -> None:
    answers = [exchange.answer for exchange in drawn("sentiment", split)]
    words = {"positive": "正面", "negative": "负面", "neutral": "中性"}
    assert set(answers) == {*words, *words.values()}
    for english, chinese in words.items():
        assert 0.25 < (answers.count(english) + answers.count(chinese)) / len(answers) < 0.42


def test_every_held_out_word_of_sentiment_is_known_from_training() -> None:
    draw = importlib.import_module("sentiment").draw

    def words(split: str, count: int) -> set[str]:
        rng = random.Random(f"words of {split}")
        questions = (draw(rng, split).question.lower() for _ in range(count))
        return {word for question in questions for word in re.findall(r"[a-z][a-z'-]+", question)}

    assert not (words("values", 1000) | words("templates", 1000)) - words("train", 60_000)


@pytest.mark.parametrize("split", SPLITS)
def test_a_story_names_its_hero_and_ends(split: str) -> None:
    for exchange in drawn("stories", split):
        name = exchange.facts[0][0]
        assert name in exchange.question
        assert exchange.is_right(exchange.answer)
        assert exchange.answer.endswith(("The end.", "完。"))
        assert "{" not in exchange.question + exchange.answer


def test_no_blind_question_is_trained() -> None:
    # `blind` raises ValueError for one that is trained, held out or written twice.
    facts = importlib.import_module("facts")
    assert len(facts.blind()) == 3 * len(facts.load())


def test_rows_hold_whole_documents_and_learn_what_they_say() -> None:
    encoding = importlib.import_module("encoding")
    rng = random.Random(4)
    drawn: list[list[int]] = []

    def draw() -> tuple[list[int], list[bool]]:
        count = 80 if rng.random() < 0.05 else rng.randint(3, 30)  # 80: longer than a row
        begin = 1 + 1000 * len(drawn)
        drawn.append(list(range(begin, begin + count)))
        return drawn[-1], [at >= count // 2 for at in range(count)]

    ids, targets, weights = encoding.packed(draw, 40, 64)
    assert ids.shape == targets.shape == weights.shape == (40, 64)
    assert (targets[:, :-1][weights[:, :-1] > 0] == ids[:, 1:][weights[:, :-1] > 0]).all()
    assert (targets[weights == 0] == encoding.IGNORED).all()
    seen = [document for document in drawn if document[0] in set(ids.flatten().tolist())]
    assert len(seen) >= len(drawn) - encoding.TRIES
    for document in seen:
        row, at = (int(each) for each in (ids == document[0]).nonzero()[0])
        there = document[: 64 - at] if at == 0 else document[:64]
        assert ids[row, at : at + len(document)].tolist() == there[: 64 - at]
        assert at == 0 or at + len(document) <= 65
        half, end = at + len(document) // 2 - 1, min(64, at + len(document) - 1)
        assert (weights[row, half:end] > 0).all() and (weights[row, at:half] == 0).all()
    assert float((ids > 0).float().mean()) > 0.8
