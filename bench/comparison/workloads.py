"""The work every engine is given: seeded requests of token ids whose answers have a fixed length."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Request = tuple[list[int], int]  # token ids of the prompt, number of tokens to generate
Batch = list[Request]  # submitted at once

LOWEST_ID = 300  # tokenizers keep special tokens at both ends
MIXED_LENGTHS = 7679  # of a seed's 64 pairs of lengths: 15,694 tokens in and 8,606 out, close to the mean of all seeds


@dataclass(frozen=True)
class Work:
    """What is timed: all of one batch, or the second of two batches less the first.

    `num_tokens` is what a speed counts: generated tokens, or prompt tokens when only one is generated. `make` draws the
    token ids from (random numbers, vocabulary size); lengths never change, so every seed is the same amount of work.
    """

    name: str
    doc: str
    num_tokens: int
    make: Callable[[Callable[[int], list[int]]], list[Batch]]

    @property
    def kind(self) -> str:
        """The name without its size: decode, prefill, mixed, shared, batch."""
        return self.name.split("-")[0]

    def batches(self, seed: str, vocab_size: int) -> list[Batch]:
        """One or two batches; no prompt begins like another's unless the work says so."""
        draw = random.Random(f"{self.name} {seed}")
        return self.make(lambda count: [draw.randrange(LOWEST_ID, vocab_size - LOWEST_ID) for _ in range(count)])

    def warm_up(self, vocab_size: int) -> list[Batch]:
        """A little of the same, with prompts of its own."""
        return [
            [(prompt, min(count, 4)) for prompt, count in batch[:8]] for batch in self.batches("warm-up", vocab_size)
        ]

    def seconds(self, times: list[float]) -> float:
        """Seconds of the work from the seconds of its batches."""
        return times[0] if len(times) == 1 else times[1] - times[0]


def decode(num_streams: int, num_in: int = 32, num_out: int = 128) -> Callable[..., list[Batch]]:
    """Batches that differ by `num_out` steps of `num_streams` sequences."""
    return lambda ids: [[(ids(num_in), count) for _ in range(num_streams)] for count in (1, 1 + num_out)]


def prefill(num_in: int) -> Callable[..., list[Batch]]:
    """One prompt, one token out."""
    return lambda ids: [[(ids(num_in), 1)]]


def mixed_lengths() -> list[tuple[int, int]]:
    """Tokens in (16-512) and out (16-256) of 64 requests."""
    draw = random.Random(MIXED_LENGTHS)
    return [(draw.randint(16, 512), draw.randint(16, 256)) for _ in range(64)]


def mixed(ids: Callable[[int], list[int]]) -> list[Batch]:
    """Requests of all lengths."""
    return [[(ids(num_in), num_out) for num_in, num_out in mixed_lengths()]]


def shared_prefix(ids: Callable[[int], list[int]]) -> list[Batch]:
    """Requests that begin alike."""
    prefix = ids(1024)
    return [[(prefix + ids(32), 32) for _ in range(32)]]


WORKS = {
    work.name: work
    for work in (
        Work("decode", "one stream, 32 tokens in, time of the 128 after the first", 128, decode(1)),
        Work("prefill-512", "one prompt of 512 tokens, one token out", 512, prefill(512)),
        Work("prefill-2048", "one prompt of 2,048 tokens, one token out", 2048, prefill(2048)),
        Work("mixed", "64 requests at once: 16-512 in, 16-256 out", sum(out for _, out in mixed_lengths()), mixed),
        Work("shared-prefix", "32 requests at once: 1,024 shared and 32 own tokens in, 32 out", 1024, shared_prefix),
        *(
            Work(f"batch-{n}", f"{n} streams at once, else as decode, 64 after the first", 64 * n, decode(n, 32, 64))
            for n in (1, 2, 4, 8, 16, 32, 64)
        ),
    )
}  # fmt: skip
