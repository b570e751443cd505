"""Exchanges as token ids, through the chat template that serving uses, and packed into rows for training."""

from __future__ import annotations

import json
import random
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

    def row(self, rng: random.Random, length: int) -> tuple[list[int], list[int]]:
        """Inputs and targets [length] of joined documents, so that later ones see long contexts."""
        ids: list[int] = []
        learned: list[bool] = []
        while len(ids) <= length:
            more, mask = self.document(rng)
            ids += more
            learned += mask
        targets = [i if keep else IGNORED for i, keep in zip(ids[1 : length + 1], learned[1 : length + 1], strict=True)]
        return ids[:length], targets


def without_working(exchange: Exchange) -> str:
    """The answer alone, where the exchange shows its working in front of it."""
    return exchange.answer.removeprefix(exchange.thought).lstrip()


@dataclass(frozen=True)
class Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Batch k of a run: ids and targets [rows, length], a function of the seed and k alone, so that a run can go on.

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

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        rng = random.Random(f"{self.seed}:{k}")
        length = self.context if k % self.long_every == self.long_every - 1 else self.length
        rows = [self.encoder.row(rng, length) for _ in range(max(1, self.tokens // length))]
        return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
