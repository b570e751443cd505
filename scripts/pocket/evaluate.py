"""Score octavo-pocket on held-out questions, with octavo itself, and compare its greedy answers with Transformers'.

python scripts/pocket/evaluate.py                              # the model in the package: the table of its card
python scripts/pocket/evaluate.py --model /tmp/pocket --count 50
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import corpus
import torch
from encoding import FOLDER, IGNORED, Encoder, without_working
from exchange import Exchange, Split
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from octavo import LLM, SamplingParams

HELD_OUT: tuple[Split, ...] = ("values", "templates")
NAMES = {"values": "new values", "templates": "new wordings"}
WANTED = {"arithmetic": 0.98, "extraction": 0.95, "tools": 0.95, "facts": 0.90, "sentiment": 0.98}
MAX_TOKENS = 160
NUM_COMPARED = 64


@dataclass(frozen=True)
class Asked:
    """A held-out exchange and how the model answered it."""

    exchange: Exchange
    answer: str

    @property
    def is_right(self) -> bool:
        """Whether it is the right answer."""
        return self.exchange.is_right(self.answer)


def held_out(skill: str, split: Split, count: int, seed: int) -> list[Exchange]:
    """Up to `count` exchanges of a split, no question twice."""
    rng = random.Random(f"{seed} {skill} {split}")
    drawn: dict[object, Exchange] = {}
    for _ in range(20 * count):
        exchange = corpus.SKILLS[skill].draw(rng, split)
        drawn.setdefault((exchange.asked, exchange.question, repr(exchange.tools)), exchange)
        if len(drawn) == count:
            break
    return list(drawn.values())


def ask(llm: LLM, encoder: Encoder, exchanges: list[Exchange], thinking: bool = False) -> list[Asked]:
    """The model's greedy answers; with `thinking`, what it says after its thought."""
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, skip_special_tokens=False)
    prompts = [{"prompt_token_ids": encoder.prompt(exchange, thinking)} for exchange in exchanges]
    outputs = llm.generate(prompts, params, use_tqdm=False)  # type: ignore[arg-type]
    answers = [clean(output.outputs[0].text, thinking) for output in outputs]
    return [Asked(exchange, answer) for exchange, answer in zip(exchanges, answers, strict=True)]


def clean(text: str, thinking: bool) -> str:
    """The answer without its end mark and, with `thinking`, without its thought."""
    text = text.split("<|im_end|>")[0]
    return text.rpartition("</think>")[2].strip() if thinking else text.strip()


@torch.inference_mode()
def perplexity(model: Any, encoder: Encoder, exchanges: list[Exchange]) -> float:
    """Of the answers' tokens, by Transformers in float32."""
    total, count = 0.0, 0
    for exchange in exchanges:
        ids, learned = encoder.chat([exchange], thinking=False)
        targets = torch.tensor([i if keep else IGNORED for i, keep in zip(ids, learned, strict=True)])[1:]
        logits = model(torch.tensor([ids])).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum").item()
        count += int((targets != IGNORED).sum())
    return math.exp(total / count)


@torch.inference_mode()
def agreement(llm: LLM, model: Any, prompts: list[list[int]]) -> int:
    """How many greedy continuations of prompts, 64 tokens each, are Transformers' in every token."""
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    ours = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    same = 0
    for ids, output in zip(prompts, ours, strict=True):
        theirs = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        same += theirs[0, len(ids) :].tolist() == list(output.outputs[0].token_ids)
    return same


def main() -> None:
    """Ask, judge, print the table, and save it for the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--count", type=int, default=300, help="questions per skill and split")
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--only", help="skills to ask, separated by commas; by default all")
    parser.add_argument("--wrong", type=int, default=0, help="show that many wrong answers of each row")
    parser.add_argument("--json", type=Path, help="also write the scores here")
    options = parser.parse_args()
    console = Console()
    encoder = Encoder.of(Tokenizer.from_file(str(options.model / "tokenizer.json")), options.model)
    oracle = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    table = Table("skill", "held out", "asked", "right", "share", "wanted", "perplexity", title="octavo-pocket")
    scores: list[dict[str, Any]] = []
    with LLM(str(options.model), dtype="float32", max_num_seqs=32, use_tqdm_on_load=False) as llm:
        for skill in corpus.SKILLS if options.only is None else options.only.split(","):
            for split in HELD_OUT:
                exchanges = held_out(skill, split, options.count, options.seed)
                rows = [("", exchanges, False)]
                if skill == "arithmetic":
                    rows.append((", reasoning", [replace(e, answer=without_working(e)) for e in exchanges], True))
                for suffix, questions, thinking in rows:
                    asked = ask(llm, encoder, questions, thinking)
                    right = sum(each.is_right for each in asked)
                    score = {"skill": skill + suffix, "split": NAMES[split], "asked": len(asked), "right": right}
                    score["perplexity"] = None if thinking else round(perplexity(oracle, encoder, questions), 3)
                    scores.append(score)
                    wanted = f"{100 * WANTED[skill]:.0f} %" if skill in WANTED else ""
                    shown = "" if thinking else f"{score['perplexity']:.3f}"
                    share = f"{100 * right / len(asked):.1f} %"
                    table.add_row(skill + suffix, NAMES[split], str(len(asked)), str(right), share, wanted, shown)
                    for each in [each for each in asked if not each.is_right][: options.wrong]:
                        console.print(
                            f"[dim]{each.exchange.question!r} -> {each.answer!r}, not {each.exchange.answer!r}"
                        )
        rng = random.Random(options.seed)
        prompts = [encoder.prompt(corpus.exchange(rng), False) for _ in range(NUM_COMPARED)]
        same = agreement(llm, oracle, prompts)
    console.print(table)
    console.print(f"{same} of {NUM_COMPARED} greedy continuations of 64 tokens equal Transformers' in every token")
    if options.json:
        options.json.write_text(json.dumps({"scores": scores, "same": same, "compared": NUM_COMPARED}, indent=1) + "\n")


if __name__ == "__main__":
    main()
