"""The sampler alone: a recorded step's choice of 128 tokens from a vocabulary of 151,936."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from gpu.rows import Row, Scene
from torch import Tensor

from octavo.worker.sampling.resident import FLOOR, NUM_FIELDS, RANDOM, SEED, TEMPERATURE, TOP_K, TOP_P

FIGURE_MS = 0.6
SPREAD = 2.5  # deviation of the logits: a ninth of the tokens then have nine tenths of the probability


@dataclass(frozen=True)
class Asked:
    """What every row asks for."""

    top_p: float = 1.0
    top_k: int = 0
    is_random: bool = True
    spread: float = SPREAD

    def table(self, rows: int, device: torch.device) -> Tensor:
        """The records of so many rows, and of nobody's, on the device."""
        records = np.zeros((rows + 1, NUM_FIELDS), np.int64)
        floats = records.view(np.float64)
        floats[:, [TEMPERATURE, TOP_P, FLOOR]] = 1.0, self.top_p, float("-inf")
        records[:, RANDOM], records[:, TOP_K], records[:, SEED] = self.is_random, self.top_k, np.arange(rows + 1)
        return torch.from_numpy(records).to(device)


CASES = {
    "top-p 0.9": Asked(top_p=0.9),
    "top-p 0.9 of nearly equal logits": Asked(top_p=0.9, spread=0.01),
    "top-k 50": Asked(top_k=50),
    "top-k 50 and top-p 0.9": Asked(top_p=0.9, top_k=50),
    "no filter": Asked(),
    "greedy": Asked(is_random=False),
}
REHEARSED = ("top-p 0.9", "greedy")


def measure(scene: Scene) -> Iterator[Row]:
    """Milliseconds of each case, recorded."""
    rows, vocab_size = scene.pick((128, 151_936), (2, 40))
    for name, asked in CASES.items():
        if scene.is_rehearsal and name not in REHEARSED:
            continue
        seconds = choice_seconds(scene, asked, rows, vocab_size)
        is_wanted = name == "top-p 0.9"
        details = {"rows": rows, "vocab_size": vocab_size, "logits_gb_s": 4 * rows * vocab_size / seconds / 1e9}
        work = f"sampler, {name}, {rows} rows of 152 k"
        yield Row(work, 1e3 * seconds, "ms", FIGURE_MS if is_wanted else None, True, details)


def choice_seconds(scene: Scene, asked: Asked, rows: int, vocab_size: int) -> float:
    """Seconds of one choice; the logits are new to the caches, as a step's are when the head has written them."""
    from octavo.worker.sampling.triton_logits import TritonResidentSampler, take_likeliest

    device, rounds = scene.device, scene.pick(4, 1)
    logits = [asked.spread * torch.randn(rows, vocab_size, device=device) for _ in range(rounds)]
    sampler = TritonResidentSampler(asked.table(rows, device)) if asked.is_random else take_likeliest
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    positions = torch.full((rows,), 100, dtype=torch.int32, device=device)
    ids = torch.empty(rows, dtype=torch.int64, device=device)
    problems = torch.empty(rows, dtype=torch.int8, device=device)
    return scene.time(lambda i: sampler(logits[i], slots, positions, ids, problems), rounds, is_recorded=True)
