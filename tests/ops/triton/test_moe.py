"""Mixtures of experts: sorting on the device, routing, and experts of every kind beside the reference."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo.errors import StartupError
from octavo.ops import moe as reference
from octavo.ops import registry
from octavo.ops.linear import DensePacked, Packed, choose_kernel
from octavo.ops.triton import grouping, moe
from octavo.quant.online import quantize_fp8, quantize_int4, quantize_int8
from octavo.weights.floats import E4M3, ScaledFloat8
from octavo.weights.weight import Dense, Weight

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
DTYPES = (torch.float32, torch.float16, *([torch.bfloat16] if HAS_GPU else []))
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
BACKENDS = ("triton", "reference")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_blocks(values: Tensor) -> ScaledFloat8:
    scales = torch.rand(-(-values.shape[0] // 128), -(-values.shape[1] // 128)) + 0.5
    return ScaledFloat8(values.to(E4M3), scales, (128, 128))


KINDS: dict[str, Callable[[Tensor], Weight]] = {
    "dense": Dense, "int8": quantize_int8, "int4": lambda values: quantize_int4(values, 32), "fp8": quantize_fp8,
    "fp8 in blocks": in_blocks,
}  # fmt: skip


def experts(
    kind: str, count: int, hidden: int, inner: int, dtype: torch.dtype
) -> tuple[list[Weight], list[Weight], list[Packed], list[Packed]]:
    """Gate | up and down of each expert, and packed."""
    gate_up = [KINDS[kind](drawn(2 * inner, hidden, seed=i) / hidden**0.5) for i in range(count)]
    down = [KINDS[kind](drawn(hidden, inner, seed=100 + i) / inner**0.5) for i in range(count)]

    def packed(weight: Weight, gated: bool) -> Packed:
        return choose_kernel(weight, dtype, BACKENDS).pack([weight], dtype, DEVICE, gated)

    return gate_up, down, [packed(each, True) for each in gate_up], [packed(each, False) for each in down]


# ---- sorting


def sorted_by_host(numbers: list[int], tile: int) -> tuple[list[int], set[tuple[int, int]], list[int]]:
    order = sorted((i for i, number in enumerate(numbers) if number >= 0), key=lambda i: numbers[i])
    tiles, ends, start = set(), [], 0
    for number in range(max(numbers, default=0) + 1):
        count = numbers.count(number)
        tiles |= {(number, start + at) for at in range(0, count, tile)}
        start += count
        ends.append(start)
    return order, tiles, ends


def check_plan(numbers: list[int], count: int, tile: int) -> None:
    found = grouping.plan(torch.tensor(numbers, dtype=torch.int32, device=DEVICE), count, tile)
    order, tiles, ends = sorted_by_host(numbers, tile)
    num_tiles = int(found.num_tiles)
    assert num_tiles == len(tiles) <= found.tiles
    assert found.order.tolist()[: len(order)] == order
    assert found.ends.tolist()[: len(ends)] == ends or not numbers
    pairs = zip(found.tile_number.tolist(), found.tile_start.tolist(), strict=True)
    assert set(list(pairs)[:num_tiles]) == tiles


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(-1, 6), max_size=40), st.sampled_from((1, 4, 16)))
def test_items_are_sorted_as_a_host_sorts_them(numbers: list[int], tile: int) -> None:
    check_plan(numbers, 7, tile)


@pytest.mark.parametrize("blocks", ["several", "one number"])
def test_more_items_than_one_program_sorts(blocks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "ALONE", 16)
    monkeypatch.setattr(grouping, "BLOCK", 16)
    monkeypatch.setattr(grouping, "NUMBERS", 4)
    g = torch.Generator().manual_seed(0)
    numbers = torch.randint(-1, 5, (70,), generator=g).tolist() if blocks == "several" else [3] * 70
    check_plan(numbers, 5, 8)


# ---- routing


@pytest.mark.parametrize("dtype", DTYPES)
def test_equally_likely_experts_are_taken_in_order(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1, 3, 3, 0, 3], [2, 2, 2, 2, 2]], dtype=dtype, device=DEVICE)
    ids, weights = moe.route(logits, 3, True)
    assert ids.tolist() == [[1, 2, 4], [0, 1, 2]]
    assert torch.allclose(weights, torch.full_like(weights, 1 / 3))


def test_logits_that_are_no_numbers_choose_experts_that_exist() -> None:
    logits = torch.full((2, 5), torch.nan, device=DEVICE)
    logits[1] = -torch.inf
    ids, _ = moe.route(logits, 2, False)
    assert ids.min() >= 0 and ids.max() < 5


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 6), st.integers(1, 70), st.integers(1, 9), st.booleans(), st.integers(0, 2**31))
def test_routing_is_that_of_the_reference(tokens: int, count: int, top_k: int, renormalize: bool, seed: int) -> None:
    top_k = min(top_k, count)
    logits = drawn(tokens, count, seed=seed)
    ids, weights = moe.route(logits.to(DEVICE), top_k, renormalize)
    expected_ids, expected = registry.reference("route")(logits, top_k, renormalize)  # type: ignore[misc]
    assert torch.equal(ids.cpu(), expected_ids) and torch.allclose(weights.cpu(), expected, rtol=1e-5, atol=1e-7)


# ---- experts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_experts_of_every_kind_compute_with_their_values(kind: str, dtype: torch.dtype) -> None:
    hidden, inner, tokens = (136, 72, 3) if kind != "fp8 in blocks" else (136, 130, 2)
    gate_up, down, packed_gate_up, packed_down = experts(kind, 3, hidden, inner, dtype)
    x = drawn(tokens, hidden).to(dtype)
    ids = torch.tensor([[2, 0], [0, 1], [2, 1]])[:tokens]
    weights = torch.rand(tokens, 2, generator=torch.Generator().manual_seed(1))
    stacks = [reference.stack_experts(each, BACKENDS) for each in (packed_gate_up, packed_down)]
    y = moe.expert_mlps(x.to(DEVICE), *stacks, ids.to(DEVICE), weights.to(DEVICE), "silu")
    wide = dtype if kind == "dense" else torch.float32
    dense = [[DensePacked(each.dequantize(wide).float()) for each in side] for side in (gate_up, down)]
    expected = registry.reference("expert_mlps")(x.float(), *dense, ids, weights, "silu")
    assert isinstance(expected, Tensor)
    assert torch.allclose(y.cpu().float(), expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.parametrize("tokens", [0, 1, 33])
def test_no_token_one_and_tiles_of_one_expert(tokens: int) -> None:
    gate_up, down, packed_gate_up, packed_down = experts("dense", 2, 32, 16, torch.float32)
    x = drawn(tokens, 32)
    ids = torch.zeros(tokens, 1, dtype=torch.int64)  # all to the first expert: the second has no tile
    weights = torch.full((tokens, 1), 0.5)
    y = moe.expert_mlps(x.to(DEVICE), packed_gate_up, packed_down, ids.to(DEVICE), weights.to(DEVICE), "gelu")
    dense = [[DensePacked(each.dequantize()) for each in side] for side in (gate_up, down)]
    expected = registry.reference("expert_mlps")(x, *dense, ids, weights, "gelu")
    assert isinstance(expected, Tensor)
    assert torch.allclose(y.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_a_token_is_the_same_whoever_else_is_routed() -> None:
    _, _, gate_up, down = experts("dense", 3, 32, 16, torch.float32)
    x, ids, weights = drawn(8, 32), torch.randint(0, 3, (8, 2)), torch.rand(8, 2)
    given = (x.to(DEVICE), ids.to(DEVICE), weights.to(DEVICE))

    def run(rows: slice) -> Tensor:
        some, chosen, shares = (each[rows] for each in given)
        return moe.expert_mlps(some, gate_up, down, chosen, shares, "silu")

    whole = run(slice(0, 8))
    for token in (0, 3, 7):
        assert torch.equal(run(slice(token, token + 1))[0], whole[token])


def test_a_stack_is_still_a_sequence_of_experts() -> None:
    for kind in KINDS:
        gate_up, _, packed, _ = experts(kind, 2, 64, 32, torch.float32)
        stack = reference.stack_experts(packed, BACKENDS)
        assert len(stack) == 2
        ids = torch.arange(64, dtype=torch.int32, device=DEVICE)
        for weight, one in zip(gate_up, stack, strict=True):
            assert torch.equal(one.embed(ids).cpu(), weight.dequantize())
    assert reference.stack_experts(packed, ("reference",)) == tuple(packed)


def test_experts_that_differ_in_kind_are_refused() -> None:
    ones = [experts(kind, 1, 64, 32, torch.float32)[2][0] for kind in ("int8", "int4")]
    with pytest.raises(StartupError, match="quantized in different ways"):
        reference.stack_experts(ones, BACKENDS)
