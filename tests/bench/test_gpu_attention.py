"""bench/gpu/attention.py where there is no GPU: a rehearsal, and what it counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("gpu.attention")


def test_it_counts_the_operations_on_keys_that_are_seen(bench: ModuleType) -> None:
    # Three queries at the end of five keys see 3, 4 and 5; each costs a multiplication and an addition, twice.
    assert bench.operations(((5, 3),), bench.LAYER) == (3 + 4 + 5) * 4 * 32 * 128


def test_a_rehearsal_goes_through_every_kind_of_case(bench: ModuleType) -> None:
    rows = list(bench.measure(bench.Scene("cpu", budget_s=60, is_rehearsal=True)))
    assert [row.work for row in rows] == [
        "attention, decode rehearsed, float32 cache",
        "attention, chunk rehearsed",
        "attention, 64 x 1k decodes with 512 behind 3.5k",
        "attention, a prompt of 20 by torch",
    ]
    assert all(row.value is not None and row.value > 0 for row in rows)
