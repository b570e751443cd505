"""Accelerator: a device that computes behind the host's back: what is queued on it runs later, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Mark(Protocol):
    """A point in a device's work."""

    def wait(self) -> None:
        """Block until everything queued before the mark is done."""
        ...


class Fetched(Protocol):
    """Tensors on their way to the host, copied beside what is queued after them."""

    def wait(self) -> Sequence[Tensor]:
        """The host's copies, once they are there."""
        ...

    def release(self) -> None:
        """Let what is queued from now on overwrite the tensors, once they have been copied; the host does not wait."""
        ...


class Recording(Protocol):
    """Work that has been queued once and can be again: the same kernels on the same addresses."""

    def replay(self) -> None:
        """Queue the work."""
        ...


@dataclass(frozen=True)
class Usage:
    """Bytes of a device: taken by tensors at most since the last reset, taken by anyone beside them now, free now."""

    peak_bytes: int
    other_bytes: int
    free_bytes: int


class Accelerator(Protocol):
    """What a worker asks of a GPU."""

    device: torch.device

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Host memory [count] that the device copies from by itself."""
        ...

    def upload(self, source: Tensor, target: Tensor) -> None:
        """Queue a copy from pinned memory, which must stay as it is until a later mark is reached."""
        ...

    def send(self, array: NDArray[np.generic]) -> Tensor:
        """A copy of any host array on the device, queued; the array may change at once."""
        ...

    def mark(self) -> Mark:
        """A mark behind everything queued so far."""
        ...

    def fetch(self, tensors: Sequence[Tensor]) -> Fetched:
        """Copy tensors to the host once everything queued so far is done."""
        ...

    def pool(self) -> object:
        """Memory for what is inside recordings, which share it because one runs after the other."""
        ...

    def record(self, work: Callable[[], None], pool: object) -> Recording:
        """Record `work`, which has run before and never waits for the device."""
        ...

    def usage(self, is_new: bool = False) -> Usage:
        """What is taken, once all work is done; `is_new` lets the peak begin here, with no memory kept in reserve."""
        ...
