"""The GPU's side of a worker: rows on the device, recorded steps, and the way back to the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo import log
from octavo.platforms.accelerator import Accelerator, Fetched
from octavo.worker.graphs.buckets import Buckets
from octavo.worker.graphs.model import GraphModel, Steps
from octavo.worker.graphs.sampling import RecordedSampler
from octavo.worker.resident import Resident
from octavo.worker.rows import IntArray, Sizes
from octavo.worker.sampling.choice import resident_samplers
from octavo.worker.sampling.parameters import Parameters
from octavo.worker.sampling.resident import ResidentParameters, Samplers
from octavo.worker.sampling.sampler import NOBODY, Sampled

logger = log.get(__name__)

Progress = Callable[[int, int], None]  # done, total
MakeSamplers = Callable[[ResidentParameters], Samplers]


@dataclass(frozen=True)
class OnGpu:
    """Where a worker computes, which steps it records, and what samples there."""

    accelerator: Accelerator
    buckets: Buckets
    samplers: MakeSamplers = resident_samplers


class Gpu:
    """Everything a runner keeps on an accelerator beside weights and caches."""

    def __init__(
        self,
        on: OnGpu,
        model: Steps,
        caches: list[Tensor],
        num_groups: int,
        sizes: Sizes,
        parameters: Parameters,
    ) -> None:
        self.accelerator = on.accelerator
        self.buckets = on.buckets
        self.resident = Resident(sizes, num_groups, on.accelerator)
        self.model = GraphModel(model, self.resident, caches, on.buckets)
        self.parameters = ResidentParameters(parameters, sizes.max_num_seqs, on.accelerator)
        self._random = parameters.random
        self._sampler = RecordedSampler(self.resident, on.samplers(self.parameters), sizes.vocab_size, on.buckets)
        self._fetched: Fetched | None = None  # the latest sampled ids

    def record(self, progress: Progress | None = None) -> None:
        """Record what is replayed. Called once, before the first step."""
        sizes, started = self.buckets.sizes[::-1], time.perf_counter()
        for done, bucket in enumerate(sizes):
            self.record_one(bucket)
            if progress is not None:
                progress(done + 1, len(sizes))
        if sizes:
            logger.info("recorded decode steps of %d sizes in %.1f s", len(sizes), time.perf_counter() - started)

    @torch.inference_mode()
    def record_one(self, bucket: int) -> None:
        """Record what steps of one bucket replay. The largest comes first: in its memory the others find theirs."""
        self.resident.pad()
        self.model.record(bucket)
        self._sampler.record(bucket, self.model.kept_logits)

    def sample(self, logits: Tensor, rows: IntArray) -> Sampled | None:
        """Tokens for all rows [E] that the latest step emits, none of which asks for more than a draw.

        None, and nothing happens, when that is not faster here.
        """
        is_random = bool(self._random[rows].any())
        if not self._sampler.takes(is_random):
            return None
        if self._fetched is not None:
            self._fetched.release()  # what it sampled before is overwritten
        ids, problems = self._sampler(logits, is_random)
        return Sampled(ids, problems, NOBODY, NOBODY, None)

    def keep_last(self, ids: Tensor, rows: IntArray) -> None:
        """Keep ids [E], sampled in any other way, as the last tokens of rows [E]."""
        self.resident.last.index_copy_(0, self.accelerator.send(rows), ids.to(torch.int32))

    def fetch(self, sampled: Sampled) -> Fetched:
        """Start bringing to the host what was sampled."""
        self._fetched = self.accelerator.fetch(sampled.tensors)
        return self._fetched
