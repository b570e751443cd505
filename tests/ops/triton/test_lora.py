"""Low-rank adapters: any mix of them, whatever way a step's tokens are computed."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo.ops import registry
from octavo.ops.triton import lora

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check(adapters: list[int], count: int, rank: int, columns: int, features: int, start: int = 0) -> None:
    """Both ops, one after the other, beside the references."""
    x, a, b = drawn(len(adapters), columns), drawn(count, rank, columns, seed=1), drawn(count, features, rank, seed=2)
    y, scales = drawn(len(adapters), start + features + 2, seed=3), torch.arange(1.0, count + 1)
    numbers = torch.tensor(adapters, dtype=torch.int32)
    h = registry.reference("lora_shrink")(x, a, numbers)
    assert isinstance(h, Tensor)
    found = lora.lora_shrink(x.to(DEVICE), a.to(DEVICE), numbers.to(DEVICE))
    assert torch.allclose(found.cpu(), h, rtol=1e-5, atol=1e-4)
    expected = registry.reference("lora_expand")(y.clone(), h, b, numbers, scales, start)
    assert isinstance(expected, Tensor)
    mine = y.to(DEVICE)
    result = lora.lora_expand(mine, found, b.to(DEVICE), numbers.to(DEVICE), scales.to(DEVICE), start)
    assert result is mine
    assert torch.allclose(result.cpu(), expected, rtol=1e-5, atol=1e-3)
    untouched = [i for i, number in enumerate(adapters) if number < 0]
    assert torch.equal(result.cpu()[untouched], y[untouched])


@pytest.mark.parametrize("grouped_from", [1, 1000])
@pytest.mark.parametrize("adapters", [[], [-1], [0], [-1, -1, -1], [2, -1, 0, 0, 2, -1, 2]])
def test_tokens_with_and_without_adapters(adapters: list[int], grouped_from: int, monkeypatch) -> None:
    monkeypatch.setattr(lora, "GROUPED_FROM", grouped_from)
    monkeypatch.setattr(lora, "TILE", 16)
    check(adapters, 3, 4, 40, 20, start=5)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(-1, 2), min_size=1, max_size=20), st.integers(1, 40), st.integers(1, 70), st.booleans())
def test_ranks_and_sizes_of_any_number(adapters: list[int], rank: int, size: int, grouped: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora, "GROUPED_FROM", 1 if grouped else 1000)
        patch.setattr(lora, "TILE", 16)
        check(adapters, 3, rank, size, 80 - size)


@pytest.mark.parametrize("grouped_from", [1, 1000])
def test_a_rank_padded_with_zeros_is_the_smaller_rank(grouped_from: int, monkeypatch) -> None:
    monkeypatch.setattr(lora, "GROUPED_FROM", grouped_from)
    x, a, b = drawn(5, 32), drawn(1, 3, 32, seed=1), drawn(1, 24, 3, seed=2)
    adapters, scales = torch.zeros(5, dtype=torch.int32), torch.tensor([0.5])
    wide_a, wide_b = torch.zeros(1, 8, 32), torch.zeros(1, 24, 8)
    wide_a[:, :3], wide_b[:, :, :3] = a, b

    def run(a: Tensor, b: Tensor) -> Tensor:
        y = torch.zeros(5, 24, device=DEVICE)
        h = lora.lora_shrink(x.to(DEVICE), a.to(DEVICE), adapters.to(DEVICE))
        return lora.lora_expand(y, h, b.to(DEVICE), adapters.to(DEVICE), scales.to(DEVICE), 0)

    assert torch.allclose(run(a, b), run(wide_a, wide_b), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grouped_from", [1, 1000])
def test_a_token_is_the_same_whichever_adapters_are_beside_it(grouped_from: int, monkeypatch) -> None:
    monkeypatch.setattr(lora, "GROUPED_FROM", grouped_from)
    monkeypatch.setattr(lora, "TILE", 16)
    x, a = drawn(6, 48).to(DEVICE), drawn(3, 8, 48).to(DEVICE)
    adapters = torch.tensor([1, 0, -1, 2, 1, 1], dtype=torch.int32, device=DEVICE)
    whole = lora.lora_shrink(x, a, adapters)
    for token in (0, 3, 5):
        assert torch.equal(lora.lora_shrink(x[token : token + 1], a, adapters[token : token + 1])[0], whole[token])
