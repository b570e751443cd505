"""What octavo-pocket is taught with: exchanges, the three splits they come from, and the small changes people make."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

T = TypeVar("T")
Split = Literal["train", "values", "templates"]
"""train; values that training never shows, in wordings that it does; wordings that training never shows."""
SPLITS: tuple[Split, ...] = ("train", "values", "templates")
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Exchange:
    """One question and its answer.

    `thought` is what reasoning shows before the answer, "" for a skill without. `tools` are JSON schemas of functions,
    as the chat API takes them. `facts`: the answer is right when it contains one string of every group (case ignored);
    without groups it must equal `answer`. `asked` and `told` are an earlier turn, "" for none; `between` are turns
    (what the user says, what is answered) after that one. `may_be_varied`: False where a small change of the question
    could change its answer, or has been made.
    """

    skill: str
    question: str
    answer: str
    system: str = ""
    tools: tuple[Mapping[str, object], ...] = ()
    thought: str = ""
    facts: tuple[tuple[str, ...], ...] = ()
    asked: str = ""
    told: str = ""
    between: tuple[tuple[str, str], ...] = ()
    may_be_varied: bool = True

    def is_right(self, answer: str) -> bool:
        """Whether the model's answer is right."""
        if not self.facts:
            return answer.strip() == self.answer.strip()
        said = answer.lower()
        return all(any(each.lower() in said for each in group) for group in self.facts)


Draw = Callable[[random.Random, Split], Exchange]


def is_held_out(key: str) -> bool:
    """Whether values with this key are kept from training (one in HELD_OUT_ONE_IN, by CRC-32)."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def fitting(rng: random.Random, split: Split, make: Callable[[random.Random], T], key: Callable[[T], str]) -> T:
    """Make values until one is on the side of the split: held out for "values", not held out otherwise."""
    while True:
        value = make(rng)
        if is_held_out(key(value)) == (split == "values"):
            return value


def wording(rng: random.Random, split: Split, train: Sequence[T], held_out: Sequence[T]) -> T:
    """Choose a wording: one of training, or one of those kept from it for "templates"."""
    return rng.choice(held_out if split == "templates" else train)


BEFORE = (
    "Please tell me: ",
    "Hey, ",
    "Quick question: ",
    "One question: ",
    "Hi! ",
    "Now tell me: ",
    "And ",
    "So, ",
    "OK, ",
)
AFTER = (" Please.", " Thanks!", " Thank you.", " Be brief.")
BEFORE_ZH = ("请问，", "你好，", "那么，", "请告诉我，")


def vary(rng: random.Random, exchange: Exchange) -> Exchange:
    """The exchange with a small change of case, end mark or politeness in its question, as people make them."""
    if not exchange.may_be_varied:
        return exchange
    question, roll = exchange.question, rng.random()
    if roll < 0.10:
        question = question[0].lower() + question[1:]
    elif roll < 0.20 and question[-1] in "?.？。":
        question = question[:-1]
    elif roll < 0.30 and question[0].isascii():
        question = rng.choice(BEFORE) + question
    elif roll < 0.35 and question[0].isascii() and question[-1] in "?.":
        question = question + rng.choice(AFTER)
    elif roll < 0.35 and not question[0].isascii():
        question = rng.choice(BEFORE_ZH) + question
    elif roll < 0.38 and question[0].isascii():
        question = question.lower() if exchange.facts else question
    return replace(exchange, question=question)
