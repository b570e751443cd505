"""What a GPU needs beside the KV cache is found by doing it: the largest step, then the largest recordings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.platforms.accelerator import Usage
from octavo.worker.gpu import OnGpu
from octavo.worker.graphs.buckets import Buckets
from octavo.worker.rows import Sizes
from octavo.worker.runner import ModelRunner
from octavo.worker.trial import LEAST_BYTES, SPARE_BYTES, largest_step, measure, shares_of

from .fake_cuda import FakeCuda, Tape
from .recordable import RecordableToy, caches_of, torch_samplers
from .toy import CPU, make_sizes

MIB = 2**20
TOTAL = 1000 * MIB


class Metered(FakeCuda):
    """A GPU whose memory is taken by what a test says: its weights, its largest step, and each recording."""

    def __init__(self, weights: int, step: int, first: int, further: int, libraries: int) -> None:
        super().__init__()
        self.weights, self.step, self.libraries = weights, step, libraries
        self.shares = (first, further)
        self.has_run = False
        self.pools: list[object] = []

    def fetch(self, tensors):  # a step has been sampled
        self.has_run = True
        return super().fetch(tensors)

    def record(self, work: Callable[[], None], pool: object) -> Tape:
        self.pools.append(pool)
        return super().record(work, pool)

    def usage(self, is_new: bool = False) -> Usage:
        other = 300 * MIB + (self.libraries if self.has_run else 0)
        # Three recordings are made for each bucket: a forward pass, and sampling without and with random rows.
        buckets = -(-len(self.pools) // 3)
        recorded = self.shares[0] * (buckets > 0) + self.shares[1] * max(0, buckets - 1)
        peak = self.weights + (self.step if self.has_run and not is_new else 0)
        return Usage(peak, other, TOTAL - other - self.weights - recorded)


def runner_on(gpu: FakeCuda, sizes: Sizes, buckets: tuple[int, ...], num_pages: int) -> ModelRunner:
    model = RecordableToy(64, windows=(None, 6))
    on_gpu = OnGpu(gpu, Buckets(buckets), torch_samplers)
    return ModelRunner(model, caches_of(model, sizes, num_pages), 2, sizes, CPU, on_gpu=on_gpu)


def test_weights_steps_recordings_and_libraries_are_told_apart() -> None:
    gpu = Metered(weights=100 * MIB, step=40 * MIB, first=20 * MIB, further=3 * MIB, libraries=50 * MIB)
    sizes = make_sizes(rows=8, tokens=32)
    before = Usage(0, 300 * MIB, TOTAL)
    found = measure(gpu, before, sizes, 2, lambda pages: runner_on(gpu, sizes, (1, 2, 4, 8), pages))
    assert (found.weights_bytes, found.step_bytes, found.other_bytes) == (100 * MIB, 40 * MIB, 50 * MIB)
    assert found.recordings_bytes == 20 * MIB + 3 * 3 * MIB
    assert found.engine_bytes == (40 + 50 + 29) * MIB + SPARE_BYTES
    assert len(gpu.pools) == 2 * 3 and len(set(map(id, gpu.pools))) == 1


@pytest.mark.parametrize(("buckets", "expected"), [((), 0), ((4,), 5 * MIB), ((4, 8), 5 * MIB + LEAST_BYTES)])
def test_recordings_cost_what_the_largest_and_the_next_cost(buckets: tuple[int, ...], expected: int) -> None:
    gpu = Metered(weights=MIB, step=MIB, first=5 * MIB, further=0, libraries=0)
    sizes = make_sizes(rows=8, tokens=8)  # a token for each row: a step that decodes, which nothing is recorded for yet
    found = measure(gpu, Usage(0, 0, TOTAL), sizes, 2, lambda pages: runner_on(gpu, sizes, buckets, pages))
    assert found.recordings_bytes == expected


@given(rows=st.integers(1, 40), extra=st.integers(0, 200), length=st.integers(2, 64), page=st.integers(1, 16))
def test_the_largest_step_is_as_large_as_one_may_be_and_keeps_to_its_pages(
    rows: int, extra: int, length: int, page: int
) -> None:
    sizes = make_sizes(rows=rows, tokens=rows + extra, length=length, page=page)
    shares = shares_of(sizes)
    step = largest_step(sizes, 2)
    assert len(step.rows) == rows and all(1 <= share < length for share in shares)
    assert step.num_tokens == min(rows + extra, sum(shares)) and max(shares) - min(shares) <= 1
    pages = -(-max(shares) // page)
    for work, share in zip(step.rows, shares, strict=True):
        assert work.emit and work.num_tokens == share and work.new is not None
        assert all(set(table) <= set(range(pages)) and len(table) == -(-share // page) for table in work.new_pages)
