"""octavo's embeddings beside Transformers': the same encoder, texts and pooling, interleaved A-B-B-A, median of ratios.

    python bench/embed.py                           random weights of the shape of MiniLM, made on the spot
    python bench/embed.py --model FOLDER            an encoder of your own
    python bench/embed.py --length 128              texts of equal length in place of 8 to 256 tokens

Transformers computes padded batches of texts sorted by length; octavo gets all texts at once. Both take the mean over
tokens at unit length, in float32, with as many threads.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table

from octavo import LLM
from octavo.checkpoint import POCKET

SHAPE = {
    "vocab_size": 30_522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "max_position_embeddings": 512,
}  # fmt: skip


def make_model(folder: Path) -> None:
    """Random weights of SHAPE, seed 0, in float32."""
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SHAPE)).save_pretrained(folder)


def make_texts(count: int, length: int | None, vocab_size: int) -> list[list[int]]:
    """Random token ids, 8 to 256 of them or `length`."""
    draw = random.Random(0)
    lengths = [length or draw.randint(8, 256) for _ in range(count)]
    return [[draw.randrange(5, vocab_size) for _ in range(n)] for n in lengths]


@torch.inference_mode()
def reference(model: torch.nn.Module, texts: list[list[int]], batch: int) -> torch.Tensor:
    """Transformers' vectors [texts, H]."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    found: dict[int, torch.Tensor] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        width = len(texts[part[0]])
        ids, mask = torch.zeros(len(part), width, dtype=torch.long), torch.zeros(len(part), width, dtype=torch.long)
        for row, i in enumerate(part):
            ids[row, : len(texts[i])] = torch.tensor(texts[i])
            mask[row, : len(texts[i])] = 1
        hidden = model(ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found |= zip(part, torch.nn.functional.normalize(mean, dim=-1), strict=True)
    return torch.stack([found[i] for i in range(len(texts))])


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--length", type=int)
    parser.add_argument("--batch", type=int, default=32, help="texts of one of Transformers' batches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.model or Path(made)
        if args.model is None:
            make_model(folder)
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        texts = make_texts(args.texts, args.length, model.config.vocab_size)
        options = {"dtype": "float32", "pooling_type": "mean", "cpu_threads": args.threads}
        with LLM(str(folder), tokenizer=str(POCKET), use_tqdm_on_load=False, **options) as llm:
            compare(llm, model, texts, args)


def compare(llm: LLM, model: torch.nn.Module, texts: list[list[int]], args: argparse.Namespace) -> None:
    """Run both in turn, and print tokens per second and how far apart the vectors are.

    Seconds of the processor do not count what other programs took; with one thread they are the ones to compare.
    """
    vectors: dict[str, torch.Tensor] = {}

    def octavo() -> None:
        vectors["octavo"] = torch.tensor([o.outputs.embedding for o in llm.embed(texts, use_tqdm=False)])

    def theirs() -> None:
        torch.set_num_threads(args.threads)
        vectors["theirs"] = reference(model, texts, args.batch)
        torch.set_num_threads(1)  # as octavo leaves it

    def timed(run: Callable[[], None]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        return time.perf_counter() - wall, time.process_time() - cpu

    octavo()
    theirs()
    ours: list[tuple[float, float]] = []
    others: list[tuple[float, float]] = []
    for _ in range(args.rounds):
        a, b, c, d = timed(octavo), timed(theirs), timed(theirs), timed(octavo)
        ours += [a, d]
        others += [b, c]
    num_tokens = sum(map(len, texts))
    table = Table("engine", "tokens/s", "tokens per CPU second")
    for name, seconds in (("octavo", ours), (f"Transformers {transformers.__version__}", others)):
        table.add_row(name, *(f"{num_tokens / statistics.median(kind):.0f}" for kind in zip(*seconds, strict=True)))
    ratios = [statistics.median(b[i] / a[i] for a, b in zip(ours, others, strict=True)) for i in (0, 1)]
    console = Console()
    console.print(table)
    console.print(
        f"{len(texts)} texts, {num_tokens} tokens, {args.threads} threads: octavo is {ratios[0]:.2f} times as fast, "
        f"{ratios[1]:.2f} times per CPU second"
    )
    console.print(f"largest difference of a component: {(vectors['octavo'] - vectors['theirs']).abs().max():.1e}")


if __name__ == "__main__":
    main()
