"""Rows that are pooled beside rows that are continued: masks, chunks, admissions that fail, and values that are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.layers.pooling import Heads
from octavo.messages import SequenceSpec, pack_ids
from octavo.pooling import PoolingWork
from octavo.sampling import SamplingParams
from octavo.worker.runner import ModelRunner

from .toy import CPU, WIDTH, Driver, ToyModel, make_sizes, make_spec

PROMPT = [5, 6, 7, 8, 9, 10, 11]


def driver(heads: Heads | None) -> Driver:
    model, sizes = ToyModel(50), make_sizes()
    caches = [torch.full((400, sizes.page_size, WIDTH), float("nan"))]
    return Driver(ModelRunner(model, caches, 1, sizes, CPU, poison=True, heads=heads))


def pooled(id: int, prompt: list[int], task: str = "embed", **fields: object) -> SequenceSpec:
    work = PoolingWork(task, False, **fields)  # type: ignore[arg-type]
    return SequenceSpec(id, pack_ids(prompt), SamplingParams(temperature=0), 1, 0, pooling=work)


def vector(core: Driver, id: int) -> np.ndarray:
    return np.frombuffer(core.results[id][-1].pooled, "<f4")


def test_masks_stay_with_the_rows_they_were_made_for() -> None:
    core = driver(Heads())
    for id in (1, 3):
        core.add(pooled(id, PROMPT))
    for id in (2, 4):
        core.add(make_spec(id, PROMPT, temperature=0))
    mask = np.zeros((4, 2), np.int32)
    mask[1, 0], mask[3, 1] = 1 << 17, 1 << (45 - 32)  # of rows 2 and 4; nothing is allowed to those that are pooled
    core.step({1: 99, 2: 99, 3: 99, 4: 99}, mask)
    assert core.tokens[2][-1] == 17 and core.tokens[4][-1] == 45
    assert np.array_equal(vector(core, 1), vector(core, 3))
    assert core.results[1][-1].tokens == []


@pytest.mark.parametrize("kind", ["last", "mean", "cls"])
def test_chunks_and_neighbors_do_not_change_a_vector(kind: str) -> None:
    whole = driver(Heads(kind))
    whole.add(pooled(1, PROMPT))
    whole.step({1: 99})
    cut = driver(Heads(kind))
    cut.add(pooled(1, PROMPT))
    cut.add(pooled(2, PROMPT[::-1]))
    cut.add(make_spec(3, PROMPT, temperature=0))
    for shares in ({2: 3, 1: 2}, {3: 99}, {1: 1, 3: 1}, {1: 99, 2: 99, 3: 1}):
        cut.step(shares)
    assert np.array_equal(vector(whole, 1), vector(cut, 1))
    assert not np.array_equal(vector(cut, 2), vector(cut, 1))


def test_a_slot_forgets_the_sums_of_its_last_owner() -> None:
    core = driver(Heads("mean"))
    core.add(pooled(1, PROMPT))
    core.step({1: 3})
    core.end(1)
    core.add(pooled(2, PROMPT))
    core.step({2: 99})
    fresh = driver(Heads("mean"))
    fresh.add(pooled(2, PROMPT))
    fresh.step({2: 99})
    assert np.array_equal(vector(core, 2), vector(fresh, 2))


def test_a_row_that_cannot_be_pooled_gets_an_error_of_its_own() -> None:
    for heads, task, message in ((None, "embed", "cannot do this: embed"), (Heads(), "classify", "cannot do this")):
        core = driver(heads)
        core.add(pooled(1, PROMPT, task))
        core.add(make_spec(2, PROMPT, temperature=0))
        core.step({1: 99, 2: 99})
        assert message in core.results[1][0].error and core.results[1][0].pooled is None
        assert core.results[2][0].error is None and len(core.results[2][0].tokens) == 1


def test_a_model_that_cannot_generate_refuses_rows_that_want_it_and_asks_for_no_logits() -> None:
    core = driver(Heads(generates=False))
    core.runner.model.head = None  # type: ignore[attr-defined]
    core.add(make_spec(1, PROMPT, temperature=0))
    core.add(pooled(2, PROMPT))
    core.step({1: 99, 2: 99})
    assert "cannot generate" in core.results[1][0].error
    assert vector(core, 2).shape == (WIDTH,)


def test_values_that_are_no_numbers_end_their_own_row() -> None:
    core = driver(Heads())
    core.runner.model.nan_token = 7  # type: ignore[attr-defined]
    core.add(pooled(1, [5, 6, 7]))
    core.add(pooled(2, [5, 6, 8]))
    core.step({1: 99, 2: 99})
    assert "finite" in core.results[1][0].error or "NaN" in core.results[1][0].error
    assert np.isfinite(vector(core, 2)).all()


def test_the_places_of_a_second_text_are_told_apart() -> None:
    seen: list[list[int]] = []
    core = driver(Heads("mean", num_places=1000, generates=False))
    forward = core.runner.model.forward
    core.runner.model.forward = lambda batch: (seen.append(batch.positions.tolist()), forward(batch))[1]  # type: ignore[method-assign]
    core.add(pooled(1, PROMPT, second_from=4))
    core.add(pooled(2, PROMPT[:3]))
    with pytest.raises(IndexError):  # the toy looks its positions up in the page table
        core.step({1: 99, 2: 99})
    assert seen == [[0, 1, 2, 3, 1004, 1005, 1006, 0, 1, 2]]
