"""One device: its model, its KV memory, and the runner over both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol

import torch
from torch import Tensor

from octavo.layers.pooling import Heads
from octavo.models.encoder import EncoderModel
from octavo.worker.graph import Recordable, TapeEncoder, TapeModel
from octavo.worker.memory import CacheLayout, allocate_caches, poison_caches
from octavo.worker.rows import Sizes
from octavo.worker.runner import Model, ModelRunner


class Decoding(Model, Recordable, Protocol):
    """A decoder whose weights are in place."""


LoadedModel = Decoding | EncoderModel
NO_PROCESSORS: Mapping[str, Callable[..., object]] = MappingProxyType({})


class Worker:
    """A loaded model on one device: first `allocate`, then steps through `runner`.

    `graphs` says how its steps are recorded; None: they run as the model's code says. `cache_dtype` is that of the KV.
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
    ) -> None:
        self.model = model
        self.layout = layout
        self.cache_dtype = cache_dtype
        self.device = device
        self.graphs = graphs
        self.heads = heads
        self.processors = processors
        self.runner: ModelRunner | None = None

    def allocate(self, num_pages: Sequence[int], sizes: Sizes, poison: bool = False) -> ModelRunner:
        """Make the KV caches, `num_pages` per cache group, and the runner; `poison` is a sanitizer for tests (R52)."""
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
        )
        return self.runner

    def _recorded(self, caches: list[Tensor], sizes: Sizes) -> Model:
        if self.graphs != "tape":
            return self.model
        if isinstance(self.model, EncoderModel):
            return TapeEncoder(self.model, caches, sizes)
        return TapeModel(self.model, caches, sizes)

    def close(self) -> None:
        """Let go of the caches and rows."""
        self.runner = None
