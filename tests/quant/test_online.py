"""Rounding while loading: what the codes mean, how far they are off, and which weights are left alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.errors import StartupError
from octavo.platforms import native
from octavo.quant import online
from octavo.quant.online import Quantizing, Scheme, quantize_fp8, quantize_int4, quantize_int8
from octavo.weights.floats import ScaledFloat8
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.source import TensorSource
from octavo.weights.weight import Dense, StoredFormat

SHAPES = [(1, 1), (3, 31), (5, 32), (2, 127), (7, 128), (4, 129), (33, 320)]


def drawn(shape: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=["native", "torch"], autouse=True)
def _rounding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(online, "is_native", lambda values: False)
    elif native.library is None:
        pytest.skip("needs the native library")


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bits_are_off_by_at_most_half_a_step(shape: tuple[int, int]) -> None:
    values = drawn(shape)
    weight = quantize_int8(values)
    assert torch.allclose(weight.scales, values.abs().amax(1) / 127, rtol=1e-6, atol=0)
    assert weight.codes.abs().amax(1).eq(127).all()
    off = (weight.dequantize(torch.float64) - values.double()).abs() / weight.scales.double()[:, None]
    assert off.max() <= 0.5 + 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits_are_off_by_half_a_step_or_clipped_at_the_end_of_the_grid(shape: tuple[int, int]) -> None:
    values = drawn(shape)
    weight = quantize_int4(values)
    assert weight.shape == shape and weight.zeros is None
    assert torch.equal(weight.scales.half().float(), weight.scales)
    scales = weight.scales.double().repeat_interleave(weight.group, 1)[:, : shape[1]]
    steps = (values.double() / scales).clamp(-8, 7)
    assert (weight.codes.double() - 8 - steps).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bit_floats_are_off_by_at_most_half_of_their_last_bit(shape: tuple[int, int]) -> None:
    values = drawn(shape)
    weight = quantize_fp8(values)
    assert weight.values.float().abs().amax(1).eq(448).all()
    wanted = values.double() / weight.scales.double()
    # Three bits behind the first one; below 2^-6 steps of 2^-9.
    steps = 2.0 ** (wanted.abs().log2().floor().clamp(min=-6) - 3)
    assert ((weight.values.double() - wanted).abs() <= steps * (0.5 + 1e-4)).all()
    assert torch.equal(weight.dequantize(), weight.values.float() * weight.scales)


def test_no_scale_that_was_tried_beats_the_chosen_ones() -> None:
    values = drawn((64, 256), 1)
    chosen = (quantize_int4(values).dequantize() - values).square().view(64, 2, 128).sum(2)
    groups = values.view(64, 2, 128)
    extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    for code in online.EXTREMES:
        scale = (-extreme / code).half().float()
        error = ((groups / scale).round().clamp(-8, 7) * scale - groups).square().sum(2)
        assert (chosen <= error * (1 + 1e-4)).all()
    assert chosen.sum().sqrt() / values.square().sum().sqrt() < 0.099  # max / 7 as the only scale leaves 0.117


@pytest.mark.skipif(native.library is None, reason="needs the native library")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_native_library_rounds_as_torch_does(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    values = drawn((64, 320), 3, dtype)
    native8, native4 = quantize_int8(values), quantize_int4(values)
    monkeypatch.setattr(online, "is_native", lambda values: False)
    torch8, torch4 = quantize_int8(values), quantize_int4(values)
    assert torch.allclose(native8.scales, torch8.scales, rtol=1e-6)
    assert (native8.codes != torch8.codes).float().mean() < 2e-3
    # Where two scales are as good, sums in another order may take the other one.
    assert (native4.scales != torch4.scales).float().mean() < 0.02
    errors = [(weight.dequantize() - values.float()).square().sum() for weight in (native4, torch4)]
    assert abs(errors[0] / errors[1] - 1) < 1e-3


def test_ties_go_to_the_even_code() -> None:
    assert quantize_int8(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])).codes.tolist() == [[127, 0, 2, 2, 0, -2]]


def test_values_on_the_grid_are_kept() -> None:
    values = torch.arange(-8, 8).repeat(2)[None] * 0.25
    assert torch.equal(quantize_int4(values, 32).dequantize(), values)
    assert torch.equal(quantize_int4(-values, 32).dequantize(), -values)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4, quantize_fp8])
def test_rows_of_zeros_stay_zeros(quantize) -> None:
    values = drawn((3, 64))
    values[1] = 0
    assert not quantize(values).dequantize()[1].any()


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4, quantize_fp8])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(quantize, value: float) -> None:
    values = drawn((3, 64))
    values[2, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        quantize(values)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4, quantize_fp8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pieces_of_rows_and_other_formats_change_nothing(quantize, dtype: torch.dtype, monkeypatch) -> None:
    values = drawn((37, 160), dtype=dtype)
    whole = quantize(values.float())
    monkeypatch.setattr(online, "CHUNK", 1000)
    pieces = quantize(values)
    assert torch.equal(whole.dequantize(), pieces.dequantize()) and torch.equal(whole.scales, pieces.scales)


@pytest.mark.parametrize(
    ("columns", "wanted", "group"),
    [(256, 128, 128), (320, 128, 64), (96, 128, 32), (256, 32, 32), (100, 128, 32)],
)
def test_the_group_is_the_largest_that_divides_the_columns(columns: int, wanted: int, group: int) -> None:
    assert quantize_int4(drawn((2, columns)), wanted).group == group


@given(st.integers(1, 9), st.integers(1, 300), st.integers(0, 2**31))
def test_parts_quantized_apart_stack_to_the_whole(rows: int, columns: int, seed: int) -> None:
    values = drawn((2 * rows, columns), seed)
    for quantize, kind in ((quantize_int8, ScaledInt8), (quantize_int4, GroupInt), (quantize_fp8, ScaledFloat8)):
        whole = quantize(values)
        stacked = kind.stack([quantize(values[:rows]), quantize(values[rows:])])
        assert torch.equal(whole.dequantize(), stacked.dequantize()) and torch.equal(whole.scales, stacked.scales)


LAYERS = ("model.embed_tokens", "model.layers.0.mlp.gate", "model.layers.0.mlp.gate_proj", "lm_head")


@pytest.mark.parametrize(
    ("layers", "tied", "kinds"),
    [
        ("int8", False, ["dense", "dense", "int8", "int8"]),
        ("int4", False, ["dense", "dense", "int4", "int8"]),
        ("int4", True, ["int8", "dense", "int4", "int4"]),
        ("fp8", False, ["dense", "dense", "fp8", "fp8"]),
    ],
)
def test_each_layer_gets_its_kind(layers, tied: bool, kinds: list[str]) -> None:
    source = TensorSource({f"{name}.weight": drawn((4, 64)) for name in LAYERS})
    format = Quantizing(StoredFormat(), Scheme(layers), tied)
    names = {Dense: "dense", ScaledInt8: "int8", GroupInt: "int4", ScaledFloat8: "fp8"}
    assert [names[type(format.read(source.at(name), ""))] for name in LAYERS] == kinds
    block = source.at("model.layers.0.mlp")
    assert names[type(format.read(block, "gate_proj"))] == kinds[2]


def test_a_weight_that_cannot_be_quantized_is_named() -> None:
    source = TensorSource({"model.layers.0.mlp.down_proj.weight": torch.full((4, 64), float("nan"))})
    with pytest.raises(StartupError, match=r"model\.layers\.0\.mlp\.down_proj cannot be quantized") as error:
        Quantizing(StoredFormat(), Scheme("int8"), False).read(source.at("model.layers.0.mlp"), "down_proj")
    assert error.value.field == "quantization"
