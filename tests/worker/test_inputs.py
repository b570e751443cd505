"""What a step's inputs are made of: on a CPU the same memory, and the same batch while its shape stays."""

from __future__ import annotations

from itertools import pairwise

import pytest

from octavo.forward import ForwardBatch
from octavo.worker.runner import ModelRunner

from .toy import Driver, ToyModel, make_runner, make_sizes, make_spec


def watch(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> list[tuple[ForwardBatch, dict[str, list]]]:
    """Each step's batch, and what it held."""
    seen: list[tuple[ForwardBatch, dict[str, list]]] = []
    forward = runner.model.forward

    def note(batch: ForwardBatch) -> object:
        tensors = {name: getattr(batch, name).tolist() for name in ("tokens", "positions", "starts", "lengths")}
        group = batch.groups[0]
        seen.append((batch, {**tensors, "pages": group.page_table.tolist(), "slots": group.slots.tolist()}))
        assert batch.host_starts == tensors["starts"] and batch.host_lengths == tensors["lengths"]
        return forward(batch)

    monkeypatch.setattr(runner.model, "forward", note)
    return seen


def test_steps_that_decode_the_same_rows_share_a_batch_until_a_page_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(ToyModel(64), make_sizes(page=4))
    seen = watch(runner, monkeypatch)
    driver = Driver(runner)
    for id in (1, 2):
        driver.add(make_spec(id, range(5)))
    driver.step({1: 9, 2: 9})
    for _ in range(5):
        driver.step({1: 1, 2: 1})
    batches = [batch for batch, _ in seen]
    assert [a is b for a, b in pairwise(batches)] == [False, True, True, False, True]
    for step, (_, held) in enumerate(seen[1:]):
        position = 5 + step
        assert held["positions"] == [position] * 2 and held["lengths"] == [position + 1] * 2
        assert held["tokens"] == [driver.tokens[id][position] for id in (1, 2)]
        assert held["slots"] == [pages[position // 4] * 4 + position % 4 for pages in held["pages"]]


def test_a_row_that_leaves_or_reads_its_prompt_is_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(ToyModel(64), make_sizes(page=16))
    seen = watch(runner, monkeypatch)
    driver = Driver(runner)
    for id in (1, 2):
        driver.add(make_spec(id, range(4)))
    driver.step({1: 1, 2: 4})  # of two rows one has a prompt left
    driver.step({1: 3, 2: 1})
    driver.step({1: 1, 2: 1})
    driver.step({2: 1})
    driver.step({2: 1})
    assert [held["starts"] for _, held in seen] == [[0, 1, 5], [0, 3, 4], [0, 1, 2], [0, 1], [0, 1]]
    assert seen[3][0] is seen[4][0] and all(seen[i][0] is not seen[i + 1][0] for i in range(3))


def test_a_batch_that_is_used_again_has_no_plan_of_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(ToyModel(64), make_sizes(page=16))
    plans: list[object] = []
    forward = runner.model.forward

    def plan(batch: ForwardBatch) -> object:
        plans.extend(group.plan for group in batch.groups)
        for group in batch.groups:
            group.plan = "of this step"
        return forward(batch)

    monkeypatch.setattr(runner.model, "forward", plan)
    driver = Driver(runner)
    driver.add(make_spec(1, range(5)))
    for _ in range(4):
        driver.step({1: 9})
    assert plans == [None] * 4
