"""How long work takes on a device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch

Work = Callable[[int], object]


def seconds(device: torch.device, work: Work, rotate: int = 1, is_recorded: bool = False, repeats: int = 15) -> float:
    """Median seconds of one `work(i)`, i going round range(rotate), so that no cache holds what the next one reads.

    A round is timed by events on a GPU, launched once as a CUDA graph when `is_recorded`, so that launches cost what
    they cost in a recorded step; on a CPU by the clock.
    """
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            for i in range(rotate):
                work(i)
            times.append((time.perf_counter() - started) / rotate)
        return statistics.median(times)
    round_of = recorded(work, rotate) if is_recorded else lambda: launched(work, rotate)
    round_of()
    round_of()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        started.record()
        round_of()
        ended.record()
        ended.synchronize()
        times.append(started.elapsed_time(ended) / 1000 / rotate)
    return statistics.median(times)


def launched(work: Work, rotate: int) -> None:
    """One round."""
    for i in range(rotate):
        work(i)


def recorded(work: Work, rotate: int) -> Callable[[], None]:
    """One round as a CUDA graph; it has run before, on a stream of its own, so that nothing compiles meanwhile."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        launched(work, rotate)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launched(work, rotate)
    return graph.replay


def free(device: torch.device) -> None:
    """Give back memory that no tensor holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
