"""One device: its model, its KV memory, and the runner over both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch

from octavo.worker.graph import Recordable, TapeModel
from octavo.worker.memory import CacheLayout, allocate_caches, poison_caches
from octavo.worker.rows import Sizes
from octavo.worker.runner import Model, ModelRunner


class LoadedModel(Model, Recordable, Protocol):
    """A model whose weights are in place."""


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
    ) -> None:
        self.model = model
        self.layout = layout
        self.cache_dtype = cache_dtype
        self.device = device
        self.graphs = graphs
        self.runner: ModelRunner | None = None

    def allocate(self, num_pages: Sequence[int], sizes: Sizes, poison: bool = False) -> ModelRunner:
        """Make the KV caches, `num_pages` per cache group, and the runner; `poison` is a sanitizer for tests (R52)."""
        groups = self.model.groups
        caches = allocate_caches(groups, num_pages, sizes.page_size, self.layout, self.cache_dtype, self.device)
        if poison:
            poison_caches(caches)
        model = TapeModel(self.model, caches, sizes) if self.graphs == "tape" else self.model
        self.runner = ModelRunner(model, caches, len(groups), sizes, self.device, poison)
        return self.runner

    def close(self) -> None:
        """Let go of the caches and rows."""
        self.runner = None
