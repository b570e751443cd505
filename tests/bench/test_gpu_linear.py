"""bench/gpu/linear.py where there is no GPU: a rehearsal, and what it counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("triton")

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("gpu.linear")


def test_a_rehearsal_goes_through_every_kind_of_weight(bench: ModuleType) -> None:
    rows = list(bench.measure(bench.Scene("cpu", budget_s=600, is_rehearsal=True)))
    names = {row.work for row in rows}
    assert names == {
        *(f"linear tiny, {kind}, {tokens} tokens" for kind in bench.KINDS for tokens in (1, 70)),
        "experts 4 x 16, bf16, 3 tokens",
    }
    assert all(row.value is not None and row.value > 0 for row in rows)


def test_a_weight_counts_with_its_scales(bench: ModuleType) -> None:
    scene = bench.Scene("cpu", budget_s=600, is_rehearsal=True)
    counted = {kind: bench.make_layer(scene, kind, 128, 256, False, torch.bfloat16).bytes for kind in bench.KINDS}
    eight = 128 * 256 + 128 * 4
    assert counted == {"bf16": 2 * 128 * 256, "int8": eight, "fp8": eight, "int4": 128 * 256 // 2 + 128 * 2 * 2}


def test_copies_lie_elsewhere(bench: ModuleType) -> None:
    first = bench.pack(bench.Scene("cpu", 60, is_rehearsal=True), "int4", 64, 64, False, torch.float32)
    other = bench.elsewhere(first)
    assert torch.equal(first.matrix.values, other.matrix.values)
    assert first.matrix.values.data_ptr() != other.matrix.values.data_ptr()
