"""Pointwise kernels against the torch references, on every level and team; their functions against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from octavo import ops
from octavo.platforms import native

RMS, LAYER = 0, 1
MAPS = {"activation": 0, "gated": 1, "scale": 2, "clip": 3, "softcap": 4, "copy": 5, "exp": 6}
ACTIVATIONS = {"none": 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4, "relu2": 5}
TABLES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SHAPES = [(0, 20), (1, 1), (1, 15), (1, 5000), (3, 64), (5, 100), (41, 129)]  # rows, columns
library: ModuleType = native.library  # type: ignore[assignment]
pytestmark = pytest.mark.skipif(library is None, reason=f"no native library: {native.missing}")


@pytest.fixture(autouse=True, params=library.kernel_levels() if library else [])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = library.kernel_level()
    library.use_kernel_level(request.param)
    yield request.param
    library.use_kernel_level(before)


def fill(record: Any, **fields: object) -> Any:
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def matrix(x: Tensor) -> Any:
    assert x.stride(1) == 1 or x.shape[1] < 2
    return library.Matrix(x.data_ptr(), x.stride(0))


def rows(num_rows: int, columns: int, gap: int = 3) -> Tensor:
    """Normal values [rows, columns] whose rows are `gap` further apart than they are long."""
    return torch.randn(num_rows, columns + gap)[:, :columns]


@cache
def team_of(size: int) -> Any:
    return library.ThreadTeam(size)


def run(name: str, record: Any, num_tokens: int, team: int = 2, **step: object) -> None:
    tape = library.Tape(team_of(team))
    getattr(tape, name)(record)
    tape.run(fill(library.Step(), num_tokens=num_tokens, num_logits=num_tokens, **step))


def mapped(x: Tensor, columns: int, map: str, activation: str = "none", value: float = 0.0, team: int = 2) -> Tensor:
    out = torch.full((len(x), columns + 5), 7.0)
    fields = {"map": MAPS[map], "activation": ACTIVATIONS[activation], "value": value, "columns": columns}
    run("map", fill(library.Map(), x=matrix(x), out=matrix(out), **fields), len(x), team)
    assert (out[:, columns:] == 7).all()
    return out[:, :columns]


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def for_every_level_and_team(compute: Callable[[int], Tensor]) -> None:
    """The results of `compute(team)` have the same bits everywhere."""
    expected = compute(1)
    current = library.kernel_level()
    library.use_kernel_level("scalar")
    assert same_bits(compute(1), expected)
    library.use_kernel_level(current)
    assert same_bits(compute(3), expected)


@pytest.mark.parametrize("dtype", TABLES)
@pytest.mark.parametrize("by_position", [0, 1])
def test_embed_gathers_and_scales(dtype: torch.dtype, by_position: int) -> None:
    for num_tokens, columns in SHAPES:
        table = (torch.randn(11, columns) * 3).to(dtype)
        ids = torch.randint(11, (2, num_tokens), dtype=torch.int32)
        out = torch.zeros(num_tokens, columns + 2)
        fields = {"table": table.data_ptr(), "kind": TABLES[dtype], "by_position": by_position, "scale": 1.5}
        record = fill(library.Embed(), columns=columns, out=matrix(out), **fields)
        run("embed", record, num_tokens, tokens=ids[0].data_ptr(), positions=ids[1].data_ptr())
        assert torch.equal(out[:, :columns], table[ids[by_position].long()].float() * 1.5)
        assert not out[:, columns:].any()


def test_every_float16_is_widened_exactly() -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    table = bits.view(torch.float16)[None]
    out, token = torch.zeros(1, 2**16), torch.zeros(1, dtype=torch.int32)
    record = fill(library.Embed(), table=table.data_ptr(), kind=TABLES[torch.float16], columns=2**16, out=matrix(out))
    run("embed", record, 1, tokens=token.data_ptr())
    expected = table.float()
    numbers = ~expected.isnan()
    assert same_bits(out[numbers], expected[numbers])
    assert out[~numbers].isnan().all()


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("kind", [RMS, LAYER])
def test_norms_agree_with_their_references(kind: int, with_bias: bool, with_residual: bool) -> None:
    for num_rows, columns in SHAPES:
        x, weight, bias = rows(num_rows, columns), torch.rand(columns) + 0.5, torch.randn(columns)
        residual = rows(num_rows, columns, 1)
        out = torch.zeros(num_rows, columns + 1)
        fields = {"kind": kind, "columns": columns, "eps": 1e-5, "weight": weight.data_ptr()}
        record = fill(library.Norm(), x=matrix(x), out=matrix(out), **fields)
        if with_bias:
            record.bias = bias.data_ptr()
        if with_residual:
            record.residual = matrix(residual)
        run("norm", record, num_rows)
        if kind == RMS:
            expected = ops.rms_norm(x, weight, 1e-5) + (bias if with_bias else 0)
        else:
            expected = ops.layer_norm(x, weight, bias if with_bias else None, 1e-5)
        torch.testing.assert_close(
            out[:, :columns], expected + (residual if with_residual else 0), rtol=1e-5, atol=1e-5
        )
        assert not out[:, columns:].any()


@pytest.mark.parametrize("heads", [1, 6])
@pytest.mark.parametrize("columns", [8, 64, 100])
def test_each_head_is_normalized_by_itself(heads: int, columns: int) -> None:
    x, weight = rows(5, heads * columns), torch.rand(heads, columns) + 0.5
    expected = ops.head_rms_norm(x.reshape(5, heads, columns), weight, 1e-6).flatten(1)
    fields = {"heads": heads, "columns": columns, "eps": 1e-6, "weight": weight.data_ptr()}
    run("norm", fill(library.Norm(), x=matrix(x), out=matrix(x), **fields), 5)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)


def test_a_norm_without_weight_leaves_the_rows_at_unit_length() -> None:
    x = rows(2, 70)
    run("norm", fill(library.Norm(), x=matrix(x), out=matrix(x), columns=70, eps=0.0), 2)
    torch.testing.assert_close(x.square().mean(1), torch.ones(2))


@pytest.mark.parametrize("kind", [RMS, LAYER])
def test_norms_have_the_same_bits_everywhere(kind: int) -> None:
    x, weight, bias = rows(7, 1003), torch.rand(1003), torch.randn(1003)

    def compute(team: int) -> Tensor:
        out = x.clone()
        addresses = {"weight": weight.data_ptr(), "bias": bias.data_ptr()}
        record = fill(library.Norm(), x=matrix(x), out=matrix(out), kind=kind, columns=1003, eps=1e-6, **addresses)
        run("norm", fill(record, residual=matrix(out)), 7, team)
        return out

    for_every_level_and_team(compute)


def test_a_rows_norm_does_not_depend_on_its_neighbors() -> None:
    x, weight = torch.randn(33, 300), torch.rand(300)
    together, alone = torch.zeros(33, 300), torch.zeros(33, 300)
    record = fill(library.Norm(), columns=300, eps=1e-6, weight=weight.data_ptr())
    run("norm", fill(record, x=matrix(x), out=matrix(together)), 33)
    for i in range(33):
        run("norm", fill(record, x=matrix(x[i : i + 1]), out=matrix(alone[i : i + 1])), 1)
    assert same_bits(together, alone)


def test_add_is_exact_and_works_in_place() -> None:
    for num_rows, columns in SHAPES:
        x, y = rows(num_rows, columns), rows(num_rows, columns, 1)
        expected = x + y
        run("add", fill(library.Add(), x=matrix(x), y=matrix(y), out=matrix(x), columns=columns), num_rows)
        assert torch.equal(x, expected)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "relu", "relu2"])
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_agree_with_their_references(name: str, shape: tuple[int, int]) -> None:
    num_rows, columns = shape
    x, pairs = rows(num_rows, columns) * 3, rows(num_rows, 2 * columns) * 3
    reference, gated = getattr(ops, name), getattr(ops, f"{name}_mul")
    # The references' own error is larger in float32.
    torch.testing.assert_close(
        mapped(x, columns, "activation", name), reference(x.double()).float(), rtol=3e-6, atol=1e-7
    )
    torch.testing.assert_close(
        mapped(pairs, columns, "gated", name), gated(pairs.double()).float(), rtol=3e-6, atol=1e-7
    )


def test_scale_clip_softcap_and_copy_agree_with_their_references() -> None:
    for num_rows, columns in SHAPES:
        x = rows(num_rows, columns) * 3
        assert torch.equal(mapped(x, columns, "scale", value=0.3), x * 0.3)
        assert torch.equal(mapped(x, columns, "clip", value=1.5), ops.clip(x, 1.5))
        assert torch.equal(mapped(x, columns, "copy"), x)
        torch.testing.assert_close(mapped(x, columns, "softcap", value=2.5), ops.softcap(x, 2.5), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rotated", [2, 20, 64])
@pytest.mark.parametrize("num_tokens", [0, 1, 9])
@pytest.mark.parametrize("in_place", [False, True])
def test_rotation_agrees_with_its_reference(rotated: int, num_tokens: int, in_place: bool) -> None:
    heads, dim = 6, 64
    x = rows(num_tokens, heads * dim)
    angle = torch.rand(num_tokens, rotated // 2) * 100
    angles = torch.cat((angle.cos(), angle.sin()), -1)
    expected = ops.rotate(x.reshape(num_tokens, heads, dim), angles).reshape(num_tokens, heads * dim)
    out = x if in_place else torch.zeros(num_tokens, heads * dim)
    fields = {"angles": angles.data_ptr(), "heads": heads, "head_dim": dim, "rotated": rotated}
    run("rotate", fill(library.Rotate(), x=matrix(x), out=matrix(out), **fields), num_tokens)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


# ---- accuracy: every 10007th float32 and the special ones, against float64
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 88.72283, -87.33654, 3e38, -3e38, torch.inf, -torch.inf, torch.nan]
TINY, HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def samples() -> Tensor:
    bits = torch.arange(-(2**31), 2**31, 10007, dtype=torch.int64).to(torch.int32)
    return torch.cat((bits.view(torch.float32), torch.linspace(-90, 90, 200_001), torch.tensor(SPECIAL)))


def error_of(found: Tensor, expected: Tensor, floor: float) -> float:
    """The largest relative error; beneath `floor` it is measured against that. Infinities and NaN must agree."""
    numbers = expected.abs() <= HUGE
    assert torch.equal(found[~numbers].nan_to_num(nan=1e9), expected[~numbers].float().nan_to_num(nan=1e9))
    return ((found[numbers] - expected[numbers]).abs() / expected[numbers].abs().clamp(min=floor)).max().item()


def test_the_exponential_is_within_an_ulp_and_knows_the_special_values() -> None:
    x = samples()
    expected = x.double().exp()
    expected[expected < TINY] = 0
    assert error_of(mapped(x[None], len(x), "exp")[0], expected, TINY) < 2.0**-23
    special = torch.tensor([[0.0, -torch.inf, -88.0, 88.8, torch.inf]])
    assert mapped(special, 5, "exp").tolist() == [[1.0, 0.0, 0.0, torch.inf, torch.inf]]


def test_the_hyperbolic_tangent_is_within_two_ulp_everywhere() -> None:
    x = samples()
    assert error_of(mapped(x[None], len(x), "softcap", value=1.0)[0], x.double().tanh(), 1e-44) < 2.0**-22


@pytest.mark.parametrize(
    ("name", "exact", "tails"),
    [
        ("silu", lambda x: x * torch.sigmoid(x), {-85: 2e-7}),
        ("gelu", lambda x: x * 0.5 * torch.special.erfc(-x * 0.5**0.5), {-12.5: 1e-6}),
        (
            "gelu_tanh",
            lambda x: x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
            {-3: 1e-6, -5: 3e-6, -9.5: 2e-5},
        ),
    ],
)
def test_activations_keep_their_relative_accuracy_into_the_tails(
    name: str, exact: Callable[[Tensor], Tensor], tails: dict[float, float]
) -> None:
    x = samples()
    x = x[~(x == -torch.inf)]
    found, expected = mapped(x[None], len(x), "activation", name)[0], exact(x.double())
    for start, bound in tails.items():
        assert error_of(found[~(x < start)], expected[~(x < start)], TINY) < bound
    assert (found - expected)[x < min(tails)].abs().max() < 1e-30
    special = mapped(torch.tensor([[torch.inf, torch.nan, -1e30]]), 3, "activation", name)[0].tolist()
    assert special[0] == torch.inf
    assert special[1] != special[1]
    assert special[2] == 0


def test_functions_have_the_same_bits_everywhere() -> None:
    x = samples()[None]
    for name in ("silu", "gelu", "gelu_tanh", "relu", "relu2"):
        for_every_level_and_team(
            lambda team, name=name: mapped(x, x.shape[1] // 2, "gated", name, team=team).nan_to_num()
        )
    for name in ("exp", "softcap", "clip"):
        for_every_level_and_team(lambda team, name=name: mapped(x, x.shape[1], name, value=1.7, team=team).nan_to_num())
