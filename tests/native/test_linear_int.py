"""Weights of 8 and 4 bits against numpy, on every level: the same quantized activations, products in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo import _native as native

F32 = NDArray[np.float32]
Part = tuple[NDArray[np.int8] | NDArray[np.uint8], F32, NDArray[np.uint8] | None]  # codes, scales, zero points
LEVELS = native.kernel_levels()
ROWS = (1, 2, 11, 12, 13, 25, 240, 241)
PLAIN, BF16, F16 = 0, 1, 2  # kinds of values
INT8, INT4, INT4_BF16 = 3, 4, 5  # kinds of weights


@pytest.fixture(autouse=True)
def highest_level_afterwards() -> Iterator[None]:
    yield
    native.use_kernel_level(LEVELS[-1])


@pytest.fixture(scope="module")
def team() -> native.ThreadTeam:
    return native.ThreadTeam(2)


@dataclass
class Packed:
    """A packed weight, the memory that it lies in, and the values that it denotes."""

    weight: native.PackedWeight
    memory: NDArray[np.uint8]
    codes: NDArray[np.int64]  # minus their zero points
    scales: F32
    group: int  # inputs per scale: all of them for int8

    @property
    def values(self) -> NDArray[np.float64]:
        return self.codes * spread(self).astype(np.float64)


def spread(packed: Packed) -> F32:
    return np.repeat(packed.scales, packed.group, axis=1)[:, : packed.codes.shape[1]]


def aligned(num_bytes: int) -> NDArray[np.uint8]:
    memory = np.full(num_bytes + 64, 0xAB, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + num_bytes]


def describe(
    kind: int, out_features: int, in_features: int, group: int = 0, zeros: bool = False, interleaved: bool = False
) -> native.PackedWeight:
    weight = native.PackedWeight()
    weight.kind, weight.out_features, weight.in_features = kind, out_features, in_features
    weight.group, weight.flags, weight.interleaved = group, int(zeros), int(interleaved)
    weight.panel_bytes = native.code_panel_bytes(weight)
    return weight


def pack(team: native.ThreadTeam, weight: native.PackedWeight, parts: Sequence[Part]) -> NDArray[np.uint8]:
    memory = aligned(weight.num_panels * weight.panel_bytes)
    weight.panels = memory.ctypes.data
    addresses: list[tuple[int, int, int, int]] = []
    for codes, scales, zeros in parts:
        assert codes.flags.c_contiguous
        assert scales.flags.c_contiguous
        addresses.append((codes.ctypes.data, scales.ctypes.data, 0 if zeros is None else zeros.ctypes.data, len(codes)))
    native.pack_codes(team, weight, addresses)
    return memory


def int8(
    team: native.ThreadTeam, out_features: int, in_features: int, *, interleaved: bool = False, seed: int = 0
) -> Packed:
    random = np.random.default_rng(seed)
    codes = random.integers(-128, 128, (out_features, in_features), dtype=np.int8)
    scales = random.uniform(0.001, 0.01, out_features).astype(np.float32)
    weight = describe(INT8, out_features, in_features, interleaved=interleaved)
    cut = out_features // 3
    parts = [(codes[:cut], scales[:cut], None), (codes[cut:], scales[cut:], None)]
    return Packed(weight, pack(team, weight, parts), codes.astype(np.int64), scales[:, None], in_features)


def int4(
    team: native.ThreadTeam,
    out_features: int,
    in_features: int,
    group: int,
    *,
    zeros: bool = False,
    bf16_activations: bool = False,
    interleaved: bool = False,
) -> Packed:
    random = np.random.default_rng(0)
    num_groups = -(-in_features // group)
    codes = random.integers(0, 16, (out_features, in_features), dtype=np.uint8)
    scales = random.uniform(-0.01, 0.01, (out_features, num_groups)).astype(np.float16).astype(np.float32)
    points = random.integers(0, 17, scales.shape, dtype=np.uint8)
    weight = describe(INT4_BF16 if bf16_activations else INT4, out_features, in_features, group, zeros, interleaved)
    cut = out_features // 3
    parts = [
        (codes[:cut], scales[:cut], points[:cut] if zeros else None),
        (codes[cut:], scales[cut:], points[cut:] if zeros else None),
    ]
    memory = pack(team, weight, parts)
    subtracted = np.repeat(points if zeros else np.full_like(points, 8), group, axis=1)[:, :in_features]
    return Packed(weight, memory, codes.astype(np.int64) - subtracted, scales, group)


def run(team: native.ThreadTeam, packed: Packed, x: F32, activation: int = 0) -> F32:
    weight, rows = packed.weight, len(x)
    out = np.full((rows, weight.out_features // (2 if weight.interleaved else 1)), 7.0, np.float32)
    linear = native.Linear()
    linear.weight, linear.x, linear.out = weight, x.ctypes.data, out.ctypes.data
    linear.x_stride, linear.out_stride, linear.activation = x.shape[1], out.shape[1], activation
    tape = native.Tape(team)
    tape.linear(linear, max(rows, 1))
    step = native.Step()
    step.num_tokens = rows
    tape.run(step)
    return out


def unpack(packed: Packed) -> F32:
    weight = packed.weight
    out = np.zeros((weight.num_panels, 32, weight.in_features), np.float32)
    for panel in range(weight.num_panels):
        for column in range(32):
            native.unpack_row(weight, panel, column, out[panel, column].ctypes.data)
    if weight.interleaved:
        half = weight.out_features // 2
        return np.concatenate(
            [out[:, :16].reshape(-1, weight.in_features)[:half], out[:, 16:].reshape(-1, weight.in_features)[:half]]
        )
    return out.reshape(-1, weight.in_features)[: weight.out_features]


def quantized(x: F32, group: int) -> tuple[NDArray[np.int64], F32]:
    """Codes of x [T, I] and a scale per row and group: to ±127, half to even, rounded in float32 as the kernel."""
    num_groups = -(-x.shape[1] // group)
    padded = np.zeros((len(x), num_groups * group), np.float32)
    padded[:, : x.shape[1]] = x
    grouped = padded.reshape(len(x), num_groups, group)
    most = np.abs(grouped).max(2)
    with np.errstate(divide="ignore"):
        inverse = np.where(most == 0, np.float32(0), np.float32(127) / most)
    codes = np.rint(grouped * inverse[:, :, None]).astype(np.int64).reshape(len(x), -1)
    return codes[:, : x.shape[1]], most / np.float32(127)


def oracle(packed: Packed, x: F32) -> NDArray[np.float64]:
    codes, scales = quantized(x, packed.group)
    starts = range(0, x.shape[1], packed.group)
    return sum(  # type: ignore[return-value]
        codes[:, i : i + packed.group]
        @ packed.codes[:, i : i + packed.group].T
        * scales[:, g, None].astype(np.float64)
        * packed.scales[None, :, g].astype(np.float64)
        for g, i in enumerate(starts)
    )


def activations(rows: int, inputs: int, seed: int = 1) -> F32:
    return np.random.default_rng(seed).standard_normal((rows, inputs)).astype(np.float32)


def assert_close(got: F32, wanted: NDArray[np.float64], tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max(initial=0.0))


def bf16_oracle(packed: Packed, x: F32) -> NDArray[np.float64]:
    """Products with bfloat16 activations."""
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64) @ packed.values.T


def cosine(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("inputs", [1, 3, 32, 70, 128, 257, 1000])
@pytest.mark.parametrize("outputs", [1, 31, 33, 100])
def test_int8_products_are_those_of_the_codes(team: native.ThreadTeam, level: str, outputs: int, inputs: int) -> None:
    native.use_kernel_level(level)
    packed = int8(team, outputs, inputs)
    for rows in ROWS:
        x = activations(rows, inputs)
        assert_close(run(team, packed, x), oracle(packed, x))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("inputs", [1, 3, 32, 70, 128, 257, 1000])
@pytest.mark.parametrize(
    ("outputs", "group", "zeros"), [(1, 32, True), (31, 64, False), (33, 128, True), (100, 32, False)]
)
def test_int4_products_are_those_of_the_codes(
    team: native.ThreadTeam, level: str, outputs: int, group: int, zeros: bool, inputs: int
) -> None:
    native.use_kernel_level(level)
    packed = int4(team, outputs, inputs, group, zeros=zeros)
    wide = int4(team, outputs, inputs, group, zeros=zeros, bf16_activations=True)
    for rows in ROWS:
        x = activations(rows, inputs)
        assert_close(run(team, packed, x), oracle(packed, x))
        assert_close(run(team, wide, x), bf16_oracle(wide, x))


@pytest.mark.parametrize("level", LEVELS)
def test_a_packed_weight_holds_what_was_packed(team: native.ThreadTeam, level: str) -> None:
    native.use_kernel_level(level)
    for packed in (
        int8(team, 70, 37),
        int8(team, 70, 37, interleaved=True),
        int4(team, 70, 300, 128),
        int4(team, 70, 300, 64, zeros=True),
        int4(team, 100, 97, 32, zeros=True, interleaved=True),
        int4(team, 33, 3, 32, zeros=True),
    ):
        np.testing.assert_array_equal(unpack(packed), (packed.codes * spread(packed)).astype(np.float32))


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_has_the_same_bits_beside_any_others_and_on_any_team(level: str) -> None:
    native.use_kernel_level(level)
    one, three = native.ThreadTeam(1), native.ThreadTeam(3)
    weights = [int8(one, 97, 257)]
    for group in (32, 128):
        for zeros in (False, True):
            for bf16_activations in (False, True):
                weights.append(int4(one, 97, 257, group, zeros=zeros, bf16_activations=bf16_activations))
    x = activations(241, 257)
    for packed in weights:
        whole = run(one, packed, x)
        for first, last in ((0, 1), (240, 241), (3, 5), (100, 113), (7, 31), (17, 42), (0, 240)):
            np.testing.assert_array_equal(run(three, packed, x[first:last].copy()), whole[first:last])


def test_all_levels_give_the_same_bits_for_int8_activations(team: native.ThreadTeam) -> None:
    x = activations(13, 300)
    for packed in (int8(team, 70, 300), int4(team, 70, 300, 128), int4(team, 70, 300, 32, zeros=True)):
        results = []
        for level in LEVELS:
            native.use_kernel_level(level)
            results.append(run(team, packed, x))
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("level", LEVELS)
def test_extreme_codes_do_not_saturate(team: native.ThreadTeam, level: str) -> None:
    native.use_kernel_level(level)
    inputs = 512
    x = np.stack([np.full(inputs, 1.0), np.full(inputs, -1.0), np.resize([1.0, -1.0], inputs)]).astype(np.float32)
    for code in (-128, -127, 127):
        weight = describe(INT8, 40, inputs)
        codes, scales = np.full((40, inputs), code, np.int8), np.ones(40, np.float32)
        packed = Packed(
            weight, pack(team, weight, [(codes, scales, None)]), codes.astype(np.int64), scales[:, None], inputs
        )
        assert_close(run(team, packed, x), oracle(packed, x), 1e-6)
    for code in (0, 15):
        for kind in (INT4, INT4_BF16):
            weight = describe(kind, 40, inputs, 128, zeros=True)
            codes, zeros = np.full((40, inputs), code, np.uint8), np.full((40, 4), 15 - code, np.uint8)
            scales = np.ones((40, 4), np.float32)
            memory = pack(team, weight, [(codes, scales, zeros)])
            packed = Packed(weight, memory, codes.astype(np.int64) - (15 - code), scales, 128)
            assert_close(run(team, packed, x), oracle(packed, x), 1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_zeros_and_rows_that_are_not_finite_stay_alone(team: native.ThreadTeam, level: str) -> None:
    native.use_kernel_level(level)
    for packed in (
        int8(team, 40, 256),
        int4(team, 40, 256, 64),
        int4(team, 40, 256, 64, zeros=True, bf16_activations=True),
    ):
        x = activations(6, 256)
        clean = run(team, packed, x)
        x[1], x[3, 7], x[4, 200], x[5] = 0.0, np.nan, np.inf, 1e-40
        out = run(team, packed, x)
        np.testing.assert_array_equal(out[[0, 2]], clean[[0, 2]])
        np.testing.assert_array_equal(out[1], 0.0)
        assert np.isnan(out[3]).all()
        assert not np.isfinite(out[4]).any()
        assert (np.abs(out[5]) < 1e-36).all()


def test_a_step_without_rows_writes_nothing(team: native.ThreadTeam) -> None:
    assert run(team, int4(team, 33, 70, 32), activations(0, 70)).shape == (0, 33)


@pytest.mark.parametrize("level", LEVELS)
def test_gate_and_up_meet_in_one_panel(team: native.ThreadTeam, level: str) -> None:
    native.use_kernel_level(level)
    x = activations(14, 96)
    for packed in (int8(team, 70, 96, interleaved=True), int4(team, 70, 96, 32, interleaved=True)):
        gate, up = np.split(oracle(packed, x), 2, axis=1)
        assert_close(run(team, packed, x, activation=1), gate / (1 + np.exp(-gate)) * up, 3e-5)


def test_int8_and_int4_stay_close_to_float_activations(team: native.ThreadTeam) -> None:
    x = activations(16, 2048)
    for packed, least in ((int8(team, 64, 2048), 0.9995), (int4(team, 64, 2048, 128), 0.999)):
        assert cosine(run(team, packed, x), x @ packed.values.T) > least


def test_weights_that_cannot_be_packed_are_refused(team: native.ThreadTeam) -> None:
    with pytest.raises(ValueError, match="group=48"):
        describe(INT4, 32, 32, 48)
    with pytest.raises(ValueError, match="must be even"):
        describe(INT8, 33, 32, interleaved=True)
    with pytest.raises(ValueError, match="kind=1"):
        describe(1, 32, 32)
    weight = describe(INT8, 32, 32)
    with pytest.raises(ValueError, match="aligned to 64"):
        native.pack_codes(team, weight, [])
    memory = aligned(weight.num_panels * weight.panel_bytes)
    weight.panels = memory.ctypes.data
    with pytest.raises(ValueError, match="31 rows"):
        native.pack_codes(team, weight, [(0, 0, 0, 31)])


def stored(values: F32, kind: int) -> tuple[NDArray[np.generic], F32]:
    """The values as f32, bf16 or f16 in memory, and what these are."""
    if kind == BF16:
        half = (values.view(np.uint32) >> 16).astype(np.uint16)
        return half, (half.astype(np.uint32) << 16).view(np.float32)
    memory = values.astype(np.float16) if kind == F16 else values
    return memory, memory.astype(np.float32)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [PLAIN, BF16, F16])
def test_int8_quantization_rounds_each_row_to_127_steps(team: native.ThreadTeam, level: str, kind: int) -> None:
    native.use_kernel_level(level)
    memory, values = stored(activations(37, 300), kind)
    codes, scales = np.zeros(values.shape, np.int8), np.zeros(37, np.float32)
    native.quantize_int8(team, memory.ctypes.data, kind, 37, 300, codes.ctypes.data, scales.ctypes.data)
    wanted, wanted_scales = quantized(values, 300)
    np.testing.assert_array_equal(codes, wanted)
    np.testing.assert_array_equal(scales, wanted_scales[:, 0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [PLAIN, BF16, F16])
@pytest.mark.parametrize("group", [32, 128])
def test_int4_quantization_beats_scales_of_the_largest_value(
    team: native.ThreadTeam, level: str, kind: int, group: int
) -> None:
    native.use_kernel_level(level)
    memory, values = stored(activations(37, 300), kind)
    num_groups = -(-300 // group)
    codes, scales = np.zeros(values.shape, np.uint8), np.zeros((37, num_groups), np.float32)
    native.quantize_int4(team, memory.ctypes.data, kind, 37, 300, group, codes.ctypes.data, scales.ctypes.data)
    assert codes.max() <= 15
    np.testing.assert_array_equal(scales, scales.astype(np.float16))
    wide = np.repeat(scales, group, axis=1)[:, :300]
    np.testing.assert_array_equal(codes, np.clip(np.rint(values * (1 / wide)), -8, 7) + 8)
    error = ((codes.astype(np.float32) - 8) * wide - values) ** 2
    for g in range(num_groups):
        x = values[:, g * group : (g + 1) * group]
        extreme = x[np.arange(37), np.abs(x).argmax(1)][:, None]
        signed = extreme / -8
        plain = ((np.clip(np.rint(x / signed), -8, 7) * signed - x) ** 2).sum()
        assert error[:, g * group : (g + 1) * group].sum() < 0.97 * plain


def test_int4_quantization_of_groups_without_a_scale(team: native.ThreadTeam) -> None:
    values = activations(4, 64)
    values[0, :32], values[1, 3], values[2, 40], values[3, :32] = 0.0, np.nan, 1e9, 1e-12
    codes, scales = np.zeros((4, 64), np.uint8), np.ones((4, 2), np.float32)
    native.quantize_int4(team, values.ctypes.data, PLAIN, 4, 64, 32, codes.ctypes.data, scales.ctypes.data)
    assert scales[0, 0] == 0
    assert scales[3, 0] == 0
    assert np.isnan(scales[1, 0])
    assert np.isnan(scales[2, 1])
    assert np.isfinite(scales).sum() == 6
    np.testing.assert_array_equal(codes[[0, 3], :32], 8)
