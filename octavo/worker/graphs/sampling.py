"""Sampling as recorded work, with no host in between, for rows that ask for no more than temperature and filters."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from octavo.platforms.accelerator import Recording
from octavo.worker.graphs.buckets import Buckets
from octavo.worker.resident import Resident
from octavo.worker.sampling.resident import Samplers


class RecordedSampler:
    """Samples the rows that the words of `resident` say are emitted, and keeps their ids as the rows' last tokens.

    The ids it returns are overwritten by the next call.
    """

    def __init__(self, resident: Resident, samplers: Samplers, vocab_size: int, buckets: Buckets) -> None:
        num_rows, device = resident.sizes.max_num_seqs, resident.accelerator.device
        self.resident = resident
        self.buckets = buckets
        self._samplers = {False: samplers.likeliest}
        if samplers.draw is not None:
            self._samplers[True] = samplers.draw
        self._vocab_size = vocab_size
        self._ids = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._problems = torch.zeros(num_rows, dtype=torch.int8, device=device)
        self._logits = torch.empty(0)  # what recordings read
        self._recordings: dict[tuple[int, bool], Recording] = {}

    def takes(self, is_random: bool) -> bool:
        """Whether it can sample a step in which rows are random, or none is."""
        return is_random in self._samplers

    def record(self, bucket: int, logits: Tensor) -> None:
        """Record sampling from the first rows of `logits` [S, >= V]; the words of `resident` are those of padding."""
        self._logits = logits
        for is_random in self._samplers:
            work = partial(self._sample, logits[:bucket], is_random)
            work()
            self._recordings[bucket, is_random] = self.resident.record(work)

    def __call__(self, logits: Tensor, is_random: bool) -> tuple[Tensor, Tensor]:
        """ids [E] int64 and problems [E] int8 of a step's rows; logits [E, >= V] float32 may be overwritten."""
        count = logits.shape[0]
        bucket = self.buckets.of(count)
        recording = None if bucket is None else self._recordings.get((bucket, is_random))
        if recording is None:
            self._sample(logits, is_random)
        else:
            if logits.data_ptr() != self._logits.data_ptr():
                self._logits[:count].copy_(logits)
            recording.replay()
        return self._ids[:count], self._problems[:count]

    def _sample(self, logits: Tensor, is_random: bool) -> None:
        count = logits.shape[0]
        rows, positions = self.resident.emit_rows[:count], self.resident.emit_positions[:count]
        ids, problems = self._ids[:count], self._problems[:count]
        self._samplers[is_random](logits[:, : self._vocab_size], rows, positions, ids, problems)
        self.resident.last.index_copy_(0, rows.long(), ids.to(torch.int32))
