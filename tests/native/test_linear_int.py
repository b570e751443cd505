"""Weights of 8 and 4 bits against numpy, on every level: the same quantized activations, products in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo import _native as native

F32 = NDArray[np.float32]
LEVELS = native.kernel_levels()
ROWS = (1, 2, 11, 12, 13, 25, 240, 241)
PLAIN, BF16, F16 = 0, 1, 2


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
        scales = np.repeat(self.scales, self.group, axis=1)[:, : self.codes.shape[1]]
        return self.codes * scales.astype(np.float64)


def aligned(num_bytes: int) -> NDArray[np.uint8]:
    memory = np.full(num_bytes + 64, 0xAB, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + num_bytes]


def pack(
    team: native.ThreadTeam, weight: native.PackedWeight, parts: list[tuple[NDArray[np.generic] | None, ...]]
) -> NDArray[np.uint8]:
    memory = aligned(weight.num_panels * weight.panel_bytes)
    weight.panels = memory.ctypes.data
    assert all(each is None or each.flags.c_contiguous for part in parts for each in part)
    addresses = [(*(0 if each is None else each.ctypes.data for each in part), len(part[0])) for part in parts]  # type: ignore[arg-type]
    native.pack_codes(team, weight, addresses)
    return memory


def int8(
    team: native.ThreadTeam, out_features: int, in_features: int, *, interleaved: bool = False, seed: int = 0
) -> Packed:
    random = np.random.default_rng(seed)
    codes = random.integers(-128, 128, (out_features, in_features), dtype=np.int8)
    scales = random.uniform(0.001, 0.01, out_features).astype(np.float32)
    weight = native.int8_weight(out_features, in_features, interleaved)
    cut = out_features // 3
    parts = [(codes[:cut], scales[:cut], None), (codes[cut:], scales[cut:], None)]
    return Packed(weight, pack(team, weight, parts), codes.astype(np.int64), scales[:, None], in_features)


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
    """Codes of x [T, I] and a scale per row and group: symmetric to ±127, to nearest even, in float32 as the kernel rounds."""
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


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("inputs", (1, 3, 32, 70, 128, 257, 1000))
@pytest.mark.parametrize("outputs", (1, 31, 33, 100))
def test_int8_products_are_those_of_the_codes(team: native.ThreadTeam, level: str, outputs: int, inputs: int) -> None:
    native.use_kernel_level(level)
    packed = int8(team, outputs, inputs)
    for rows in ROWS:
        x = activations(rows, inputs)
        assert_close(run(team, packed, x), oracle(packed, x))
