"""octavo beside Transformers' `generate`: the same model, prompts and lengths, interleaved A-B-B-A, median of ratios.

    python bench/vs_transformers.py                       random weights of a 106 M Llama shape, made on the spot
    python bench/vs_transformers.py --model FOLDER        a checkpoint of your own

Transformers answers in static batches (left-padded, each as long as its longest answer); octavo gets all requests at
once. Tokens are greedy and end-of-sequence is ignored, so that both do the same work; only tokens asked for count.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table

from octavo import LLM, SamplingParams
from octavo.checkpoint import POCKET

SHAPE = {
    "vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip


def make_model(folder: Path) -> None:
    """Random weights of SHAPE, std 0.02, seed 0, in float32."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def make_requests(count: int, most_in: int, most_out: int, vocab_size: int) -> list[tuple[list[int], int]]:
    """Prompts of token ids with the number of tokens each wants; lengths even, from an eighth of the most up."""
    draw = random.Random(0)
    return [
        (
            [draw.randrange(16, vocab_size) for _ in range(draw.randint(most_in // 8, most_in))],
            draw.randint(most_out // 8, most_out),
        )
        for _ in range(count)
    ]


def run_transformers(
    model: transformers.PreTrainedModel, requests: list[tuple[list[int], int]], batch_size: int
) -> list[list[int]]:
    """Answer in static batches, in order."""
    answers = []
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        longest = max(len(prompt) for prompt, _ in batch)
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt, _ in batch])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in batch])
        most = max(wanted for _, wanted in batch)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=0)
        answers += [row[longest : longest + wanted].tolist() for row, (_, wanted) in zip(out, batch, strict=True)]
    return answers


def run_octavo(llm: LLM, requests: list[tuple[list[int], int]]) -> list[list[int]]:
    """Answer all at once."""
    params = [SamplingParams(temperature=0, ignore_eos=True, max_tokens=wanted) for _, wanted in requests]
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt, _ in requests], params, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; default: random weights")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--most-in", type=int, default=128, help="longest prompt, tokens")
    parser.add_argument("--most-out", type=int, default=128, help="longest answer, tokens")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16], help="of Transformers")
    parser.add_argument("--rounds", type=int, default=3, help="A-B-B-A rounds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.model or Path(made)
        if args.model is None:
            make_model(folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = None if (folder / "tokenizer.json").exists() else str(POCKET)
        # Without prefix caching: the second run must compute what the first did.
        ours = LLM(str(folder), tokenizer=tokenizer, dtype="float32", enable_prefix_caching=False)
        requests = make_requests(args.requests, args.most_in, args.most_out, theirs.config.vocab_size)
        report(args, theirs, ours, requests)


def report(
    args: argparse.Namespace, theirs: transformers.PreTrainedModel, ours: LLM, requests: list[tuple[list[int], int]]
) -> None:
    """Run the rounds and print the table."""
    tokens = sum(wanted for _, wanted in requests)
    prompt_tokens = sum(len(prompt) for prompt, _ in requests)
    table = Table(
        "Transformers in batches of", "Transformers tok/s", "octavo tok/s", "ratio (median)", "ratios", "equal answers"
    )
    expected = run_octavo(ours, requests)  # also the warm-up
    for size in args.batch_sizes:
        ratios, speeds, equal = [], [], 0
        for _ in range(args.rounds):
            for first in (True, False):
                times = {}
                for who in ("theirs", "ours") if first else ("ours", "theirs"):
                    started = time.perf_counter()
                    answers = run_octavo(ours, requests) if who == "ours" else run_transformers(theirs, requests, size)
                    times[who] = time.perf_counter() - started
                    if who == "theirs":
                        equal = sum(a == b for a, b in zip(answers, expected, strict=True))
                ratios.append(times["theirs"] / times["ours"])
                speeds.append((tokens / times["theirs"], tokens / times["ours"]))
        theirs_speed, ours_speed = (statistics.median(column) for column in zip(*speeds, strict=True))
        listed = " ".join(f"{ratio:.2f}" for ratio in ratios)
        table.add_row(
            str(size),
            f"{theirs_speed:.1f}",
            f"{ours_speed:.1f}",
            f"{statistics.median(ratios):.2f}",
            listed,
            f"{equal}/{len(requests)}",
        )
    console = Console()
    console.print(
        f"{len(requests)} requests, {prompt_tokens} prompt tokens, {tokens} output tokens, "
        f"{torch.get_num_threads()} threads"
    )
    console.print(table)


if __name__ == "__main__":
    main()
