"""Two engines in turn: the order of the runs, what the memory gave meanwhile, and the median of the ratios."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from comparison.engines import Worker
from comparison.workloads import Batch, Work

PROBE_BYTES = 512 * 2**20  # beyond every cache


@dataclass(frozen=True)
class Run:
    """One timed run: seconds, and what the machine was like just before and meanwhile."""

    seconds: float
    read_gb_per_s: float
    steal_s: float  # CPU time that the hypervisor gave to others


def steal_s() -> float:
    """Seconds stolen from this machine's cores since it started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


class Probe:
    """Read bandwidth of all cores together, GB/s: median of a few passes over a buffer larger than every cache."""

    def __init__(self, num_threads: int) -> None:
        self._parts = np.array_split(np.ones(PROBE_BYTES // 8, np.int64), num_threads)
        self._pool = ThreadPoolExecutor(num_threads)

    def __call__(self, passes: int = 7) -> float:
        speeds = []
        for _ in range(passes):
            started = time.perf_counter()
            list(self._pool.map(np.bitwise_or.reduce, self._parts))  # of numpy's reductions the one that only reads
            speeds.append(PROBE_BYTES / (time.perf_counter() - started) / 1e9)
        return statistics.median(speeds)


def interleave(pairs: int) -> list[tuple[int, str]]:
    """(pair, side) in the order of running: A B, B A, A B …"""
    return [(pair, side) for pair in range(pairs) for side in ("ab", "ba")[pair % 2]]


def steady_pairs(ours: Sequence[Run], theirs: Sequence[Run], change: float) -> list[int]:
    """Pairs whose probes differ by at most `change` (a share); all of them when fewer than three do."""
    pairs = range(len(ours))
    probes = [sorted((ours[i].read_gb_per_s, theirs[i].read_gb_per_s)) for i in pairs]
    steady = [i for i in pairs if probes[i][1] <= probes[i][0] * (1 + change)]
    return steady if len(steady) >= 3 else list(pairs)


def median_interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """Bootstrap interval of the median, 95 %."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(draws * 0.025)], medians[int(draws * 0.975)]


def summarize(
    work: Work, ours: Sequence[Run], theirs: Sequence[Run], step_bytes: int | None, change: float
) -> dict[str, Any]:
    """Speeds in tokens/s, the median of the ratios (theirs / ours, in seconds) and what the memory could have given.

    `step_bytes` are the weights that one decode step of ours reads. Without `theirs`, no ratio.
    """
    summary: dict[str, Any] = speeds("ours", work, ours)
    summary["read_gb_per_s"] = statistics.median(run.read_gb_per_s for run in [*ours, *theirs])
    if work.kind == "decode" and step_bytes:
        shares = [step_bytes * work.num_tokens / run.seconds / 1e9 / run.read_gb_per_s for run in ours]
        summary["share_of_bandwidth"] = statistics.median(shares)
    if theirs:
        used = steady_pairs(ours, theirs, change)
        ratios = [theirs[i].seconds / ours[i].seconds for i in used]
        summary |= speeds("theirs", work, theirs)
        summary |= {"ratio": statistics.median(ratios), "interval": median_interval(ratios)}
        summary |= {"ratios": ratios, "pairs_used": used}
    return summary


def speeds(side: str, work: Work, runs: Sequence[Run]) -> dict[str, float]:
    """Median and best seconds of one side, and tokens/s at the median."""
    seconds = [run.seconds for run in runs]
    median = statistics.median(seconds)
    return {
        f"{side}_seconds": median,
        f"{side}_best_seconds": min(seconds),
        f"{side}_tokens_per_s": work.num_tokens / median,
    }


def measure(
    work: Work,
    workers: Mapping[str, Worker],
    pairs: int,
    batches: Callable[[int | None], list[Batch]],
    probe: Callable[[], float],
    lock_file: Path | None,
    tick: Callable[[str], None],
) -> dict[str, list[Run]]:
    """The runs of side "a" and, if there is one, "b". `batches` gives those of a pair; None, the warm-up's."""
    runs: dict[str, list[Run]] = {"a": [], "b": []}
    for worker in workers.values():
        tick(f"{worker.name} {work.name}: warm-up")
        with lock(lock_file):
            worker.run(work.kind, batches(None))
    for pair, side in interleave(pairs):
        if side not in workers:
            continue
        worker = workers[side]
        tick(f"{worker.name} {work.name}: run {pair + 1} of {pairs}")
        with lock(lock_file):
            speed, stolen = probe(), steal_s()
            seconds = work.seconds(worker.run(work.kind, batches(pair)))
            runs[side].append(Run(seconds, speed, steal_s() - stolen))
    return runs


@contextlib.contextmanager
def lock(path: Path | None) -> Iterator[None]:
    """Hold the lock of a file, so that measurements of several people on one machine take turns."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
