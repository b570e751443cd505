"""The sampler alone, as a recorded step runs it: microseconds a batch, at the vocabulary of Qwen3.

Logits are flat (normal, deviation 2, so that a nucleus has thousands of tokens) or peaked (the same, with twenty tokens
15 above). Batches rotate, so that what one reads is not what the L2 kept of the one before.

    cd bench && python -m gpu.sampler
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from gpu.alone import run_alone
from gpu.rows import Row, Scene
from torch import Tensor

from octavo.worker.sampling.logits import Draws
from octavo.worker.sampling.torch_logits import TorchLogits

VOCABULARY, REHEARSED = 151_936, 50
BATCHES = (128, 1, 32, 512)
L2_BYTES = 64 * 2**20
FILTERS: Mapping[str, Mapping[str, float]] = {
    "temperature": {},
    "top-k 50": {"top_k": 50},
    "top-p 0.95": {"top_p": 0.95},
    "all": {"top_k": 50, "top_p": 0.95, "min_p": 0.01},
}
TOP_P_MS = 0.6  # at 128 rows
GREEDY_PERCENT = 80.0


def measure(scene: Scene) -> Iterator[Row]:
    """Greedy, filters, log-probabilities, and torch's own way to top-p; first what there is a figure for."""
    vocab_size = scene.pick(VOCABULARY, REHEARSED)
    for batch in scene.pick(BATCHES, (2,)):
        yield greedy(scene, batch, vocab_size)
        for shape in ("flat", "peaked"):
            logits = drawn_logits(scene, batch, vocab_size, shape)
            for name, asked in FILTERS.items():
                work = drawing(scene, logits, asked)
                figure = 1000 * TOP_P_MS if batch == 128 and name == "top-p 0.95" else None
                yield timed(scene, f"sampler, {name}, {shape}, {batch} rows", work, logits, figure)
        yield log_probabilities(scene, batch, vocab_size)
    yield beside(scene, scene.pick(128, 2), vocab_size)


def timed(scene: Scene, title: str, work: Callable[[int], object], logits: list[Tensor], figure: float | None) -> Row:
    seconds = scene.time(work, rotate=len(logits), is_recorded=True)
    passes = seconds * scene.copy_bytes_s / (logits[0].numel() * 4)
    return Row(title, seconds * 1e6, "us", figure, at_most=True, details={"times reading the logits once": passes})


def greedy(scene: Scene, batch: int, vocab_size: int) -> Row:
    """The likeliest token of each row: nothing but reading."""
    from octavo.ops.triton import sampling

    logits = drawn_logits(scene, batch, vocab_size, "flat")
    ids = torch.zeros(batch, dtype=torch.int64, device=scene.device)
    top = torch.zeros(batch, device=scene.device)
    problems = torch.zeros(batch, dtype=torch.int8, device=scene.device)
    seconds = scene.time(
        lambda i: sampling.take(sampling.best(logits[i]), ids, top, problems), rotate=len(logits), is_recorded=True
    )
    torchs = scene.time(lambda i: logits[i].max(-1), rotate=len(logits), is_recorded=True)
    share = 100 * logits[0].numel() * 4 / seconds / scene.copy_bytes_s
    figure = GREEDY_PERCENT if batch >= 128 else None
    told = {"us": seconds * 1e6, "torch's max, us": torchs * 1e6}
    return Row(f"sampler, greedy, {batch} rows", share, "% of copy", figure, details=told)


def log_probabilities(scene: Scene, batch: int, vocab_size: int) -> Row:
    """Of each row's token and the 20 likeliest."""
    from octavo.ops.triton import logits as kernels
    from octavo.ops.triton import sampling

    logits = drawn_logits(scene, batch, vocab_size, "flat")
    at = torch.arange(batch, device=scene.device)
    bests = [sampling.best(each) for each in logits]
    return timed(
        scene,
        f"sampler, 20 log-probabilities, {batch} rows",
        lambda i: kernels.tell(logits[i], bests[i], at, at, scene.pick(20, 3)),
        logits,
        None,
    )


def beside(scene: Scene, batch: int, vocab_size: int) -> Row:
    """Top-p by torch's sort and cumulative sum, launched as it is and not recorded."""
    logits = drawn_logits(scene, batch, vocab_size, "flat")
    asked = filtered(batch, FILTERS["top-p 0.95"])
    seconds = scene.time(lambda i: TorchLogits(logits[i]).draw(asked), rotate=len(logits))
    return Row(f"torch's sampler, top-p 0.95, flat, {batch} rows", seconds * 1e6, "us")


def drawn_logits(scene: Scene, batch: int, vocab_size: int, shape: str) -> list[Tensor]:
    """As many batches [batch, vocab_size] as it takes to fill the L2 twice, 16 at most."""
    count = scene.pick(min(16, max(2, 2 * L2_BYTES // (batch * vocab_size * 4))), 1)
    logits = [torch.randn(batch, vocab_size, device=scene.device) * 2 for _ in range(count)]
    if shape == "peaked":
        for each in logits:
            each[:, torch.randint(vocab_size, (20,), device=scene.device)] += 15
    return logits


def drawing(scene: Scene, logits: list[Tensor], asked: Mapping[str, float]) -> Callable[[int], None]:
    """Draws a token for every row of a batch."""
    from octavo.ops.triton import sampling
    from octavo.worker.sampling.triton_logits import records

    batch = logits[0].shape[0]
    draws = filtered(batch, asked)
    table = torch.from_numpy(records(draws)).to(scene.device)
    ids = torch.zeros(batch, dtype=torch.int64, device=scene.device)
    top = torch.zeros(batch, device=scene.device)
    problems = torch.zeros(batch, dtype=torch.int8, device=scene.device)
    slots, positions = (torch.arange(batch, dtype=torch.int32, device=scene.device) for _ in range(2))

    def work(i: int) -> None:
        best = sampling.best(logits[i])
        sampling.take(best, ids, top, problems)
        sampling.draw(logits[i], best, top, table, positions, ids, rows=slots)

    return work


def filtered(batch: int, asked: Mapping[str, float]) -> Draws:
    """Draws of random rows at temperature 1."""
    return Draws(
        np.arange(batch),
        np.ones(batch, np.float32),
        np.full(batch, int(asked.get("top_k", 0))),
        np.full(batch, asked.get("top_p", 1.0)),
        np.full(batch, asked.get("min_p", 0.0)),
        np.arange(batch).astype(np.uint64),
        np.arange(batch),
    )


def main() -> None:
    run_alone("gpu.sampler", __doc__, measure)


if __name__ == "__main__":
    main()
