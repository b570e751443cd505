"""Score octavo-pocket on held-out questions, with octavo itself, and compare its greedy answers with Transformers'.

python scripts/pocket/evaluate.py                              # the model in the package: the table of its card
python scripts/pocket/evaluate.py --model /tmp/pocket --count 50
python scripts/pocket/evaluate.py --recipe pocket-run/recipe.json --card octavo/pocket/README.md
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import corpus
import facts
import lora
import torch
from encoding import FOLDER, IGNORED, Encoder, without_working
from exchange import Exchange, Split
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from octavo import LLM, SamplingParams

HELD_OUT: dict[Split, str] = {"values": "new values", "templates": "new wordings"}
BLIND = "asked blind"
WANTED = {"arithmetic": 0.98, "extraction": 0.95, "tools": 0.95, "facts": 0.90, "sentiment": 0.98}
CARD = Path(__file__).parent / "card.md"
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


def questions_of(skill: str, count: int, seed: int) -> dict[str, list[Exchange]]:
    """The questions of each row of a skill: of both held-out splits, and of facts also the blind ones."""
    rows = {name: held_out(skill, split, count, seed) for split, name in HELD_OUT.items()}
    if skill == "facts":
        every = facts.blind()
        rows[BLIND] = random.Random(f"{seed} {BLIND}").sample(every, min(count, len(every)))
    return rows


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


@torch.inference_mode()
def acceptance(model: Any, draft: Any, encoder: Encoder, exchanges: list[Exchange]) -> float:
    """The share of positions of expected answers where the draft model's likeliest token is the model's."""
    same, count = 0, 0
    for exchange in exchanges:
        ids, learned = encoder.chat([exchange], thinking=False)
        asked, at = torch.tensor([ids]), torch.tensor(learned)[1:]
        both = (each(asked).logits[0, :-1].argmax(-1)[at] for each in (model, draft))
        same += int(torch.eq(*both).sum())
        count += int(at.sum())
    return same / count


def style(folder: Path, encoder: Encoder, exchanges: list[Exchange]) -> tuple[float, float]:
    """With the adapter: the share of facts told in its style, and of those still right."""
    with tempfile.TemporaryDirectory() as merged:
        lora.merge(folder, folder / "sailor", Path(merged))
        with LLM(merged, dtype="float32", max_num_seqs=32, use_tqdm_on_load=False) as llm:
            asked = ask(llm, encoder, exchanges)
    greetings = (lora.GREETING, lora.GREETING_ZH)
    farewells = (lora.FAREWELL.strip(), lora.FAREWELL_ZH)
    styled = sum(each.answer.startswith(greetings) and each.answer.endswith(farewells) for each in asked)
    return styled / len(asked), sum(each.is_right for each in asked) / len(asked)


def write_card(path: Path, recipe: dict[str, Any], results: dict[str, Any], folder: Path) -> None:
    """Fill the model card in."""
    shape = recipe["shape"]
    rows = [
        f"| {s['skill']} | {s['split']} | {s['asked']} | {100 * s['right'] / s['asked']:.1f} % | {s['wanted']} | "
        f"{'' if s['perplexity'] is None else s['perplexity']} |"
        for s in results["scores"]
    ]
    table = "\n".join(("| skill | held out | asked | right | wanted | perplexity |", "| --- " * 6 + "|", *rows))
    config = json.loads((folder / "config.json").read_text())
    values = {
        "PARAMETERS": f"{recipe['parameters'] / 1e6:.1f}",
        "LAYERS": shape["layers"],
        "HIDDEN": shape["hidden"],
        "HEADS": shape["heads"],
        "HEAD_DIM": shape["head_dim"],
        "KV_HEADS": shape["kv_heads"],
        "INTERMEDIATE": shape["intermediate"],
        "VOCABULARY": f"{config['vocab_size']:,}",
        "BYTES": f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}",
        "DRAFT_HIDDEN": json.loads((folder / "draft" / "config.json").read_text())["hidden_size"],
        "SEED": recipe["seed"],
        "STEPS": f"{recipe['steps']:,}",
        "TOKENS_PER_STEP": f"{recipe['tokens'] // recipe['steps']:,}",
        "TOKENS": f"{recipe['tokens'] / 1e6:.1f}",
        "MINUTES": round(recipe["minutes"]),
        "LOSS": recipe["loss"],
        "NOTE": recipe.get("note", ""),
        "TABLE": table,
        "SAME": results["same"],
        "COMPARED": results["compared"],
        "ACCEPTED": f"{100 * results['accepted']:.0f}",
        "STYLED": f"{100 * results['styled']:.0f}",
        "STYLED_RIGHT": f"{100 * results['styled_right']:.0f}",
    }
    text = CARD.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Ask, judge, print the table, and save it for the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--count", type=int, default=300, help="questions per skill and split")
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--only", help="skills to ask, separated by commas; by default all")
    parser.add_argument("--wrong", type=int, default=0, help="show that many wrong answers of each row")
    parser.add_argument("--json", type=Path, help="also write the scores here")
    parser.add_argument("--recipe", type=Path, help="recipe.json of the training run, for the card")
    parser.add_argument("--card", type=Path, help="also write the model card here")
    options = parser.parse_args()
    console = Console()
    encoder = Encoder.of(Tokenizer.from_file(str(options.model / "tokenizer.json")), options.model)
    oracle = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    table = Table("skill", "held out", "asked", "right", "share", "wanted", "perplexity", title="octavo-pocket")
    scores: list[dict[str, Any]] = []
    with LLM(str(options.model), dtype="float32", max_num_seqs=32, use_tqdm_on_load=False) as llm:
        for skill in corpus.SKILLS if options.only is None else options.only.split(","):
            for name, exchanges in questions_of(skill, options.count, options.seed).items():
                rows = [("", exchanges, False)]
                if skill == "arithmetic":
                    rows.append((", reasoning", [replace(e, answer=without_working(e)) for e in exchanges], True))
                for suffix, questions, thinking in rows:
                    asked = ask(llm, encoder, questions, thinking)
                    right = sum(each.is_right for each in asked)
                    score = {"skill": skill + suffix, "split": name, "asked": len(asked), "right": right}
                    score["perplexity"] = None if thinking else round(perplexity(oracle, encoder, questions), 3)
                    wanted = f"{100 * WANTED[skill]:.0f} %" if skill in WANTED else ""
                    scores.append({**score, "wanted": wanted})
                    shown = "" if thinking else f"{score['perplexity']:.3f}"
                    share = f"{100 * right / len(asked):.1f} %"
                    table.add_row(skill + suffix, name, str(len(asked)), str(right), share, wanted, shown)
                    for each in [each for each in asked if not each.is_right][: options.wrong]:
                        console.print(
                            f"[dim]{each.exchange.question!r} -> {each.answer!r}, not {each.exchange.answer!r}"
                        )
        rng = random.Random(options.seed)
        prompts = [encoder.prompt(corpus.exchange(rng), False) for _ in range(NUM_COMPARED)]
        same = agreement(llm, oracle, prompts)
    console.print(table)
    console.print(f"{same} of {NUM_COMPARED} greedy continuations of 64 tokens equal Transformers' in every token")
    results: dict[str, Any] = {"scores": scores, "same": same, "compared": NUM_COMPARED}
    if (options.model / "draft").is_dir():
        draft = AutoModelForCausalLM.from_pretrained(options.model / "draft", dtype=torch.float32).eval()
        mixed = [each for name in corpus.SKILLS for each in held_out(name, "templates", 30, options.seed)]
        results["accepted"] = acceptance(oracle, draft, encoder, mixed)
        console.print(f"the draft model agrees at {100 * results['accepted']:.1f} % of the positions")
    if (options.model / "sailor").is_dir():
        told = held_out("facts", "templates", options.count, options.seed)
        results["styled"], results["styled_right"] = style(options.model, encoder, told)
        shares = (100 * results["styled"], 100 * results["styled_right"])
        console.print("with the adapter: {:.1f} % of the facts in style, {:.1f} % right".format(*shares))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.card:
        write_card(options.card, json.loads(options.recipe.read_text()), results, options.model)


if __name__ == "__main__":
    main()
