"""A model whose decode steps are recorded: one recording for each bucket of rows, replayed with one call."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from octavo.forward import ForwardBatch
from octavo.platforms.accelerator import Recording
from octavo.worker.graphs.buckets import Buckets
from octavo.worker.resident import Resident


class Steps(Protocol):
    """What is recorded of a model."""

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] of the step's tokens; writes their KV."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[L, H] -> [L, V] float32."""
        ...


class GraphModel:
    """Runs a step as its batch says: as the recording of its bucket, or as the model's code says.

    A recording goes from the words of `resident` to logits. Its hidden states and logits are overwritten by the next.
    """

    def __init__(self, model: Steps, resident: Resident, caches: list[Tensor], buckets: Buckets) -> None:
        self.model = model
        self.resident = resident
        self.caches = caches
        self.buckets = buckets
        self.hidden = self.kept_logits = torch.empty(0)  # [S, H] and [S, V], once something has been recorded
        self._recordings: dict[int, Recording] = {}
        self._num_replayed = 0  # rows whose logits are kept

    def record(self, bucket: int) -> None:
        """Record the step of one bucket; the words of `resident` are those of padding."""
        work = partial(self._step, bucket)
        work()  # kernels are compiled and loaded, and libraries take their workspaces, before a recording begins
        self._recordings[bucket] = self.resident.record(work)

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] of the step's tokens; writes their KV."""
        if batch.bucket is None:
            self._num_replayed = 0
            return self.model.forward(batch)
        recording = self._recordings.get(batch.bucket)
        if recording is None:  # a trial comes before anything is recorded
            self._step(batch.bucket)
        else:
            recording.replay()
        self._num_replayed = batch.num_rows
        return self.hidden[: batch.num_rows]

    def logits(self, hidden: Tensor) -> Tensor:
        """[L, H] -> [L, V] float32; those of a replayed step have been computed with it."""
        if hidden.shape[0] == self._num_replayed and hidden.data_ptr() == self.hidden.data_ptr():
            return self.kept_logits[: self._num_replayed]
        return self.model.logits(hidden)

    def _step(self, bucket: int) -> None:
        resident = self.resident
        resident.extend(bucket * resident.num_groups)
        resident.lay_out(bucket, bucket)
        batch = resident.batch(bucket, bucket, self.caches)
        batch.host_starts = list(range(bucket + 1))
        batch.host_lengths = [resident.sizes.max_model_len] * bucket
        batch.is_recorded = True
        hidden = self.model.forward(batch)
        logits = self.model.logits(hidden)
        if not self.hidden.numel():
            rows = self.buckets.sizes[-1]
            self.hidden = hidden.new_zeros(rows, hidden.shape[1])
            self.kept_logits = logits.new_zeros(rows, logits.shape[1])
        self.hidden[:bucket].copy_(hidden)
        self.kept_logits[:bucket].copy_(logits)
