"""Queries, keys and values on their way into caches of every layout and format, beside the reference."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo.ops import registry
from octavo.ops.qkv import QKNorm
from octavo.ops.triton import qkv as kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
T, N, K, D, PAGES, P = 4, 4, 2, 16, 3, 8
SLOTS = (9, -1, 23, 0)
LAYOUTS = {"keys, then values": (0, 1, 2, 3, 4), "pages first, heads outside": (1, 0, 3, 2, 4)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE)


def empty_cache(layout: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """[2, pages, P, K, D] over memory whose axes stand in another order, full of ones."""
    sizes = (2, PAGES, P, K, D)
    memory = torch.ones([sizes[axis] for axis in layout], device=DEVICE).to(dtype)
    return memory.permute([layout.index(axis) for axis in range(5)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "scales"),
    [(torch.float32, None), (torch.float8_e4m3fn, None), (torch.float8_e4m3fn, ((0.5, 3.0), (2.0, 0.1)))],
    ids=["same", "float8", "scaled float8"],
)
def test_keys_and_values_reach_their_slots_and_nothing_else_changes(
    layout: str, dtype: torch.dtype, scales: tuple[tuple[float, ...], ...] | None
) -> None:
    # Rows of a wider tensor, as a product leaves them that also made something else; 900 is beyond float8.
    wide = draw(T, (N + 2 * K) * D + 5)
    wide[2] *= 300
    norm = QKNorm(draw(N + K, D).abs(), 1e-6)
    angles = draw(T, D)
    slots = torch.tensor(SLOTS, device=DEVICE)
    divisors = None if scales is None else torch.tensor(scales, device=DEVICE)
    found: list[tuple[Tensor, ...]] = []
    for function in (registry.reference("prepare_qkv"), kernels.prepare_qkv):
        own, cache = wide.clone(), empty_cache(LAYOUTS[layout], dtype)
        heads = own[:, : (N + 2 * K) * D].unflatten(1, (N + 2 * K, D))
        q, k, v = function(heads, N, norm, None, angles, cache, slots, divisors)  # type: ignore[misc]
        found.append((q, k, v, cache.float(), own[:, -5:]))
    # A value between two of float8's may go to either: a 1/8th apart, or 2^-9 near zero.
    bounds = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.13, "atol": 2**-9}
    for ours, expected in zip(found[1], found[0], strict=True):
        if dtype != torch.float32 and DEVICE.type == "cpu":
            # The interpreter loses the carry of what it rounds up to a power of two.
            is_halved = (2 * ours == expected) & (expected.frexp().mantissa.abs() == 0.5)
            ours = torch.where(is_halved, expected, ours)
        torch.testing.assert_close(ours, expected, **bounds)
    cache = found[1][3]
    assert torch.isfinite(cache).all()
    assert int((cache.flatten(1, 2) != 1).any(-1).any(-1).any(0).sum()) == 3, "a slot for each token but padding"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plain_write_does_the_same(layout: str) -> None:
    k, v, slots = draw(T, K, D), draw(T, K, D, seed=1), torch.tensor(SLOTS, device=DEVICE)
    caches = [empty_cache(LAYOUTS[layout], torch.float32) for _ in range(2)]
    registry.reference("write_cache")(caches[0], slots, k, v)
    kernels.write_cache(caches[1], slots, k, v)
    assert torch.equal(caches[0], caches[1])


def test_without_anything_to_do_nothing_is_launched() -> None:
    heads = draw(T, N + 2 * K, D)
    before = heads.clone()
    q, k, v = kernels.prepare_qkv(heads, N, None, None, None, None, None)
    assert torch.equal(torch.cat((q, k, v), 1), before) and q.data_ptr() == heads.data_ptr()
