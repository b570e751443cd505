"""Float weights: every level against float64 on the operands it really multiplies, and against itself bit by bit."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from octavo.platforms import native

_native = pytest.importorskip("octavo._native")

KINDS = {0: torch.float32, 1: torch.bfloat16, 2: torch.float16}
NAMES = {0: "f32", 1: "bf16", 2: "f16"}
ROWS = (1, 2, 11, 12, 13, 24, 25, 240, 241, 300)
SHAPES = ((1, 1), (31, 2), (32, 3), (33, 70), (100, 257), (33, 1000), (1, 1000), (100, 1))
ACTIVATIONS = {
    1: torch.nn.functional.silu,
    2: torch.nn.functional.gelu,
    3: lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    4: torch.relu,
    5: lambda x: torch.relu(x) ** 2,
}


@pytest.fixture(scope="module")
def teams() -> dict[int, object]:
    return {size: _native.ThreadTeam(size) for size in (1, 2, 3)}


@pytest.fixture(params=_native.kernel_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.kernel_level()
    _native.use_kernel_level(request.param)
    yield request.param
    _native.use_kernel_level(before)


class Packed:
    """A weight in panels, with the memory it stands in."""

    def __init__(self, parts: list[Tensor], kind: int, team: object, interleaved: bool = False) -> None:
        self.weight = weight = _native.PackedWeight()
        weight.kind, weight.interleaved = kind, int(interleaved)
        weight.out_features, weight.in_features = sum(len(part) for part in parts), parts[0].shape[1]
        weight.panel_bytes = _native.panel_bytes(weight)
        memory = torch.full((weight.num_panels * weight.panel_bytes + 64,), 0xA5, dtype=torch.uint8)
        offset = -memory.data_ptr() % 64
        self.memory = memory[offset : offset + weight.num_panels * weight.panel_bytes]
        weight.panels = self.memory.data_ptr()
        kinds = {dtype: number for number, dtype in KINDS.items()}
        _native.pack_float(team, weight, [(part.data_ptr(), kinds[part.dtype], part.stride(0), len(part)) for part in parts])


def multiply(packed: Packed, x: Tensor, team: object, out: Tensor | None = None, **operands: object) -> Tensor:
    weight = packed.weight
    columns = weight.out_features // 2 if weight.interleaved else weight.out_features
    if out is None:
        out = torch.full((len(x), columns + 3), torch.nan)[:, :columns]
    args = _native.Linear()
    args.weight, args.x, args.x_stride, args.out, args.out_stride = weight, x.data_ptr(), x.stride(0), out.data_ptr(), out.stride(0)
    for name, value in operands.items():
        setattr(args, name, value.data_ptr() if isinstance(value, Tensor) else value)
        if name == "residual" and isinstance(value, Tensor):
            args.residual_stride = value.stride(0)
    tape = _native.Tape(team)
    tape.linear(args, len(x))
    step = _native.Step()
    step.num_tokens = len(x)
    tape.run(step)
    return out


def operand(x: Tensor, kind: int) -> Tensor:
    return x.bfloat16().double() if kind == 1 else x.double()


def assert_close(out: Tensor, expected: Tensor, size: Tensor, inputs: int) -> None:
    """Float32 sums: the error of a chain of `inputs` additions, relative to the sum of magnitudes."""
    error = (out.double() - expected).abs()
    assert (error <= 1e-6 * inputs**0.5 * size + 1e-30).all(), (error / size).max()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS, ids=NAMES.get)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_every_number_of_rows_matches_float64_and_is_bitwise_the_row_alone(level: str, teams: dict[int, object], kind: int, outputs: int, inputs: int) -> None:
    weight = random(outputs, inputs).to(KINDS[kind])
    x = random(max(ROWS), inputs, seed=1)
    packed = Packed([weight], kind, teams[2])
    full = multiply(packed, x, teams[2])
    exact = operand(x, kind) @ weight.double().T
    assert_close(full, exact, operand(x, kind).abs() @ weight.double().abs().T, inputs)
    for rows in ROWS:
        assert torch.equal(multiply(packed, x[:rows], teams[2]), full[:rows]), rows
    for row in (0, 5, 23, 24, 239, 240, 299):
        assert torch.equal(multiply(packed, x[row : row + 1], teams[1]), full[row : row + 1]), row
