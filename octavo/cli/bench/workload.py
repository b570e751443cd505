"""Prompts to measure with: random token ids of chosen lengths, or texts from a file."""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

from octavo.cli import flags
from octavo.errors import StartupError


@dataclass(frozen=True)
class Item:
    """One request: its prompt, as text or ids, and how many tokens to generate."""

    prompt: str | list[int]
    output_len: int


def add_arguments(parser: argparse.ArgumentParser, num_prompts: int) -> None:
    """Flags that choose the workload."""
    group = parser.add_argument_group("workload")
    group.add_argument(
        "--num-prompts",
        type=flags.at_least_one,
        default=num_prompts,
        metavar="N",
        help="requests (default: %(default)s)",
    )
    group.add_argument(
        "--input-len",
        "--random-input-len",
        type=flags.at_least_one,
        default=128,
        metavar="N",
        help="prompt tokens (default: %(default)s)",
    )
    group.add_argument(
        "--output-len",
        "--random-output-len",
        type=flags.at_least_one,
        default=64,
        metavar="N",
        help="tokens to generate (default: %(default)s)",
    )
    group.add_argument(
        "--range-ratio",
        "--random-range-ratio",
        type=float,
        default=0.0,
        metavar="R",
        help="lengths vary by this share, from (1-R)x to (1+R)x (default: %(default)s)",
    )
    group.add_argument(
        "--prefix-len",
        "--random-prefix-len",
        type=int,
        default=0,
        metavar="N",
        help="tokens all prompts begin with (default: %(default)s)",
    )
    group.add_argument(
        "--dataset-path",
        type=Path,
        metavar="FILE",
        help="JSON lines with 'prompt' (and 'output_len'), or any text file, instead of random ids",
    )
    group.add_argument(
        "--workload-seed", type=int, default=0, metavar="N", help="seed of the workload (default: %(default)s)"
    )


def make(args: argparse.Namespace, vocab_size: int, warmups: int = 0) -> list[Item]:
    """The requests, the same for the same flags, then `warmups` more.

    Ids keep clear of the special ones at either end of the vocabulary.
    """
    draw = random.Random(args.workload_seed)
    if args.dataset_path is not None:
        return from_file(args.dataset_path, args.num_prompts + warmups, args.output_len)
    low, high = min(16, vocab_size // 4), max(vocab_size * 3 // 4, 1)
    prefix = [draw.randrange(low, high) for _ in range(args.prefix_len)]

    def vary(length: int) -> int:
        return max(1, round(length * draw.uniform(1 - args.range_ratio, 1 + args.range_ratio)))

    return [
        Item(prefix + [draw.randrange(low, high) for _ in range(vary(args.input_len))], vary(args.output_len))
        for _ in range(args.num_prompts + warmups)
    ]


def from_file(path: Path, count: int, output_len: int) -> list[Item]:
    """The first `count` prompts of a JSON lines file, or paragraphs of a text; repeated when there are fewer."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise StartupError(f"--dataset-path {path}: {reason}", "dataset_path") from error
    if path.suffix == ".jsonl":
        items = [from_line(path, line, output_len) for line in text.splitlines() if line.strip()]
    else:
        items = [Item(part.strip(), output_len) for part in text.split("\n\n") if part.strip()]
    if not items:
        raise StartupError(f"--dataset-path {path} has no prompts", "dataset_path")
    return [items[i % len(items)] for i in range(count)]


def from_line(path: Path, line: str, output_len: int) -> Item:
    """The request one JSON line describes."""
    try:
        row = json.loads(line)
        return Item(str(row.get("prompt") or row["question"]), int(row.get("output_len", output_len)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartupError(
            f"--dataset-path {path} has a line that is no {{'prompt': ...}}: {line[:60]}", "dataset_path"
        ) from error
