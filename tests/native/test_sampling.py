"""Native sampling against torch's, and draws against exact arithmetic on the library's own exponentials."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from octavo.platforms import native
from octavo.worker.sampling.logits import Add, Draws, Edit, Exclude, KeepOnly, Penalize
from octavo.worker.sampling.native_logits import NativeLogits
from octavo.worker.sampling.random import uniforms
from octavo.worker.sampling.torch_logits import SCALE, TorchLogits

library: ModuleType = native.library  # type: ignore[assignment]
pytestmark = pytest.mark.skipif(library is None, reason=f"no native library: {native.missing}")
VOCABULARIES = (1, 15, 127, 128, 129, 1003)
LARGE = 60_011  # enough for members to share a row


@pytest.fixture(autouse=True, params=library.kernel_levels() if library else [])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = library.kernel_level()
    library.use_kernel_level(request.param)
    yield request.param
    library.use_kernel_level(before)


@cache
def team_of(size: int) -> Any:
    return library.ThreadTeam(size)


def on_native(logits: Tensor, team: int = 2) -> NativeLogits:
    return NativeLogits(logits, team_of(team))


def some_logits(rows: int, vocab_size: int, seed: int = 0) -> Tensor:
    """Logits [rows, vocab_size] of an odd stride, every third row coarse, so that many are equal."""
    logits = torch.randn(rows, vocab_size + 5, generator=torch.Generator().manual_seed(seed)) * 3
    logits[::3].round_()
    return logits[:, :vocab_size]


def draws(rows: list[int], **fields: object) -> Draws:
    def column(name: str, default: float, dtype: type[np.generic]) -> Any:
        return np.resize(np.array(fields.get(name, default), dtype), len(rows))

    return Draws(
        np.array(rows),
        column("temperature", 1.0, np.float32),
        column("top_k", 0, np.int64),
        column("top_p", 1.0, np.float64),
        column("min_p", 0.0, np.float64),
        np.arange(len(rows)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        np.arange(len(rows)) * 2**33 + 5,
    )


# ---- the likeliest
@pytest.mark.parametrize("team", [1, 3])
def test_the_likeliest_is_the_lowest_of_equals_and_the_first_nan(team: int) -> None:
    for vocab_size in (*VOCABULARIES, LARGE):
        logits = some_logits(7, vocab_size)
        logits[1, vocab_size // 2] = torch.nan
        logits[2, vocab_size // 3 :] = torch.nan
        logits[3] = -torch.inf
        logits[4, -1] = torch.inf
        found, expected = on_native(logits, team), TorchLogits(logits)
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.top.nan_to_num(), expected.top.nan_to_num())


def test_zeros_of_either_sign_are_equal() -> None:
    found = on_native(torch.tensor([[-1.0, -0.0, 0.0], [-1.0, 0.0, -0.0]]))
    assert found.ids.tolist() == [1, 1]
    assert found.top.sign().tolist() == [0, 0]
    assert math.copysign(1, found.top[0].item()) == -1


# ---- edits
def some_edits(rng: np.random.Generator, rows: int, vocab_size: int) -> list[Edit]:
    """At most one of each kind for a row, in the order of the pipeline."""

    def ids() -> Any:
        return rng.permutation(vocab_size)[: rng.integers(1, vocab_size + 1)].astype(np.int32)

    edits: list[Edit] = []
    for row in range(rows):
        chosen, some = ids(), rng.normal(0, 4, vocab_size).astype(np.float32)
        some = some[: len(chosen)]
        edits += [KeepOnly(row, np.sort(ids())), Exclude(row, ids()[:5]), Add(row, chosen, some)]
        edits += [Penalize(row, chosen, np.maximum(0, some.round()), *rng.choice([0.0, 0.7, -1.0], 2), 1.3)]
    return [edit for edit in edits if rng.random() < 0.4]


@pytest.mark.parametrize("team", [1, 3])
def test_edits_and_masks_change_what_torchs_do(team: int) -> None:
    rng = np.random.default_rng(7)
    for turn in range(40):
        vocab_size = int(rng.choice([*VOCABULARIES, 300, LARGE], p=[0.14] * 7 + [0.02]))
        rows = 8 if vocab_size == LARGE else int(rng.integers(1, 6))
        logits = some_logits(rows, vocab_size, turn)
        if turn % 5 == 0:
            logits[0, rng.integers(vocab_size)] = torch.nan
        other = logits.clone()
        edits = some_edits(rng, rows, vocab_size)
        mask = rng.integers(-(2**31), 2**31, (rows, -(-vocab_size // 32))).astype(np.int32)
        mask[rng.random(mask.shape) < 0.3] = -1
        mask[rng.random(mask.shape) < 0.3] = 0
        found, expected = on_native(logits, team), TorchLogits(other)
        for changes in (edits[: len(edits) // 2], edits[len(edits) // 2 :]):
            chosen = mask if turn % 2 else None
            found.edit(changes, chosen)
            expected.edit(changes, chosen)
            torch.testing.assert_close(logits, other, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(found.ids, expected.ids)
            assert torch.equal(found.top.nan_to_num(), expected.top.nan_to_num())


# ---- draws
def exponentials(x: Tensor) -> Tensor:
    """The library's own e^x of x [n]."""
    out, step = torch.empty_like(x), library.Step()
    record, tape = library.Map(), library.Tape(team_of(1))
    record.map, record.columns = 6, len(x)
    record.x, record.out = library.Matrix(x.data_ptr(), len(x)), library.Matrix(out.data_ptr(), len(x))
    tape.map(record)
    step.num_tokens = 1
    tape.run(step)
    return out


def drawn(logits: Tensor, asked: Draws, i: int) -> int:
    """The token that draw i must find in logits [V]: the definition, in whole numbers."""
    top, temperature = logits.max(), torch.tensor(asked.temperature[i])
    weights = exponentials((logits - top) / temperature)
    if asked.min_p[i] > 0:
        low = top + torch.tensor(math.log(asked.min_p[i]) * float(temperature)).float()
        weights[logits < low] = 0
    if 0 < asked.top_k[i] < len(logits):
        weights[logits < logits.topk(int(asked.top_k[i])).values[-1]] = 0
    whole = (weights.double() * SCALE).long()
    if asked.top_p[i] < 1:
        wanted = max(1, math.ceil(asked.top_p[i] * float(whole.sum())))
        order = weights.argsort(descending=True)
        border = weights[order][torch.searchsorted(whole[order].cumsum(0), wanted)]
        whole[weights < border] = 0
    uniform = uniforms(asked.seeds[i : i + 1], asked.positions[i : i + 1])[0]
    target = min(int(uniform * float(whole.sum())), int(whole.sum()) - 1)
    return int(torch.searchsorted(whole.cumsum(0), target, right=True))


FILTERS = [
    {},
    {"temperature": [0.7, 1.0, 1.9, 0.01]},
    {"temperature": 0.8, "top_k": [1, 2, 5, 40, 10**6]},
    {"temperature": 0.8, "top_p": [0.95, 0.5, 0.01, 0.9999999]},
    {"temperature": 1.3, "min_p": [1e-9, 0.02, 0.3, 1.0]},
    {"temperature": [0.6, 1.1], "top_k": [0, 50, 3], "top_p": [1.0, 0.9], "min_p": [0.0, 0.0, 0.01, 0.001, 0.0]},
]


@pytest.mark.parametrize("filters", FILTERS)
def test_a_draw_is_exactly_the_one_that_whole_numbers_give(filters: dict[str, object]) -> None:
    for vocab_size in (*VOCABULARIES, 5000):
        rows = 30 if vocab_size < 5000 else 6
        logits = some_logits(rows, vocab_size)
        logits[1] = logits[1, 0]
        logits[2, vocab_size // 2] = 60
        logits[4, ::2] = -torch.inf if vocab_size > 1 else 0
        asked = draws(list(range(rows)), **filters)
        found = on_native(logits)
        found.draw(asked)
        assert found.ids.tolist() == [drawn(logits[i], asked, i) for i in range(rows)]


@pytest.mark.parametrize("filters", FILTERS)
def test_the_token_depends_neither_on_the_team_nor_on_the_level(filters: dict[str, object]) -> None:
    logits = some_logits(9, LARGE)
    for rows in ([4], [8, 1], list(range(9))):
        expected = None
        for level in ("scalar", library.kernel_level()):
            library.use_kernel_level(level)
            for team in (1, 2, 3):
                found = on_native(logits, team)
                before = found.ids.clone()
                found.draw(draws(rows, **filters))
                expected = found.ids if expected is None else expected
                assert torch.equal(found.ids, expected)
                others = [row for row in range(9) if row not in rows]
                assert torch.equal(found.ids[others], before[others])


@pytest.mark.parametrize("filters", FILTERS)
def test_torch_draws_the_same_where_no_rounding_decides(filters: dict[str, object]) -> None:
    logits = some_logits(40, 3001)
    asked = draws(list(range(40)), **filters)
    found, expected = on_native(logits), TorchLogits(logits)
    found.draw(asked)
    expected.draw(asked)
    assert (found.ids != expected.ids).sum() <= 1


def test_rows_that_are_no_numbers_keep_their_likeliest() -> None:
    for vocab_size in (100, LARGE):
        logits = some_logits(3, vocab_size)
        logits[0, 7], logits[1, 9], logits[2] = torch.nan, torch.inf, -torch.inf
        for rows in ([0], [0, 1, 2]):
            found = on_native(logits, 2)
            found.draw(draws(rows, top_p=0.9))
            assert found.ids.tolist() == [7, 9, 0]


def test_a_nucleus_among_equals_keeps_them_all() -> None:
    logits = torch.zeros(64, 5000)
    logits[:, 1000:] = -1.0
    asked = draws(list(range(64)), top_p=0.1)
    found = on_native(logits)
    found.draw(asked)
    assert found.ids.max() < 1000
    assert len(found.ids.unique()) > 50


# ---- log-probabilities
@pytest.mark.parametrize("count", [0, 1, 20, 2000])
def test_logprobs_are_those_of_the_softmax_with_lower_ids_first(count: int) -> None:
    for vocab_size in (*VOCABULARIES, LARGE):
        logits = some_logits(4, vocab_size)
        rows = np.array([2, 0, 3])
        tokens = torch.tensor([0, vocab_size // 2, vocab_size - 1])
        found = on_native(logits).top_logprobs(rows, tokens, count)
        expected = logits[rows].double().log_softmax(-1)
        kept = min(count, vocab_size)
        order = (-logits[rows]).argsort(dim=-1, stable=True)[:, :kept]
        assert torch.equal(found.ids, torch.cat((tokens[:, None], order), 1))
        torch.testing.assert_close(found.values, expected.gather(1, found.ids), rtol=0, atol=1e-6)
        own = expected.gather(1, tokens[:, None])
        assert torch.equal(found.ranks, 1 + (expected > own).sum(1))


def test_logprobs_of_a_row_that_is_no_number_are_none_either() -> None:
    logits = some_logits(2, 300)
    logits[0, 5] = torch.inf
    found = on_native(logits).top_logprobs(np.arange(2), torch.tensor([5, 6]), 3)
    assert found.values[0].isnan().all()
    assert found.values[1].isfinite().all()
    assert ((found.ids >= 0) & (found.ids < 300)).all()


def test_a_copy_does_not_follow_the_edits_of_the_step() -> None:
    logits = some_logits(3, 200)
    step = on_native(logits)
    copy = step.copy(np.array([1]))
    before = copy.top_logprobs(np.array([0]), torch.tensor([4]), 2)
    step.edit([Exclude(1, np.arange(200, dtype=np.int32))], None)
    after = copy.top_logprobs(np.array([0]), torch.tensor([4]), 2)
    assert torch.equal(before.values, after.values)
