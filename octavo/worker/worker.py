"""One device: its model, its KV memory, and the runner over both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from octavo.spec import CacheGroup
from octavo.worker.memory import CacheLayout, allocate_caches, poison_caches
from octavo.worker.rows import Sizes
from octavo.worker.runner import Model, ModelRunner, Planner


class LoadedModel(Model, Protocol):
    """A model whose weights are in place."""

    groups: tuple[CacheGroup, ...]


class Backend(CacheLayout, Planner, Protocol):
    """What a worker needs of an attention backend."""


class Worker:
    """A loaded model on one device: first `allocate`, then steps through `runner`."""

    def __init__(self, model: LoadedModel, backend: Backend, dtype: torch.dtype, device: torch.device) -> None:
        self.model = model
        self.backend = backend
        self.dtype = dtype
        self.device = device
        self.runner: ModelRunner | None = None

    def allocate(self, num_pages: Sequence[int], sizes: Sizes, poison: bool = False) -> ModelRunner:
        """Make the KV caches, `num_pages` per cache group, and the runner; `poison` is a sanitizer for tests (R52)."""
        groups = self.model.groups
        caches = allocate_caches(groups, num_pages, sizes.page_size, self.backend, self.dtype, self.device)
        if poison:
            poison_caches(caches)
        self.runner = ModelRunner(self.model, self.backend, caches, groups, sizes, self.device, poison)
        return self.runner

    def close(self) -> None:
        """Let go of the caches and rows."""
        self.runner = None
