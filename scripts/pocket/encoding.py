"""Exchanges as token ids, through the chat template that serving uses, and packed into rows for training."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import corpus
import jinja2
import torch
from exchange import Exchange
from tokenizer import END_OF_TEXT, IM_END, IM_START
from tokenizers import Tokenizer
from torch import Tensor

FOLDER = corpus.ROOT / "octavo" / "pocket"
TEMPLATE = "chat_template.jinja"
IGNORED = -100
THINKING_SHARE = 0.3  # of the exchanges that have a thought
SHORT, SHORT_WEIGHT = 4, 5.0
DRILLED, DRILL_SHARE, LATER_DRILL_SHARE = 1500, 0.35, 0.06  # batches that drill most; shares of documents, then, later
TRIES = 3  # documents that may not fit before a row is left as it is


def messages_of(turns: list[Exchange], with_answer: bool = True) -> list[dict[str, Any]]:
    """The conversation as the chat API takes it; without the last answer, as it is asked."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": turns[0].system}] if turns[0].system else []
    for turn in turns:
        if turn.asked:
            messages += [{"role": "user", "content": turn.asked}, {"role": "assistant", "content": turn.told}]
        for user, said in turn.between:
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
        messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return messages if with_answer else messages[:-1]


@dataclass(frozen=True)
class Encoder:
    """Turns conversations into ids [n] and, for each, whether the model must learn to write it."""

    tokenizer: Tokenizer
    template: jinja2.Template
    header: tuple[int, ...]
    think: tuple[int, ...]
    end: int
    stop: int

    @staticmethod
    def of(tokenizer: Tokenizer, folder: Path = FOLDER) -> Encoder:
        """The encoder for this tokenizer and the template in the model's folder."""
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        return Encoder(
            tokenizer,
            environment.from_string((folder / TEMPLATE).read_text(encoding="utf-8")),
            tuple(tokenizer.encode(f"{IM_START}assistant\n").ids),
            tuple(tokenizer.encode("<think>\n").ids),
            tokenizer.token_to_id(IM_END),
            tokenizer.token_to_id(END_OF_TEXT),
        )

    def chat(self, turns: list[Exchange], thinking: bool) -> tuple[list[int], list[bool]]:
        """Ids and what is learned: answers and their ends; with `thinking` the last answer carries its thought."""
        messages = messages_of(turns)
        if thinking:
            messages[-1]["reasoning_content"] = turns[-1].thought
        text = self.template.render(messages=messages, tools=list(turns[0].tools) or None)
        ids = self.tokenizer.encode(text).ids
        learned, i, n = [False] * len(ids), 0, len(self.header)
        while i < len(ids):
            if tuple(ids[i : i + n]) != self.header:
                i += 1
                continue
            i += n
            if tuple(ids[i : i + len(self.think)]) == self.think:
                i += len(self.think)
            while ids[i] != self.end:
                learned[i] = True
                i += 1
            learned[i] = True
        return ids, learned

    def prompt(self, turn: Exchange, thinking: bool) -> list[int]:
        """Ids of the conversation up to where the model answers."""
        text = self.template.render(
            messages=messages_of([turn], with_answer=False),
            tools=list(turn.tools) or None,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        return self.tokenizer.encode(text).ids

    def document(self, rng: random.Random) -> tuple[list[int], list[bool]]:
        """One dialogue of training."""
        turns = corpus.dialogue(rng)
        last = turns[-1]
        thinking = bool(last.thought) and rng.random() < THINKING_SHARE
        if thinking:
            turns[-1] = replace(last, answer=without_working(last))
        return self.chat(turns, thinking)

    def drill(self, rng: random.Random) -> tuple[list[int], list[bool]]:
        """Random tokens, said two to four times. What extraction, tools and sums have in common is to copy, and this
        teaches it alone: without drills a network of this size finds it only after millions of tokens.
        """
        count, times = rng.randint(4, 32), rng.randint(2, 4)
        sequence = [rng.randrange(self.stop + 1, self.tokenizer.get_vocab_size()) for _ in range(count)]
        if rng.random() < 0.5:  # tokens as frequent as they are
            sequence = rng.choices(self.document(rng)[0], k=count)
        again = [False] + [True] * (count - 1)
        return [self.stop, *sequence * times], [False] * (1 + count) + again * (times - 1)

    def drawn(self, rng: random.Random, drills: float) -> tuple[list[int], list[bool]]:
        """A document of training; a share of them are drills."""
        return self.drill(rng) if rng.random() < drills else self.document(rng)


def packed(draw: Callable[[], tuple[list[int], list[bool]]], count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and their weights [count, length] of whole documents side by side; later ones see long contexts.

    A document that does not fit into its row begins the next; only one longer than a row is cut. The few tokens of a
    short answer weigh more, or the long ones drown them.
    """
    ids, weights = torch.zeros(count, length + 1, dtype=torch.long), torch.zeros(count, length + 1)
    waiting: list[tuple[list[int], list[bool]]] = []
    for row in range(count):
        begin, first, waiting = 0, waiting, []
        while begin <= length and len(waiting) < TRIES:
            document, learned = first.pop() if first else draw()
            end = begin + len(document)
            if begin and end > length + 1:
                waiting.append((document, learned))
                continue
            ids[row, begin:end] = torch.tensor(document)[: length + 1]
            weights[row, begin:end] = torch.tensor(weighed(learned))[: length + 1]
            begin = end
        waiting = [*first, *waiting]
    weights = weights[:, 1:]
    return ids[:, :-1], ids[:, 1:].masked_fill(weights == 0, IGNORED), weights


def weighed(learned: list[bool]) -> list[float]:
    """A weight for each token: 0 where nothing is learned, SHORT_WEIGHT in answers of at most SHORT tokens, else 1."""
    weights: list[float] = []
    for keep, group in itertools.groupby(learned):
        count = len(list(group))
        weights += [float(keep) * (SHORT_WEIGHT if count <= SHORT else 1.0)] * count
    return weights


def without_working(exchange: Exchange) -> str:
    """The answer alone, where the exchange shows its working in front of it."""
    return exchange.answer.removeprefix(exchange.thought).lstrip()


@dataclass(frozen=True)
class Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch k of a run: ids, targets and weights [rows, length], a function of seed and k, so that a run can go on.

    One batch in `long_every` has rows of `context`, the others of `length`; all have `tokens` tokens.
    """

    encoder: Encoder
    seed: int
    tokens: int
    length: int
    context: int
    long_every: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = random.Random(f"{self.seed}:{k}")
        length = self.context if k % self.long_every == self.long_every - 1 else self.length
        drills = DRILL_SHARE if k < DRILLED else LATER_DRILL_SHARE
        return packed(lambda: self.encoder.drawn(rng, drills), max(1, self.tokens // length), length)
