"""Draws that never wait for the host: the numbers and the tokens are those of the definition on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.messages import NewRow
from octavo.worker.rows import RowFields
from octavo.worker.sampling import random as host
from octavo.worker.sampling.parameters import Parameters
from octavo.worker.sampling.resident import (
    NUM_FIELDS,
    ResidentParameters,
    TorchResidentSampler,
    take_likeliest,
    uniforms,
)
from octavo.worker.sampling.torch_logits import TorchLogits

from .fake_cuda import FakeCuda, NoWaiting
from .toy import make_spec

ROWS, V = 5, 40


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**31 - 1)), min_size=1, max_size=20))
def test_random_numbers_are_those_of_the_host(pairs: list[tuple[int, int]]) -> None:
    seeds, positions = np.array([s for s, _ in pairs], np.uint64), np.array([p for _, p in pairs])
    found = uniforms(torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(positions))
    assert found.tolist() == host.uniforms(seeds, positions).tolist()


PARAMS = st.fixed_dictionaries(
    {"temperature": st.sampled_from((0.0, 0.05, 0.7, 1.0, 2.0))},
    optional={
        "top_k": st.sampled_from((1, 2, 7, V - 1, V, 1000)),
        "top_p": st.sampled_from((0.01, 0.5, 0.9, 1.0)),
        "min_p": st.sampled_from((0.01, 0.3, 1.0)),
    },
)


@settings(max_examples=30, deadline=None)
@given(st.lists(PARAMS, min_size=ROWS, max_size=ROWS), st.integers(0, 2**32), st.sampled_from((0.5, 4.0)))
def test_tokens_are_those_of_torch_logits(params: list[dict[str, object]], seed: int, scale: float) -> None:
    parameters = Parameters(RowFields(ROWS))
    resident = ResidentParameters(parameters, ROWS, FakeCuda())
    for row, fields in enumerate(params):
        new = NewRow(make_spec(row, [1, 2], seed=seed + row - 2**31, **fields), b"\0" * 8, 0)
        parameters.admit(row, new)
        resident.admit(row, new)
    resident.flush()
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(ROWS, V, generator=generator) * scale * 8).round() / 8  # with ties
    positions = np.arange(ROWS) * 1000 + seed % 1000
    expected = TorchLogits(logits.clone())
    draws = parameters.draws(np.arange(ROWS), positions)
    if draws is not None:
        expected.draw(draws)
    ids, problems = torch.full((ROWS,), -1), torch.full((ROWS,), -1, dtype=torch.int8)
    with NoWaiting():
        rows, at = torch.arange(ROWS, dtype=torch.int32), torch.from_numpy(positions).int()
        TorchResidentSampler(resident)(logits.clone(), rows, at, ids, problems)
    assert ids.tolist() == expected.ids.tolist()
    assert problems.tolist() == [0] * ROWS


@pytest.mark.parametrize("is_random", [False, True])
def test_logits_that_are_no_numbers_are_told_by_row(is_random: bool) -> None:
    resident = ResidentParameters(Parameters(RowFields(3)), 3, FakeCuda())
    logits = torch.zeros(3, V)
    logits[0, 3], logits[1, 5], logits[2, 7] = float("nan"), 1.0, float("inf")
    ids, problems = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int8)
    sample = TorchResidentSampler(resident) if is_random else take_likeliest
    sample(logits, torch.arange(3, dtype=torch.int32), torch.zeros(3, dtype=torch.int32), ids, problems)
    assert problems.tolist() == [1, 0, 1] and ids[1] == 5


def test_a_row_without_an_owner_is_greedy_and_so_is_nobody() -> None:
    parameters = Parameters(RowFields(2))
    resident = ResidentParameters(parameters, 2, FakeCuda())
    assert resident.table.shape == (3, NUM_FIELDS)
    nobody = resident.table[2].clone()
    new = NewRow(make_spec(0, [1], temperature=1.0, top_k=3, seed=9), b"\0" * 4, 0)
    parameters.admit(1, new)
    resident.admit(1, new)
    resident.flush()
    assert not torch.equal(resident.table[1], nobody) and torch.equal(resident.table[2], nobody)
    resident.drop(1)
    resident.flush()
    assert torch.equal(resident.table[1], nobody)
