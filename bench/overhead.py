"""What octavo itself costs, without any device: µs per row and step of scheduling, and per request of checking it.

python bench/overhead.py
"""

from __future__ import annotations

import statistics
import time
import timeit

from octavo import SamplingParams
from octavo.frontend.inputs import InputProcessor
from octavo.messages import RowResult, SequenceSpec, StepResult, pack_ids
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.policy import FCFS
from octavo.scheduling.scheduler import Scheduler
from octavo.spec import CacheGroup, CacheSpec

ROWS = 256
STEPS = 200


def scheduling() -> float:
    """Median µs per row of schedule and update, all rows decoding."""
    group = CacheGroup(CacheSpec(8, 128), (0,))
    cache = CacheManager((group,), (ROWS * 64,), 16, True, b"bench")
    scheduler = Scheduler(cache, FCFS(), ROWS, ROWS * 64, 4096)
    params = SamplingParams(max_tokens=STEPS + 50, ignore_eos=True)
    for id in range(ROWS):
        tokens = pack_ids([5 + id % 50] * 32)
        scheduler.add(SequenceSpec(id, tokens, params, STEPS + 50, seed=id), 0.0)
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        batch = scheduler.schedule(0.0)
        assert batch is not None and len(batch.rows) == ROWS
        launched = time.perf_counter()
        result = StepResult([RowResult(row.id, row.epoch, [7]) for row in batch.rows])
        answered = time.perf_counter()
        scheduler.update(batch, result, 0.0)
        times.append(time.perf_counter() - answered + launched - started)
    return statistics.median(times[10:]) / ROWS * 1e6


def requests() -> tuple[float, float]:
    """Median µs of one default SamplingParams, and of turning one request into a sequence."""
    inputs = InputProcessor(None, (2,), 4096, 32_000, seed=0)
    ids, params = list(range(100)), SamplingParams(temperature=0.7, top_p=0.9, max_tokens=64)
    params_s = statistics.median(timeit.repeat(SamplingParams, number=2000, repeat=9)) / 2000

    def build() -> object:
        return inputs.build("r", None, ids, params)

    build_s = statistics.median(timeit.repeat(build, number=1000, repeat=9)) / 1000
    return params_s * 1e6, build_s * 1e6


def main() -> None:
    params, build = requests()
    print(f"schedule + update, {ROWS} rows: {scheduling():.2f} µs per row and step")
    print(f"SamplingParams(): {params:.1f} µs; InputProcessor.build, 100 tokens: {build:.1f} µs")


if __name__ == "__main__":
    main()
