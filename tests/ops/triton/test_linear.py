"""Linear kernels against float64 on the numbers that their weights denote, and integer ones against whole numbers."""

from __future__ import annotations

import importlib.util
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo import ops, spec
from octavo.gguf.file import KINDS
from octavo.ops import registry
from octavo.ops.linear import Packed, choose_kernel
from octavo.ops.quantized import Quantized
from octavo.ops.triton import fp8, int4, int8, linear, product
from octavo.ops.triton.product import Config, Matrix, multiply
from octavo.quant.online import quantize_fp8, quantize_int4, quantize_int8
from octavo.weights.blocks import GGUFBlocks
from octavo.weights.floats import E4M3, ScaledFloat8
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.weight import Dense, Weight

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
# The interpreter multiplies no bfloat16.
DTYPES = (torch.float32, torch.float16, *([torch.bfloat16] if HAS_GPU else []))
STEPS = {torch.float32: 2.0**-18, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}
BACKENDS = ("triton", "reference")


@pytest.fixture(autouse=True)
def _bound():  # the small ops beside the kernels: what a GPU would use
    registry.bind(BACKENDS)
    yield
    registry.bind(("reference",))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def int4_weight(rows: int, columns: int, group: int, zeros: bool, seed: int = 0) -> GroupInt:
    g = torch.Generator().manual_seed(seed)
    groups = -(-columns // group)
    return GroupInt(
        torch.randint(0, 16, (rows, columns), generator=g, dtype=torch.uint8),
        (torch.rand(rows, groups, generator=g) + 0.1).half().float(),
        torch.randint(0, 16, (rows, groups), generator=g, dtype=torch.uint8) if zeros else None,
        group,
    )


def blocked(rows: int, columns: int, seed: int = 0) -> ScaledFloat8:
    scales = drawn(-(-rows // 128), -(-columns // 128), seed=seed).abs() + 0.1
    return ScaledFloat8((drawn(rows, columns, seed=seed) * 100).to(E4M3), scales, (128, 128))


def packed(weight: Weight, dtype: torch.dtype, gated: bool = False) -> Packed:
    return choose_kernel(weight, dtype, BACKENDS).pack([weight], dtype, DEVICE, gated)


def meant(x: Tensor | Quantized, dtype: torch.dtype) -> Tensor:
    """The activations that a product is given, in float64."""
    return x.dequantize(torch.float64) if isinstance(x, Quantized) else x.to(dtype).double()


def check(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: spec.Activation | None = None) -> None:
    """The product is within the step of its type (kernels sum in float32) of float64's."""
    x, weight = x.double(), weight.double()
    wide = x @ weight.T + (0 if bias is None else bias.double())
    bound = STEPS[y.dtype] * (x.abs() @ weight.abs().T / weight.shape[1] ** 0.5 + wide.abs())
    if activation is not None:
        (gate, up), (gate_bound, up_bound) = wide.chunk(2, -1), bound.chunk(2, -1)
        act = ACTIVATIONS[activation](gate)
        # All of them rise at most by 1.13, but the square, which rises by 2 gate.
        slope = 2 * (gate.abs() + gate_bound) if activation == "relu2" else 1.13
        wide = act * up
        bound = act.abs() * up_bound + slope * gate_bound * (up.abs() + up_bound) + STEPS[y.dtype] * wide.abs()
    off = (y.double().cpu() - wide).abs()
    assert y.shape == wide.shape
    assert bool((off <= bound + 1e-6).all()), f"{float((off / (bound + 1e-6)).max()):.2f} times the bound"


# ---- four bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_four_bit_products_are_those_of_their_values(group: int, zeros: bool, dtype: torch.dtype) -> None:
    weight = int4_weight(70, 2 * group + 8, group, zeros)
    x, bias = drawn(3, weight.shape[1]).to(dtype), drawn(70, seed=1).to(dtype)
    y = packed(weight, dtype).run(x.to(DEVICE), bias.to(DEVICE))
    check(y, x, weight.dequantize(torch.float64), bias)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 18), st.integers(1, 100), st.integers(1, 200), st.sampled_from((32, 64, 128)), st.booleans(),
    st.sampled_from((1, 3)), st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_four_bits_in_any_shape(
    tokens: int, rows: int, columns: int, group: int, zeros: bool, split: int, gated: bool, seed: int
) -> None:
    rows *= 2 if gated else 1
    weight = int4_weight(rows, columns, group, zeros, seed)
    x = drawn(tokens, columns, seed=seed)
    config = Config(16, 128 if gated else 64, 0, split=split)
    activation: spec.Activation | None = "silu" if gated else None
    held = int4.Int4Triton().pack([weight], torch.float32, DEVICE, gated)
    y = multiply(x.to(DEVICE), None, held.matrix, None, activation, torch.float32, config)
    check(y, x, weight.dequantize(torch.float64), None, activation)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 100), st.integers(1, 200), st.sampled_from((32, 64, 128)), st.booleans(), st.booleans())
def test_packed_four_bits_unpack_to_what_they_were(
    rows: int, columns: int, group: int, zeros: bool, gated: bool
) -> None:
    weight = int4_weight(rows * (2 if gated else 1), columns, group, zeros)
    held = int4.Int4Triton().pack([weight], torch.float32, DEVICE, gated)
    values = weight.dequantize()
    assert torch.equal(held.dense(torch.float32).cpu(), values)
    ids = torch.tensor([len(values) - 1, 0, 0], dtype=torch.int32)
    assert torch.equal(held.embed(ids.to(DEVICE)).cpu(), values[ids.long()])


@pytest.mark.parametrize("tokens", [0, 1, 65])
def test_no_token_one_and_more_than_a_tile(tokens: int) -> None:
    weight = quantize_int4(drawn(64, 64))
    x = drawn(tokens, 64)
    check(packed(weight, torch.float32).run(x.to(DEVICE), None), x, weight.dequantize(), None)


@pytest.mark.parametrize("code", [0, 15])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_codes_and_scales_of_zero(code: int, dtype: torch.dtype) -> None:
    codes = torch.full((64, 128), code, dtype=torch.uint8)
    scales = torch.ones(64, 1)
    scales[1::2] = 0
    x = drawn(2, 128).to(dtype)
    for zeros in (None, torch.full((64, 1), 15 - code, dtype=torch.uint8)):
        weight = GroupInt(codes, scales, zeros, 128)
        y = packed(weight, dtype).run(x.to(DEVICE), None)
        check(y, x, weight.dequantize(), None)
        assert not y[:, 1::2].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_magic_numbers_make_codes_exact(dtype: torch.dtype) -> None:
    codes = torch.arange(16, dtype=torch.int16)
    magic, offset = (0x4300, 128) if dtype == torch.bfloat16 else (0x6400, 1024)
    made = (codes | magic).view(dtype)
    assert torch.equal(made.float(), codes.float() + offset)
    assert torch.equal((made[:, None] - made[None, :]).float(), codes[:, None].float() - codes[None, :].float())


def test_scales_are_held_in_the_narrowest_format_that_keeps_them() -> None:
    halves = drawn(4, 4).half().float()
    brains = halves.bfloat16().float() * 2.0**40
    assert int4.narrowest(halves).dtype == torch.float16
    assert int4.narrowest(brains).dtype == torch.bfloat16
    assert int4.narrowest(brains + halves * 2.0**25).dtype == torch.float32


def test_many_tokens_multiply_with_the_dense_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4, "DENSE_FROM", 8)
    weight = int4_weight(40, 96, 32, True)
    x, bias = drawn(9, 96), drawn(40)
    held = packed(weight, torch.float32, gated=True)
    check(held.run(x.to(DEVICE), bias.to(DEVICE)), x, weight.dequantize(), bias)
    y = held.gated(x.to(DEVICE), bias.to(DEVICE), "silu")
    assert isinstance(y, Tensor)
    check(y, x, weight.dequantize(), bias, "silu")


# ---- eight bits


def test_sums_of_whole_numbers_are_exact() -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (80, 320), generator=g, dtype=torch.int8)
    values = torch.randint(-127, 128, (5, 320), generator=g, dtype=torch.int8)
    held = int8.Int8Triton().pack([ScaledInt8(codes, torch.ones(80))], torch.float32, DEVICE)
    exact = (values.long() @ codes.long().T).float()
    for split in (1, 3):
        config = Config(16, 64, 64, split=split)
        scales = torch.ones(5, 1, device=DEVICE)
        y = multiply(values.to(DEVICE), scales, held.matrix, None, None, torch.float32, config)
        assert torch.equal(y.cpu(), exact)


@pytest.mark.parametrize("make", [quantize_int8, quantize_fp8, lambda values: blocked(*values.shape)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_eight_bit_products_are_those_of_their_values(make, dtype: torch.dtype) -> None:
    weight: Weight = make(drawn(130, 300))
    x, bias = drawn(4, 300).to(dtype), drawn(130, seed=1).to(dtype)
    held = packed(weight, dtype)
    assert held.takes in (torch.int8, E4M3)
    rounded = ops.quantize(x.to(DEVICE), held.takes)
    y = held.run(rounded, bias.to(DEVICE))
    check(y, rounded.dequantize(torch.float64).cpu(), weight.dequantize(torch.float64), bias)
    assert torch.equal(y, held.run(x.to(DEVICE), bias.to(DEVICE)))  # who rounds makes no difference


def test_cublas_and_our_product_of_whole_numbers_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = quantize_int8(drawn(64, 32))
    x, bias = drawn(17, 32).to(DEVICE), drawn(64).to(DEVICE)
    held = packed(weight, torch.float32, gated=True)
    ours = held.run(x, bias), held.gated(x, bias, "gelu")
    monkeypatch.setattr(int8, "CUBLAS_FROM", 17)
    assert torch.equal(held.run(x, bias), ours[0])
    assert torch.equal(held.gated(x, bias, "gelu"), ours[1])  # type: ignore[arg-type]


def test_blocks_of_rows_that_do_not_divide_the_parts_are_cut() -> None:
    parts = [blocked(40, 256, seed=1), blocked(100, 256, seed=2)]
    held = fp8.Fp8Triton().pack(parts, torch.float32, DEVICE)
    x = ops.quantize(drawn(3, 256).to(DEVICE), E4M3)
    whole = torch.cat([part.dequantize(torch.float64) for part in parts])
    check(held.run(x, None), x.dequantize(torch.float64).cpu(), whole, None)


@pytest.mark.parametrize("make", [quantize_int8, quantize_fp8, lambda values: blocked(*values.shape)])
def test_rows_of_eight_bit_tables(make) -> None:
    weight = make(drawn(140, 200))
    ids = torch.tensor([139, 0, 7, 7], dtype=torch.int32)
    rows = packed(weight, torch.float32).embed(ids.to(DEVICE))
    assert torch.equal(rows.cpu(), weight.dequantize()[ids.long()])


# ---- what all kinds have in common


def kinds(rows: int, columns: int) -> list[Weight]:
    values = drawn(rows, columns)
    return [Dense(values), quantize_int8(values), quantize_int4(values), quantize_fp8(values)]


@pytest.mark.parametrize("activation", get_args(spec.Activation))
def test_gating_is_the_activation_of_one_half_times_the_other(activation: spec.Activation) -> None:
    x, bias = (drawn(3, 64) / 4).half(), drawn(72).half()
    for weight in kinds(72, 64):
        held = packed(weight, torch.float16, gated=True)
        given = x.to(DEVICE) if held.takes is None else ops.quantize(x.to(DEVICE), held.takes)
        y = held.gated(given, bias.to(DEVICE), activation)
        assert isinstance(y, Tensor)
        wide = meant(given, torch.float16).cpu()
        values = weight.dequantize(torch.float16 if isinstance(weight, Dense) else torch.float64)
        check(y, wide, values, bias, activation)


@pytest.mark.parametrize("takes", [torch.int8, E4M3])
def test_the_gated_result_is_rounded_for_a_product_that_takes_it_so(takes: torch.dtype) -> None:
    x = drawn(3, 64).to(DEVICE)
    for weight in kinds(64, 64):
        held = packed(weight, torch.float32, gated=True)
        plain, rounded = held.gated(x, None, "silu"), held.gated(x, None, "silu", takes)
        assert isinstance(plain, Tensor) and isinstance(rounded, Quantized) and rounded.values.dtype == takes
        limit = 127 if takes == torch.int8 else 8
        assert (rounded.dequantize(torch.float32) - plain).abs().max() <= plain.abs().max() / limit


@pytest.mark.parametrize("split", [1, 2])
def test_a_token_is_the_same_whoever_is_beside_it(split: int) -> None:
    x = drawn(16, 128).to(DEVICE)
    for weight in kinds(32, 128):
        held = packed(weight, torch.float32)
        given = x if held.takes is None else ops.quantize(x, held.takes)
        config = Config(16, 32, 64, split=split)

        def run(rows: slice, held=held, given=given, config=config) -> Tensor:
            some = (given[rows], None) if isinstance(given, Tensor) else (given.values[rows], given.scales[rows])
            return multiply(*some, held.matrix, None, None, torch.float32, config)

        whole = run(slice(0, 16))
        assert torch.equal(whole[5:6], run(slice(5, 6)))
        assert torch.equal(whole[3:9], run(slice(3, 9)))


def test_columns_that_are_split_sum_to_the_same() -> None:
    x = drawn(2, 384)
    weight = quantize_int4(drawn(32, 384))
    held = int4.Int4Triton().pack([weight], torch.float32, DEVICE)
    for split in (1, 2, 4):  # more ranges than there are groups: one is empty
        y = multiply(x.to(DEVICE), None, held.matrix, None, None, torch.float32, Config(16, 32, 0, split=split))
        check(y, x, weight.dequantize(), None)


def test_activations_that_are_views_are_read_where_they_lie() -> None:
    wide = drawn(4, 3, 64).to(DEVICE)
    weight = quantize_int4(drawn(64, 64))
    y = packed(weight, torch.float32).run(wide[:, 1], None)
    check(y, wide[:, 1].cpu(), weight.dequantize(), None)
    turned = wide[:, 1].T.contiguous().T
    assert torch.equal(packed(weight, torch.float32).run(turned, None), y)


@pytest.mark.parametrize("make", [quantize_int8, lambda values: quantize_int4(values, 32), quantize_fp8])
def test_parts_of_a_layer_are_packed_as_one(make) -> None:
    parts = [make(drawn(rows, 64, seed=rows)) for rows in (70, 10, 10)]  # q, k and v
    held = choose_kernel(parts[0], torch.float32, BACKENDS).pack(parts, torch.float32, DEVICE)
    x = drawn(2, 64).to(DEVICE)
    given = x if held.takes is None else ops.quantize(x, held.takes)
    whole = torch.cat([part.dequantize(torch.float64) for part in parts])
    check(held.run(given, None), meant(given, torch.float32).cpu(), whole, None)


@pytest.mark.parametrize(
    ("weight", "kernel"),
    [
        (quantize_int4(drawn(4, 64)), int4.Int4Triton),
        (int4_weight(4, 48, 16, False), linear.DenseTriton),  # groups that no kernel knows
        (quantize_int8(drawn(4, 64)), int8.Int8Triton),
        (quantize_fp8(drawn(4, 64)), fp8.Fp8Triton),
        (ScaledFloat8(torch.zeros(4, 64).to(E4M3), torch.ones(4, 2), (1, 32)), linear.DenseTriton),
        (Dense(drawn(4, 64)), linear.DenseTriton),
    ],
)
def test_each_kind_of_weight_finds_its_kernel(weight: Weight, kernel: type) -> None:
    assert type(choose_kernel(weight, torch.bfloat16, BACKENDS)) is kernel
    x = drawn(2, weight.shape[1])
    held = packed(weight, torch.float32)
    given = ops.quantize(x.to(DEVICE), held.takes) if held.takes else x.to(DEVICE)
    check(held.run(given, None), meant(given, torch.float32).cpu(), weight.dequantize(torch.float64), None)


def test_blocks_of_a_gguf_file_become_dense() -> None:
    block = next(each for each in KINDS.values() if each.name == "Q8_0")
    g = torch.Generator().manual_seed(0)
    data = torch.randint(0, 100, (24, block.row_bytes(64)), generator=g, dtype=torch.uint8)
    weight = GGUFBlocks(data, block)
    assert type(choose_kernel(weight, torch.float32, BACKENDS)) is linear.DenseTriton
    x = drawn(2, 64)
    check(packed(weight, torch.float32).run(x.to(DEVICE), None), x, weight.dequantize(), None)


def test_a_gpu_that_multiplies_no_eight_bit_floats_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 6))
    weight = quantize_fp8(drawn(4, 64))
    assert fp8.Fp8Triton().refuses(weight, torch.bfloat16) == (
        "needs a GPU that multiplies fp8, sm_89 or later; this one is sm_86"
    )
    assert type(choose_kernel(weight, torch.bfloat16, BACKENDS)) is linear.DenseTriton


def test_whole_numbers_do_not_overflow() -> None:
    many = ScaledInt8(torch.zeros(1, int8.MOST_COLUMNS, dtype=torch.int8), torch.ones(1))
    assert "sums less than" in str(int8.Int8Triton().refuses(many, torch.bfloat16))
    assert int8.MOST_COLUMNS * 128 * 127 < 2**31


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 64, 65, 4096])
def test_a_tile_holds_the_tokens_and_splits_only_what_is_long_enough(num_tokens: int) -> None:
    values = torch.empty(0)
    for features, columns in ((4096, 4096), (4096, 14336), (28672, 4096), (128, 64)):
        matrix = Matrix(values, columns, features, features)
        config = product.configure(matrix, num_tokens, 2, DEVICE, gated=False)
        assert config.tokens >= min(num_tokens, 64) and 1 <= config.split <= product.MAX_SPLIT
        assert config.split == 1 or columns // config.columns // config.split >= 4
        assert num_tokens <= product.SPLIT_BELOW or config.split == 1
