"""Level amx with its tiles emulated: against the documented rounding of its instructions, float64, and other levels.

Where the processor has the instructions, the level itself is also among those of test_linear_float.py and of
test_linear_int.py, and here has to agree with the emulation bit by bit.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

native = pytest.importorskip("octavo._native")

F32 = NDArray[np.float32]
BF16, INT8 = 1, 3  # kinds of weights
SHAPES = ((1, 1), (31, 3), (33, 62), (32, 64), (40, 70), (33, 257), (32, 1089))
ROWS = (1, 2, 4, 5, 15, 16, 17, 20, 21, 32, 33, 47, 48, 52, 64, 240, 241, 256, 289)


@pytest.fixture(autouse=True)
def level_as_before() -> Iterator[None]:
    before = native.kernel_level()
    yield
    native.use_kernel_level(before)


@pytest.fixture(scope="module")
def team() -> object:
    return native.ThreadTeam(1)


class Packed:
    """A weight in panels, behind which stand bytes that make any sum NaN, or very large."""

    def __init__(self, team: object, kind: int, outputs: int, inputs: int, *, interleaved: bool = False) -> None:
        random = np.random.default_rng(0)
        self.weight = weight = native.PackedWeight()
        weight.kind, weight.out_features, weight.in_features = kind, outputs, inputs
        weight.interleaved = int(interleaved)
        weight.panel_bytes = (native.panel_bytes if kind == BF16 else native.code_panel_bytes)(weight)
        self.memory = np.full(weight.num_panels * weight.panel_bytes + 4096, 0xFF, np.uint8)
        weight.panels = self.memory.ctypes.data + -self.memory.ctypes.data % 64
        if kind == BF16:
            self.values = rounded(random.standard_normal((outputs, inputs)).astype(np.float32))
            native.pack_float(team, weight, [(self.values.ctypes.data, 0, inputs, outputs)])
        else:
            codes = random.integers(-128, 128, (outputs, inputs), dtype=np.int8)
            scales = random.uniform(0.001, 0.01, outputs).astype(np.float32)
            native.pack_codes(team, weight, [(codes.ctypes.data, scales.ctypes.data, 0, outputs)])
            self.values = codes * scales[:, None]


def rounded(x: F32) -> F32:
    """To bfloat16, and back."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def activations(rows: int, inputs: int) -> F32:
    return np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32)


def emulate(packed: Packed, x: F32) -> F32:
    weight = packed.weight
    out = np.full((len(x), 32 * weight.num_panels), np.nan, np.float32)
    native.emulate_amx(weight, x.ctypes.data, len(x), out.ctypes.data)
    if weight.interleaved:
        halves = out.reshape(len(x), -1, 2, 16)
        half = weight.out_features // 2
        return np.concatenate([halves[:, :, i].reshape(len(x), -1)[:, :half] for i in (0, 1)], axis=1)
    return out[:, : weight.out_features]


def run(team: object, packed: Packed, x: F32) -> F32:
    """On the level in use."""
    out = np.full((len(x), packed.weight.out_features), np.nan, np.float32)
    linear = native.Linear()
    linear.weight, linear.x, linear.out = packed.weight, x.ctypes.data, out.ctypes.data
    linear.x_stride, linear.out_stride = x.shape[1], out.shape[1]
    tape = native.Tape(team)
    tape.linear(linear, len(x))
    step = native.Step()
    step.num_tokens = len(x)
    tape.run(step)
    return out


def nearest(value: Fraction) -> Fraction:
    """To float32, half to even; normal numbers only."""
    if value == 0:
        return value
    exponent = abs(value).numerator.bit_length() - abs(value).denominator.bit_length()
    unit = Fraction(2) ** (exponent - 23 - (abs(value) < Fraction(2) ** exponent))
    return round(value / unit) * unit


def documented(x: F32, weights: F32) -> float:
    """One element: of each 32 inputs the even ones are one chain of fused operations, the odd ones another."""
    total = Fraction(0)
    for first in range(0, len(x), 32):
        chains = [Fraction(0), Fraction(0)]
        for i in range(first, min(first + 32, len(x))):
            chains[i % 2] = nearest(Fraction(float(x[i])) * Fraction(float(weights[i])) + chains[i % 2])
        total = nearest(total + nearest(chains[0] + chains[1]))
    return float(total)


@pytest.mark.parametrize("inputs", [1, 31, 32, 70, 129])
def test_bfloat16_products_round_as_the_instruction_is_documented(team: object, inputs: int) -> None:
    packed, x = Packed(team, BF16, 33, inputs), activations(18, inputs)
    out = emulate(packed, x)
    for row, column in ((0, 0), (0, 15), (3, 16), (15, 31), (16, 32), (17, 5)):
        assert out[row, column] == documented(rounded(x)[row], packed.values[column]), (row, column)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_bfloat16_products_are_those_of_float64_and_of_other_levels(team: object, outputs: int, inputs: int) -> None:
    packed, x = Packed(team, BF16, outputs, inputs), activations(50, inputs)
    out = emulate(packed, x)
    a, b = rounded(x).astype(np.float64), packed.values.astype(np.float64).T
    allowed = 1e-6 * inputs**0.5 * (abs(a) @ abs(b)) + 1e-30
    assert (abs(out - a @ b) <= allowed).all()
    for level in native.kernel_levels():
        native.use_kernel_level(level)
        assert (abs(out.astype(np.float64) - run(team, packed, x)) <= 2 * allowed).all()


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_int8_products_have_the_bits_of_every_level(team: object, outputs: int, inputs: int) -> None:
    packed, x = Packed(team, INT8, outputs, inputs), activations(max(ROWS), inputs)
    for rows in ROWS:
        np.testing.assert_array_equal(emulate(packed, x[:rows]), run(team, packed, x[:rows]), str(rows))
    for level in native.kernel_levels():
        native.use_kernel_level(level)
        np.testing.assert_array_equal(emulate(packed, x[:21]), run(team, packed, x[:21]))


@pytest.mark.parametrize("kind", [BF16, INT8])
@pytest.mark.parametrize("inputs", [3, 70, 1089])
def test_a_row_has_the_same_bits_beside_any_others(team: object, kind: int, inputs: int) -> None:
    packed, x = Packed(team, kind, 33, inputs), activations(max(ROWS), inputs)
    full = emulate(packed, x)
    assert np.isfinite(full).all()
    for rows in ROWS:
        np.testing.assert_array_equal(emulate(packed, x[:rows]), full[:rows], str(rows))
    for first, last in ((3, 4), (17, 40), (250, 289), (288, 289)):
        np.testing.assert_array_equal(emulate(packed, x[first:last].copy()), full[first:last])


@pytest.mark.parametrize("kind", [BF16, INT8])
def test_gate_and_up_meet_in_one_panel(team: object, kind: int) -> None:
    apart, together = Packed(team, kind, 70, 70), Packed(team, kind, 70, 70, interleaved=True)
    x = activations(19, 70)
    np.testing.assert_array_equal(emulate(together, x), emulate(apart, x))


def test_rows_that_are_not_finite_stay_alone(team: object) -> None:
    for kind in (BF16, INT8):
        packed, x = Packed(team, kind, 40, 70), activations(37, 70)
        clean = emulate(packed, x)
        x[1], x[3, 7], x[20, 69], x[36, 0] = 0, np.nan, np.inf, np.nan
        out = emulate(packed, x)
        rest = [row for row in range(37) if row not in (1, 3, 20, 36)]
        np.testing.assert_array_equal(out[rest], clean[rest])
        np.testing.assert_array_equal(out[1], 0)
        assert np.isnan(out[[3, 36]]).all()
        assert not np.isfinite(out[20]).any()


def test_subnormal_operands_and_sums_are_zeros(team: object) -> None:
    packed, x = Packed(team, BF16, 32, 64), np.full((5, 64), 1e-39, np.float32)
    np.testing.assert_array_equal(emulate(packed, x), 0)
    x[:] = 0
    x[:, 40] = 1.2e-38  # times weights around 1: some products are subnormal
    out = emulate(packed, x)
    exact = np.float64(rounded(x[0])[40]) * packed.values[:, 40]
    tiny = abs(exact) < np.finfo(np.float32).tiny
    assert tiny.any()
    assert not tiny.all()
    np.testing.assert_array_equal(out[0], np.where(tiny, 0, exact.astype(np.float32)))


def test_a_kind_without_tiles_is_refused(team: object) -> None:
    weight = native.PackedWeight()
    weight.kind = 0
    with pytest.raises(ValueError, match="no tiles for kind 0"):
        native.emulate_amx(weight, 0, 0, 0)


@pytest.mark.skipif("amx" not in native.kernel_levels(), reason="this processor has no AMX")
@pytest.mark.parametrize("kind", [BF16, INT8])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_the_level_has_the_bits_of_its_emulation(team: object, kind: int, outputs: int, inputs: int) -> None:
    native.use_kernel_level("amx")
    packed, x = Packed(team, kind, outputs, inputs), activations(max(ROWS), inputs)
    for rows in ROWS:
        np.testing.assert_array_equal(run(team, packed, x[:rows]), emulate(packed, x[:rows]), str(rows))
