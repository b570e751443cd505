"""Lane: where copies between a device and the host run, beside the device's own work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Ticket(Protocol):
    """Copies on their way."""

    def hold(self) -> None:
        """Let what is queued on the device from now on begin behind them; the host does not wait."""
        ...

    def seconds(self) -> float | None:
        """How long they took; None while they run."""
        ...


class Lane(Protocol):
    """Work in order, each piece behind what was queued on the device before it, and beside what is queued after."""

    def run(self, work: Callable[[], None]) -> Ticket:
        """Queue `work`."""
        ...

    def host_memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory on the host that the device copies to and from by itself."""
        ...

    def numbers(self, values: Sequence[int]) -> Tensor:
        """int64 values on the device, for the work that is being queued."""
        ...


class Done:
    """Copies that have been made."""

    def __init__(self, took_s: float) -> None:
        self._took_s = took_s

    def hold(self) -> None:
        """They are done."""

    def seconds(self) -> float:
        return self._took_s


class InlineLane:
    """A device that is the host: work is done when it is queued. Implements `Lane`."""

    def run(self, work: Callable[[], None]) -> Done:
        began = time.perf_counter()
        work()
        return Done(time.perf_counter() - began)

    def host_memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=dtype)

    def numbers(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)


class Behind:
    """Copies on a stream of their own, between two events."""

    def __init__(self, device: torch.device, began: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        self._device = device
        self._began = began
        self._ended = ended

    def hold(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._ended)

    def seconds(self) -> float | None:
        return self._began.elapsed_time(self._ended) / 1e3 if self._ended.query() else None


class StreamLane:
    """A stream of a GPU that nothing else uses, and pinned memory. Implements `Lane`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], None]) -> Behind:
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            began.record(self._stream)
            work()
            ended.record(self._stream)
        return Behind(self.device, began, ended)

    def host_memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def numbers(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).pin_memory().to(self.device, non_blocking=True)


def lane_of(device: torch.device) -> Lane:
    """Where copies of a device run."""
    return StreamLane(device) if device.type == "cuda" else InlineLane()
