"""A lane made of CPU tensors that copies as late as it may: when something waits, or before a later piece must run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class LateTicket:
    """Implements `Ticket`."""

    def __init__(self, lane: LateLane, number: int) -> None:
        self._lane = lane
        self._number = number

    def hold(self) -> None:
        self._lane.catch_up(self._number)

    def seconds(self) -> float | None:
        return 0.001 if self._lane.done >= self._number else None


class LateLane:
    """Implements `Lane`. At most `patience` pieces are left undone, as a step's end is a stream's chance to run."""

    def __init__(self, patience: int = 1) -> None:
        self.patience = patience
        self.queued: list[Callable[[], None]] = []
        self.done = 0

    def run(self, work: Callable[[], None]) -> LateTicket:
        self.queued.append(work)
        self.catch_up(len(self.queued) - self.patience)
        return LateTicket(self, len(self.queued))

    def catch_up(self, number: int) -> None:
        """Do everything up to a piece, in order."""
        while self.done < number:
            self.queued[self.done]()
            self.done += 1

    def host_memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.zeros(tuple(shape), dtype=dtype)

    def numbers(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)
