"""Eight-bit floating-point weights: cutting, stacking, and what they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.weights.floats import ScaledFloat8
from octavo.weights.integers import ScaledInt8


def drawn(rows: int, columns: int, block: tuple[int, int | None], seed: int = 0) -> ScaledFloat8:
    g = torch.Generator().manual_seed(seed)
    values = (torch.randn(rows, columns, generator=g) * 50).to(torch.float8_e4m3fn)
    across = 1 if block[1] is None else -(-columns // block[1])
    return ScaledFloat8(values, torch.rand(-(-rows // block[0]), across, generator=g) + 0.1, block)


def test_each_block_has_its_scale() -> None:
    values = torch.full((3, 3), 2.0).to(torch.float8_e4m3fn)
    weight = ScaledFloat8(values, torch.tensor([[1.0, 10.0], [100.0, 1000.0]]), (2, 2))
    assert weight.dequantize().tolist() == [[2, 2, 20], [2, 2, 20], [200, 200, 2000]]


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.none() | st.integers(1, 9),
    st.data(),
)  # fmt: skip
def test_rows_and_columns_of_a_weight_are_those_of_its_values(
    rows: int, columns: int, block_rows: int, block_columns: int | None, data: st.DataObject
) -> None:
    weight = drawn(rows, columns, (block_rows, block_columns))
    whole = weight.dequantize()
    start, stop = sorted(data.draw(st.lists(st.integers(0, rows), min_size=2, max_size=2)))
    if start < stop:
        assert torch.equal(weight.rows(start, stop).dequantize(), whole[start:stop])
    step = block_columns or 1
    left = step * data.draw(st.integers(0, (columns - 1) // step))
    assert torch.equal(weight.columns(left, columns).dequantize(), whole[:, left:])
    if step > 1 and columns > 1:
        with pytest.raises(ValueError, match="cut a block"):
            weight.columns(1, columns)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 8)), min_size=1, max_size=4), st.integers(1, 20))
def test_stacked_parts_keep_their_values_whatever_their_blocks(parts: list[tuple[int, int]], columns: int) -> None:
    weights = [drawn(rows, columns, (block_rows, 4), seed) for seed, (rows, block_rows) in enumerate(parts)]
    stacked = ScaledFloat8.stack(weights)
    assert torch.equal(stacked.dequantize(), torch.cat([weight.dequantize() for weight in weights]))
    if len({block_rows for _, block_rows in parts}) == 1 and all(rows % size == 0 for rows, size in parts):
        assert stacked.block == (parts[0][1], 4)


def test_kinds_that_differ_are_not_stacked() -> None:
    other = ScaledInt8(torch.zeros(2, 8, dtype=torch.int8), torch.ones(2))
    for odd in (drawn(2, 8, (1, None)), other):
        with pytest.raises(ValueError, match="cannot be stacked"):
            ScaledFloat8.stack([drawn(2, 8, (1, 4)), odd])  # type: ignore[list-item]
