"""What a device must hold beside the KV cache, found by doing it: the largest step, and the largest recordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from octavo.messages import BatchMessage, NewRow, RowWork, SequenceSpec
from octavo.platforms.accelerator import Accelerator, Usage
from octavo.sampling import SamplingParams
from octavo.worker.gpu import Gpu
from octavo.worker.rows import Sizes
from octavo.worker.runner import ModelRunner

# What allocators round up, and what other programs on the device may come to take.
SPARE_BYTES = 256 * 2**20
LEAST_BYTES = 2**20  # of a further recording, where its share is below what the device can tell


@dataclass(frozen=True)
class Findings:
    """Bytes taken by weights, by the largest step, by recordings, and by libraries since the start."""

    weights_bytes: int
    step_bytes: int
    recordings_bytes: int
    other_bytes: int

    @property
    def engine_bytes(self) -> int:
        """Everything but weights and KV cache."""
        return self.step_bytes + self.recordings_bytes + self.other_bytes + SPARE_BYTES


def measure(
    accelerator: Accelerator, before: Usage, sizes: Sizes, num_groups: int, allocate: Callable[[int], ModelRunner]
) -> Findings:
    """Run the largest step, and record the largest steps, over caches of a few pages; `before`: without the weights.

    `allocate` makes a runner over caches of so many pages per group, whose steps are not recorded yet.
    """
    loaded = accelerator.usage(is_new=True)
    runner = allocate(pages_of_longest(sizes))
    message = largest_step(sizes, num_groups)
    pending = runner.launch(message)
    runner.sample(pending)
    runner.result(pending)
    ran = accelerator.usage()
    recordings = recordings_bytes(accelerator, runner.gpu) if runner.gpu is not None else 0
    other = max(0, ran.other_bytes - before.other_bytes)
    return Findings(loaded.peak_bytes, max(0, ran.peak_bytes - loaded.peak_bytes), recordings, other)


def recordings_bytes(accelerator: Accelerator, gpu: Gpu) -> int:
    """What all recordings will take: the largest's share, and the second's for each of the others."""
    sizes = gpu.buckets.sizes[::-1]
    shares: list[int] = []
    for bucket in sizes[:2]:
        before = accelerator.usage(is_new=True)
        gpu.record_one(bucket)
        shares.append(max(LEAST_BYTES, before.free_bytes - accelerator.usage(is_new=True).free_bytes))
    return sum(shares[:1]) + (len(sizes) - 1) * shares[-1] if shares else 0


def pages_of_longest(sizes: Sizes) -> int:
    """Pages of the longest row of the largest step."""
    return -(-max(shares_of(sizes)) // sizes.page_size)


def shares_of(sizes: Sizes) -> list[int]:
    """Tokens per row of the largest step: of as many rows as there may be, each with at least one."""
    num_rows = sizes.max_num_seqs
    share, rest = divmod(sizes.max_num_batched_tokens, num_rows)
    return [min(share + (i < rest), sizes.max_model_len - 1) or 1 for i in range(num_rows)]


def largest_step(sizes: Sizes, num_groups: int) -> BatchMessage:
    """Whole prompts, sampled with every filter and told with log-probabilities. All rows share the same pages: what
    they write there is never read for its values.
    """
    sampling = SamplingParams(temperature=1.0, top_k=50, top_p=0.9, min_p=0.01, logprobs=1)
    rows = []
    for id, share in enumerate(shares_of(sizes)):
        tokens = np.zeros(share, np.int32).tobytes()
        spec = SequenceSpec(id, tokens, sampling, max_tokens=1, seed=id)
        pages = list(range(-(-share // sizes.page_size)))
        rows.append(RowWork(id, 0, share, True, [pages] * num_groups, NewRow(spec, tokens, 0)))
    return BatchMessage(rows, [])
