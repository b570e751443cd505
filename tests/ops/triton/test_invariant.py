"""Products that do not know how many tokens there are: of every kind of weight, and as they compile."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo import ops
from octavo.ops import invariant, registry
from octavo.ops.linear import Packed, choose_kernel
from octavo.ops.quantized import Quantized
from octavo.quant.online import quantize_fp8, quantize_int4, quantize_int8
from octavo.weights.weight import Dense, Weight

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
BACKENDS = ("invariant", "triton", "reference")
ROWS, COLUMNS = 64, 256


@pytest.fixture(autouse=True)
def _bound():
    registry.bind(BACKENDS)
    yield
    registry.bind(("reference",))


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def weight_of(kind: str) -> Weight:
    dense = drawn(ROWS, COLUMNS) * 0.1
    match kind:
        case "int8":
            return quantize_int8(dense)
        case "int4":
            return quantize_int4(dense)
        case "fp8":
            return quantize_fp8(dense)
        case _:
            return Dense(dense.to(DTYPE))


def bits(y: Tensor | Quantized) -> Tensor:
    assert isinstance(y, Tensor)
    return y.contiguous().view(torch.uint8)


@pytest.mark.parametrize("kind", ["dense", "int8", "int4", "fp8"])
def test_a_row_has_the_same_bits_among_any_number_of_others(kind: str) -> None:
    if kind == "fp8" and DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU multiplies no fp8")
    weight = weight_of(kind)

    def held(backends: tuple[str, ...]) -> Packed:
        return choose_kernel(weight, DTYPE, backends).pack([weight], DTYPE, DEVICE, True)

    mine, theirs = held(BACKENDS), held(BACKENDS[1:])
    assert isinstance(mine, invariant.OneTile) and mine.takes == theirs.takes
    x = drawn(66, COLUMNS).to(DEVICE, DTYPE)
    whole, gated = mine.run(x, None), mine.gated(x, None, "silu")
    torch.testing.assert_close(whole, theirs.run(x, None), rtol=2e-2, atol=2e-2)
    for rows in (slice(65, 66), slice(5, 24)):
        assert torch.equal(bits(mine.run(x[rows], None)), bits(whole[rows]))
        assert torch.equal(bits(mine.gated(x[rows], None, "silu")), bits(gated[rows]))


def launches(capability: int) -> None:
    """What a step of an 8 B model multiplies, small in features, which decide nothing but the grid."""
    registry.bind(BACKENDS, torch.bfloat16)
    x = torch.empty(3, 4096, dtype=torch.bfloat16)
    weights: list[Weight] = [Dense(torch.empty(256, 4096, dtype=torch.bfloat16)), quantize_int8(torch.ones(256, 4096))]
    weights.append(quantize_int4(torch.ones(256, 4096)))
    for weight in weights:
        for gated in (False, True):
            held = choose_kernel(weight, x.dtype, BACKENDS).pack([weight], x.dtype, torch.device("cpu"), gated)
            y = x if held.takes is None else Quantized(torch.empty(3, 4096, dtype=held.takes), torch.empty(3, 1))
            _ = held.gated(y, None, "silu") if gated else held.run(y, None)
    ops.linear(x, torch.empty(256, 4096, dtype=torch.bfloat16), None)


@pytest.mark.slow
def test_its_products_fit_and_spill_nothing() -> None:
    from .compiling import compiled

    kernels = compiled(launches)
    assert {kernel.capability for kernel in kernels} == {80, 90}
    for kernel in kernels:
        assert kernel.fits and kernel.spilled == 0, kernel
