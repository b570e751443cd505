"""One device: its model, its KV memory, and the runner over both."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol

import torch
from torch import Tensor

from octavo.layers.pooling import Heads
from octavo.models.encoder import EncoderModel
from octavo.platforms.accelerator import Accelerator, Usage
from octavo.platforms.lane import lane_of
from octavo.worker.gpu import OnGpu, Progress
from octavo.worker.graphs.buckets import Buckets
from octavo.worker.graphs.tape import Recordable, TapeEncoder, TapeModel
from octavo.worker.memory import CacheLayout, allocate_caches, poison_caches
from octavo.worker.rows import Sizes
from octavo.worker.runner import Model, ModelRunner
from octavo.worker.swapping import CacheShape, make_mover
from octavo.worker.trial import Findings, measure


class Decoding(Model, Recordable, Protocol):
    """A decoder whose weights are in place."""


LoadedModel = Decoding | EncoderModel
NO_PROCESSORS: Mapping[str, Callable[..., object]] = MappingProxyType({})


class Worker:
    """A loaded model on one device: first `allocate`, then steps through `runner`.

    `graphs` says how its steps are recorded; None: they run as the model's code says. `cache_dtype` is that of the KV.
    `accelerator` is the GPU, if it is one, on which steps that decode are recorded for each of `recorded_rows`.
    """

    def __init__(
        self,
        model: LoadedModel,
        layout: CacheLayout,
        cache_dtype: torch.dtype,
        device: torch.device,
        graphs: Literal["cuda", "tape"] | None = None,
        heads: Heads | None = None,
        processors: Mapping[str, Callable[..., object]] = NO_PROCESSORS,
        accelerator: Accelerator | None = None,
        recorded_rows: Sequence[int] = (),
    ) -> None:
        self.model = model
        self.layout = layout
        self.cache_dtype = cache_dtype
        self.device = device
        self.graphs = graphs
        self.heads = heads
        self.processors = processors
        self.on_gpu = None if accelerator is None else OnGpu(accelerator, Buckets(tuple(recorded_rows)))
        self.runner: ModelRunner | None = None

    def allocate(
        self, num_pages: Sequence[int], sizes: Sizes, poison: bool = False, host_pages: Sequence[int] = ()
    ) -> ModelRunner:
        """Make the KV caches, `num_pages` per cache group, and the runner; `poison` is a sanitizer for tests (R52).

        `host_pages` of each group have memory on the host that pages are swapped to; none: they never are.
        """
        groups = self.model.groups
        caches = allocate_caches(groups, num_pages, sizes.page_size, self.layout, self.cache_dtype, self.device)
        if poison:
            poison_caches(caches)
        self.runner = ModelRunner(
            self._recorded(caches, sizes),
            caches,
            len(groups),
            sizes,
            self.device,
            poison,
            self.heads,
            self.processors,
            self.on_gpu,
        )
        if host_pages:
            self.runner.mover = make_mover(caches, groups, host_pages, self._shape(sizes), lane_of(self.device))
        return self.runner

    def _shape(self, sizes: Sizes) -> CacheShape:
        return lambda group, count: self.layout.cache_shape(group.spec, count, sizes.page_size, self.cache_dtype)

    def record(self, progress: Progress | None = None) -> None:
        """Record the steps of a GPU, once their caches are allocated."""
        if self.runner is not None and self.runner.gpu is not None:
            self.runner.gpu.record(progress)

    def measure(self, before: Usage, sizes: Sizes) -> Findings:
        """What the GPU must hold beside the KV cache; `before` the model was loaded. Nothing stays allocated."""
        assert self.on_gpu is not None, "only a GPU is measured"
        groups = len(self.model.groups)
        findings = measure(
            self.on_gpu.accelerator, before, sizes, groups, lambda pages: self.allocate([pages] * groups, sizes)
        )
        self.close()
        gc.collect()  # rows and what is kept of them know each other
        return findings

    def _recorded(self, caches: list[Tensor], sizes: Sizes) -> Model:
        if self.graphs != "tape":
            return self.model
        if isinstance(self.model, EncoderModel):
            return TapeEncoder(self.model, caches, sizes)
        return TapeModel(self.model, caches, sizes)

    def close(self) -> None:
        """Let go of the caches and rows."""
        self.runner = None
