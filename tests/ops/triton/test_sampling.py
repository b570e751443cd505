"""Sampling on a GPU against its definition in torch: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

import triton
import triton.language as tl

from octavo.ops.triton import sampling
from octavo.ops.triton.sampling import Tiling
from octavo.ops.triton.weights import uniform, weight
from octavo.worker.sampling.logits import ALL, Add, Draws, Edit, Exclude, KeepOnly, Penalize
from octavo.worker.sampling.random import uniforms
from octavo.worker.sampling.torch_logits import Filters, TorchLogits, exponential, scaled
from octavo.worker.sampling.triton_logits import TritonLogits, TritonResidentSampler, records, take_likeliest

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HAS_GPU = DEVICE.type == "cuda"
# So little at a time that short rows are cut as long ones are, and so short a list that searches do without.
SMALL = (Tiling(64, 16, 8), Tiling(32, 64, 32), Tiling(32, 16, 2), Tiling(128, 32, 4))
SIZES = (1, 2, 7, 32, 33, 100)
EXAMPLES = 300 if HAS_GPU else 4  # the interpreter takes a second for a few rows


def some_logits(rng: np.random.Generator, rows: int, vocab_size: int) -> Tensor:
    """Logits [rows, vocab_size] in longer rows: flat or peaked, coarse now and then, so that many are equal."""
    logits = rng.normal(0, rng.choice([0.1, 1, 3, 10], (rows, 1)), (rows, vocab_size + 3)).astype(np.float32)
    coarse = rng.random(rows) < 0.4
    logits[coarse] = logits[coarse].round()
    return torch.from_numpy(logits)[:, :vocab_size]


def spoil(rng: np.random.Generator, logits: Tensor) -> None:
    """Excluded tokens in some rows, and values that are no numbers."""
    rows, vocab_size = logits.shape
    for row in range(rows):
        match rng.integers(0, 8):
            case 0:
                logits[row, rng.integers(vocab_size)] = float(rng.choice([np.nan, np.inf]))
            case 1:
                logits[row, ::2] = -torch.inf
            case 2:
                logits[row] = -torch.inf
            case _:
                pass


def some_draws(rng: np.random.Generator, rows: list[int], vocab_size: int) -> Draws:
    """Any combination of parameters."""
    num = len(rows)
    return Draws(
        np.array(rows),
        rng.choice([0.01, 0.3, 0.7, 1.0, 1.9, 60.0], num).astype(np.float32),
        rng.choice([0, 0, 1, 2, 5, 20, max(1, vocab_size - 1), vocab_size, 10**6], num),
        rng.choice([1.0, 1.0, 0.99999999, 0.99, 0.9, 0.5, 0.01, 1e-9], num),
        rng.choice([0.0, 0.0, 1e-9, 0.02, 0.3, 1.0], num),
        rng.integers(0, 2**64, num, np.uint64),
        rng.integers(0, 2**40, num),
    )


def both(logits: Tensor, tiling: Tiling = SMALL[0]) -> tuple[TritonLogits, TorchLogits]:
    """The same logits in kernels' hands, and in the definition's on the CPU."""
    return TritonLogits(logits.to(DEVICE, copy=True), tiling), TorchLogits(logits.clone())


def assert_same(found: TritonLogits, expected: TorchLogits) -> None:
    """Tokens, largest logits, and what is wrong with them."""
    assert found.ids.tolist() == expected.ids.tolist()
    assert torch.equal(found.top.cpu().nan_to_num(), expected.top.nan_to_num())
    assert torch.equal(found.broken().cpu(), expected.broken())


# ---- weights and numbers
@triton.jit
def weights_kernel(
    x_ptr, top_ptr, temperature_ptr, seeds_ptr, positions_ptr, weights_ptr, numbers_ptr, N: tl.constexpr
):
    at = tl.arange(0, N)
    tl.store(weights_ptr + at, weight(tl.load(x_ptr + at), tl.load(top_ptr), tl.load(temperature_ptr)))
    tl.store(numbers_ptr + at, uniform(tl.load(seeds_ptr + at), tl.load(positions_ptr + at)))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1e-5, 300.0])
def test_weights_and_random_numbers_are_the_definitions_to_the_last_bit(temperature: float) -> None:
    num, draw = 8192, torch.Generator().manual_seed(1)
    x = 20 - torch.rand(num, generator=draw) * 45
    x[:6] = torch.tensor([20, torch.nan, -torch.inf, -3e38, 19.999998, -9.8])
    top, by = torch.full((1,), 20.0), torch.full((1,), temperature)
    seeds = torch.randint(-(2**63), 2**63 - 1, (num,), generator=draw)
    positions = torch.randint(2**40, (num,), generator=draw)
    found, numbers = torch.empty(num, dtype=torch.int64), torch.empty(num, dtype=torch.float64)
    given_ = [each.to(DEVICE) for each in (x, top, by, seeds, positions, found, numbers)]
    weights_kernel[(1,)](*given_, N=num, num_warps=8, enable_fp_fusion=False)
    assert torch.equal(given_[5].cpu(), scaled(x[None], top, by)[0])
    expected = uniforms(seeds.numpy().view(np.uint64), positions.numpy())
    assert np.array_equal(given_[6].cpu().numpy(), expected)


def test_the_definitions_exponential_is_off_by_two_units_at_most() -> None:
    x = -torch.rand(100_000, generator=torch.Generator().manual_seed(2)) * 40
    exact = x.double().exp()
    assert ((exponential(x).double() - exact).abs() <= 2 * 2.0**-24 * exact).all()
    assert exponential(torch.zeros(1)) == 1


# ---- the likeliest and draws
def test_the_likeliest_is_the_lowest_of_equals_and_the_first_that_is_no_number() -> None:
    logits = torch.tensor(
        [
            [1, 3, 3, 2, 3], [0, torch.nan, 9, torch.nan, 1], [-torch.inf] * 5, [-1, -0.0, 0.0, -0.0, -2],
            [1, 2, torch.inf, 0, 3],
        ]
    )  # fmt: skip
    found, expected = both(logits, Tiling(2, 2, 2))
    assert_same(found, expected)
    assert found.ids.tolist() == [1, 1, 0, 1, 2]
    ids, problems = torch.empty(5, dtype=torch.int64, device=DEVICE), torch.empty(5, dtype=torch.int8, device=DEVICE)
    nothing = torch.empty(0, device=DEVICE)
    take_likeliest(logits.to(DEVICE), nothing, nothing, ids, problems)
    assert torch.equal(ids, found.ids) and torch.equal(problems, found.broken())


def assert_kept(logits: Tensor, asked: Draws, tiling: Tiling) -> None:
    """The border keeps exactly the tokens that the definition gives weight; rows that are no numbers may keep any."""
    there, num = logits.to(DEVICE), len(asked.rows)
    best, top = sampling.best(there, tiling), torch.empty(len(logits), device=DEVICE)
    ids = torch.empty(len(logits), dtype=torch.int64, device=DEVICE)
    sampling.take(best, ids, top, torch.empty(len(logits), dtype=torch.int8, device=DEVICE))
    table, at = (torch.from_numpy(each).to(DEVICE) for each in (records(asked), asked.rows))
    keys = sampling.borders(there, best, top, table, num, at, tiling=tiling).cpu()
    border = (keys ^ ((keys >> 31) & 0x7FFFFFFF)).view(torch.float32)
    logits, top = logits[asked.rows], top.cpu()[asked.rows]
    expected = Filters(asked.temperature, asked.top_k, asked.top_p, asked.min_p).weigh(logits, top)
    weights = scaled(logits, top, torch.from_numpy(asked.temperature)) * (logits >= border[:, None])
    fine = torch.isfinite(top)
    assert torch.equal(weights[fine], expected[fine])


@settings(max_examples=EXAMPLES, deadline=None, derandomize=not HAS_GPU)
@given(st.integers(0, 2**32 - 1))
def test_every_draw_is_the_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocab_size = int(rng.choice(SIZES))
    logits = some_logits(rng, 2, vocab_size)
    spoil(rng, logits)
    tiling = SMALL[rng.integers(len(SMALL))]
    asked = some_draws(rng, [1, 0], vocab_size)
    assert_kept(logits, asked, tiling)
    found, expected = both(logits, tiling)
    found.draw(asked)
    expected.draw(asked)
    assert_same(found, expected)


@pytest.mark.parametrize("tiling", [Tiling(64, 16, 64), Tiling(64, 16, 16), Tiling(64, 16, 2)], ids=str)
def test_filters_keep_what_the_definitions_do_whether_a_list_holds_the_border_or_the_row(
    tiling: Tiling,
) -> None:
    logits = some_logits(np.random.default_rng(3), 4, 100)
    logits[0] = (logits[0] * 3).round() / 8  # ties, about 0
    asked = Draws(
        np.arange(4), np.array([0.9, 1.5, 2.0, 0.7], np.float32), np.array([77, 40, 25, 0]),
        np.array([0.6, 0.9, 1.0, 0.8]), np.array([0.0, 1e-4, 0.0, 0.0]), np.arange(4).astype(np.uint64), np.arange(4),
    )  # fmt: skip
    assert_kept(logits, asked, tiling)


def test_a_row_draws_the_same_token_alone_among_others_and_beside_rows_of_nobody() -> None:
    rng = np.random.default_rng(4)
    logits = some_logits(rng, 3, 90).to(DEVICE)
    asked = some_draws(rng, [0, 1, 2], 90)
    table = np.zeros((5, 6), np.int64)
    table[:, :] = records(asked)[0]
    table[[3, 0, 2]] = records(asked)
    table[4, 0] = 0  # nobody's: greedy
    sampler = TritonResidentSampler(torch.from_numpy(table).to(DEVICE), SMALL[0])

    def drawn(at: list[int], rows: list[int]) -> list[int]:
        ids = torch.full((len(at),), -1, device=DEVICE)
        problems = torch.full((len(at),), 9, dtype=torch.int8, device=DEVICE)
        slots = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
        positions = torch.tensor([int(asked.positions[i]) % 2**31 for i in at], dtype=torch.int32, device=DEVICE)
        sampler(logits[at], slots, positions, ids, problems)
        assert not problems.any()
        return ids.tolist()

    together = drawn([0, 1, 2, 1], [3, 0, 2, 4])
    assert together[3] == int(logits[1].argmax())
    assert drawn([2, 0], [2, 3]) == [together[2], together[0]]
    expected = TorchLogits(logits.cpu())
    expected.draw(replace(asked, positions=asked.positions % 2**31))
    assert together[:3] == expected.ids.tolist()


# ---- edits and log-probabilities
def some_edits(rng: np.random.Generator, rows: int, vocab_size: int) -> Iterator[Edit]:
    """One of each kind for a row, in the order of the pipeline."""

    def ids() -> Any:
        return rng.permutation(vocab_size)[: rng.integers(1, vocab_size + 1)].astype(np.int32)

    for row in range(rows):
        chosen, repeated = ids(), ids()
        yield KeepOnly(row, np.sort(ids()))
        yield Exclude(row, ids()[:3])
        yield Add(row, chosen, rng.normal(0, 4, len(chosen)).astype(np.float32))
        counts = rng.integers(0, 3, len(repeated)).astype(np.float32)
        yield Penalize(row, repeated, counts, *rng.choice([0.0, 0.7, -1.0], 2), float(rng.choice([1.0, 1.3, 0.6])))


@pytest.mark.parametrize("seed", range(40 if HAS_GPU else 2))
def test_masks_and_edits_change_what_the_definitions_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocab_size = 50 + seed
    found, expected = both(some_logits(rng, 3, vocab_size))
    mask = rng.integers(-(2**31), 2**31, (3, -(-vocab_size // 32))).astype(np.int32)
    mask[1] = -1
    edits = [edit for edit in some_edits(rng, 3, vocab_size) if rng.random() < 0.7]
    for step in (found, expected):
        step.edit(edits, mask if seed % 2 else None)
    for row in range(3):
        torch.testing.assert_close(found.row(row).cpu(), expected.row(row), rtol=0, atol=0)
    assert_same(found, expected)
    found.row(1)[5] = 99
    found.refresh()
    assert found.ids[1] == 5


def test_log_probabilities_and_ranks_are_the_definitions_with_equal_tokens_in_order() -> None:
    logits = some_logits(np.random.default_rng(8), 3, 70)
    logits[2] = logits[2].round()
    found, expected = both(logits)
    rows, tokens = np.array([2, 0]), torch.tensor([3, 69])
    for count in (0, 3, ALL):
        told, wanted = found.top_logprobs(rows, tokens.to(DEVICE), count), expected.top_logprobs(rows, tokens, count)
        assert torch.equal(told.ranks.cpu(), wanted.ranks)
        torch.testing.assert_close(told.values.cpu(), wanted.values, rtol=0, atol=3e-7)
        alternatives = wanted.ids.shape[1] - 1
        order = np.argsort(-logits[rows].numpy(), axis=1, kind="stable")[:, :alternatives]
        assert told.ids.tolist() == np.concatenate((tokens[:, None], order), 1).tolist()
    assert found.copy(np.array([1])).ids.tolist() == expected.ids[1:2].tolist()


# ---- what recorded steps need
class NoWaiting(TorchDispatchMode):
    """Refuses what reads a value on the host, or has a shape that depends on one."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "item", "is_nonzero", "bincount")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name.strip("_") not in (each.strip("_") for each in self.REFUSED), name
        if name in ("index", "index_put", "index_put_"):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "a mask as an index"
        return func(*args, **(kwargs or {}))


def test_nothing_reads_a_value_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []

    def launch(self: Any, *args: Any, **options: Any) -> None:
        launched.append(self.__name__)

    monkeypatch.setattr(type(sampling.best_kernel), "run", launch)
    rng = np.random.default_rng(1)
    logits, draws = some_logits(rng, 2, 50).to(DEVICE), some_draws(rng, [1, 0], 50)
    edits = list(some_edits(rng, 2, 50))
    tokens, ids = torch.zeros(2, dtype=torch.int64, device=DEVICE), torch.zeros(2, dtype=torch.int64, device=DEVICE)
    with NoWaiting():
        step = TritonLogits(logits, SMALL[0])
        step.copy(np.array([1]))
        step.edit(edits, np.zeros((2, 2), np.int32))
        step.draw(draws)
        for count in (3, ALL):
            step.top_logprobs(np.array([0, 1]), tokens, count)
        TritonResidentSampler(torch.zeros(3, 6, dtype=torch.int64, device=DEVICE), SMALL[0])(
            logits, ids.int(), ids.int(), ids, ids.to(torch.int8)
        )
    assert {"mask_kernel", "edit_kernel", "rank_kernel", "settle_kernel", "pick_kernel"} <= set(launched)


@pytest.mark.gpu
def test_a_recorded_draw_follows_what_is_written_into_its_inputs() -> None:
    rng = np.random.default_rng(2)
    vocab_size, num = 151_936, 9
    logits = some_logits(rng, num, vocab_size).to(DEVICE)
    table = torch.zeros(num + 1, 6, dtype=torch.int64, device=DEVICE)
    sampler = TritonResidentSampler(table)
    rows, positions = (torch.arange(num, dtype=torch.int32, device=DEVICE) for _ in range(2))
    ids, problems = (
        torch.zeros(num, dtype=torch.int64, device=DEVICE),
        torch.zeros(num, dtype=torch.int8, device=DEVICE),
    )
    table[:num] = torch.from_numpy(records(some_draws(rng, list(range(num)), vocab_size))).to(DEVICE)
    sampler(logits, rows, positions, ids, problems)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sampler(logits, rows, positions, ids, problems)
    for _ in range(20):
        asked = some_draws(rng, list(range(num)), vocab_size)
        new = some_logits(rng, num, vocab_size)
        spoil(rng, new)
        logits.copy_(new)
        table[:num] = torch.from_numpy(records(asked)).to(DEVICE)
        positions.copy_(torch.from_numpy(asked.positions % 2**31))
        graph.replay()
        expected = TorchLogits(new.contiguous())
        expected.draw(replace(asked, positions=asked.positions % 2**31))
        assert ids.tolist() == expected.ids.tolist()
        assert problems.tolist() == expected.broken().tolist()


@pytest.mark.gpu
def test_the_host_never_waits_for_the_device() -> None:
    rng = np.random.default_rng(3)
    logits, draws = some_logits(rng, 4, 5000).to(DEVICE), some_draws(rng, [0, 2], 5000)
    edits, mask = list(some_edits(rng, 4, 5000)), np.full((4, 157), -1, np.int32)
    for mode in ("default", "error"):  # compiling may wait
        torch.cuda.set_sync_debug_mode(mode)
        try:
            step = TritonLogits(logits)
            step.edit(edits, mask)
            step.draw(draws)
            for count in (3, ALL):
                step.top_logprobs(np.array([0, 3]), step.ids[:2], count)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_draws_follow_the_distribution() -> None:
    num, vocab_size = 200_000, 23
    logits = some_logits(np.random.default_rng(3), 1, vocab_size).to(DEVICE)
    table = np.zeros((1, 6), np.int64)
    asked = Draws(
        np.zeros(1, np.int64), np.array([0.8], np.float32), np.array([15]), np.array([0.97]), np.array([0.001]),
        np.array([99], np.uint64), np.zeros(1, np.int64),
    )  # fmt: skip
    table[0] = records(asked)[0]
    zeros = torch.zeros(num, dtype=torch.int64, device=DEVICE)
    part = 20_000
    wide = logits.expand(part, -1)
    best, ids = sampling.best(wide), torch.zeros(part, dtype=torch.int64, device=DEVICE)
    top, problems = torch.zeros(part, device=DEVICE), torch.zeros(part, dtype=torch.int8, device=DEVICE)
    counts = np.zeros(vocab_size)
    for first in range(0, num, part):
        positions = torch.arange(first, first + part, device=DEVICE)
        sampling.take(best, ids, top, problems)
        sampling.draw(wide, best, top, torch.from_numpy(table).to(DEVICE), positions, ids, rows=zeros[:part])
        counts += np.bincount(ids.cpu().numpy(), minlength=vocab_size)
    kept = counts > 0
    exact = scaled(logits.cpu(), logits.cpu().amax(-1), torch.tensor([0.8]))[0].numpy() * kept
    expected = num * exact / exact.sum()
    assert ((counts - expected)[kept] ** 2 / expected[kept]).sum() < 60  # p < 1e-4 at up to 22 degrees of freedom
