"""Integer weights: cutting and stacking are the same before and after dequantizing."""

from __future__ import annotations

import pytest
import torch

from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.weight import Dense


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def int8(rows: int, columns: int, seed: int = 0) -> ScaledInt8:
    g = generator(seed)
    codes = torch.randint(-128, 128, (rows, columns), generator=g).to(torch.int8)
    return ScaledInt8(codes, torch.rand(rows, generator=g))


def int4(rows: int, columns: int, group: int, zeros: bool = False, seed: int = 0) -> GroupInt:
    g = generator(seed)
    codes = torch.randint(0, 16, (rows, columns), generator=g).to(torch.uint8)
    scales = torch.randn((rows, -(-columns // group)), generator=g)
    points = torch.randint(0, 16, scales.shape, generator=g).to(torch.uint8) if zeros else None
    return GroupInt(codes, scales, points, group)


WEIGHTS = [int8(6, 96), int4(6, 96, 32), int4(6, 96, 32, True), int4(6, 100, 32, True), int4(1, 3, 128)]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_rows_and_stacking_agree_with_the_values(weight: ScaledInt8 | GroupInt) -> None:
    values = weight.dequantize()
    cut = weight.shape[0] // 2
    parts = [weight.rows(0, cut), weight.rows(cut, weight.shape[0])]
    assert torch.equal(parts[1].dequantize(), values[cut:])
    assert torch.equal(type(weight).stack(parts).dequantize(), values)
    assert {part.kind for part in parts} == {weight.kind}


@pytest.mark.parametrize("weight", WEIGHTS[:4])
def test_columns_agree_with_the_values(weight: ScaledInt8 | GroupInt) -> None:
    for start, stop in ((0, 32), (32, 96), (64, weight.shape[1]), (0, 0)):
        assert torch.equal(weight.columns(start, stop).dequantize(), weight.dequantize()[:, start:stop])


def test_columns_that_cut_a_group_are_refused() -> None:
    for start, stop in ((0, 31), (1, 32), (0, 97)):
        with pytest.raises(ValueError, match="cut a group of 32"):
            int4(2, 100, 32).columns(start, stop)


def test_the_values_are_what_the_definition_says() -> None:
    weight = GroupInt(torch.tensor([[0, 15, 8, 3]], dtype=torch.uint8), torch.tensor([[2.0, -1.0]]), None, 2)
    assert weight.dequantize().tolist() == [[-16.0, 14.0, 0.0, 5.0]]
    points = torch.tensor([[15, 0]], dtype=torch.uint8)
    assert GroupInt(weight.codes, weight.scales, points, 2).dequantize().tolist() == [[-30.0, 0.0, -8.0, -3.0]]
    assert ScaledInt8(torch.tensor([[-128, 3]], dtype=torch.int8), torch.tensor([0.5])).dequantize().tolist() == [
        [-64.0, 1.5]
    ]


@pytest.mark.parametrize(
    ("columns", "group", "regrouped"),
    [(400, 256, 128), (400, 64, 64), (416, 416, 32), (896, 896, 128), (192, 1000, 64), (100, 100, 32), (96, 48, 48)],
)
def test_smaller_groups_hold_the_same_values(columns: int, group: int, regrouped: int) -> None:
    for zeros in (False, True):
        weight = int4(3, columns, group, zeros)
        smaller = weight.regrouped((128, 64, 32))
        assert smaller.group == regrouped and torch.equal(smaller.dequantize(), weight.dequantize())


def test_a_part_without_zero_points_stacks_with_one_that_has_them() -> None:
    parts = [int4(2, 64, 32), int4(2, 64, 32, True)]
    stacked = GroupInt.stack(parts)
    assert torch.equal(stacked.dequantize(), torch.cat([part.dequantize() for part in parts]))


def test_kinds_that_differ_cannot_be_stacked() -> None:
    with pytest.raises(ValueError, match="GroupInt, ScaledInt8"):
        ScaledInt8.stack([int8(2, 64), int4(2, 64, 32)])
    with pytest.raises(ValueError, match="groups of 32 and 64"):
        GroupInt.stack([int4(2, 64, 32), int4(2, 64, 64)])
    with pytest.raises(ValueError, match="Dense, GroupInt"):
        GroupInt.stack([int4(2, 64, 32), Dense(torch.zeros(2, 64))])
    assert len({int8(2, 64).kind, int4(2, 64, 32).kind, int4(2, 64, 64).kind, int4(2, 64, 32, True).kind}) == 4
