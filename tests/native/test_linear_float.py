"""Float weights: every level against float64 on the operands it really multiplies, and against itself bit by bit."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

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


Teams = dict[int, object]


@pytest.fixture(scope="module")
def teams() -> Teams:
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
        _native.pack_float(
            team, weight, [(part.data_ptr(), kinds[part.dtype], part.stride(0), len(part)) for part in parts]
        )


def multiply(packed: Packed, x: Tensor, team: object, out: Tensor | None = None, **operands: object) -> Tensor:
    weight = packed.weight
    columns = weight.out_features // 2 if weight.interleaved else weight.out_features
    if out is None:
        out = torch.full((len(x), columns + 3), torch.nan)[:, :columns]
    args = _native.Linear()
    args.weight, args.x, args.x_stride, args.out, args.out_stride = (
        weight,
        x.data_ptr(),
        x.stride(0),
        out.data_ptr(),
        out.stride(0),
    )
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
def test_every_number_of_rows_matches_float64_and_is_bitwise_the_row_alone(
    level: str, teams: Teams, kind: int, outputs: int, inputs: int
) -> None:
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


@pytest.mark.parametrize("kind", KINDS, ids=NAMES.get)
def test_a_team_of_any_size_gives_the_same_bits(level: str, teams: Teams, kind: int) -> None:
    packed = Packed([random(833, 70).to(KINDS[kind])], kind, teams[1])
    for rows in (1, 4, 5, 24, 25, 61):
        x = random(rows, 70, seed=2)
        alone = multiply(packed, x, teams[1])
        assert torch.equal(multiply(packed, x, teams[2]), alone)
        assert torch.equal(multiply(packed, x, teams[3]), alone)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES.get)
@pytest.mark.parametrize("outputs", [32, 33, 47, 49])
def test_norm_bias_and_residual_are_part_of_the_product(level: str, teams: Teams, kind: int, outputs: int) -> None:
    inputs = 70
    packed = Packed([random(outputs, inputs).to(KINDS[kind])], kind, teams[2])
    norm, bias = random(inputs, seed=3).abs() + 0.5, random(outputs, seed=4)
    for rows in (1, 13, 50):
        x, residual = random(rows, inputs, seed=5), random(rows, outputs, seed=6)
        plain = multiply(packed, x, teams[2])
        assert torch.equal(multiply(packed, x, teams[2], bias=bias), plain + bias)
        assert torch.equal(multiply(packed, x, teams[2], bias=bias, residual=residual), plain + bias + residual)
        inplace = residual.clone()
        multiply(packed, x, teams[2], out=inplace, residual=inplace)
        assert torch.equal(inplace, plain + residual)
        normed = multiply(packed, x, teams[2], norm_weight=norm, norm_eps=1e-5)
        expected = multiply(packed, torch.nn.functional.rms_norm(x, (inputs,), norm, 1e-5), teams[2])
        # The norm may round differently, which moves a bfloat16 activation by one unit of its last place.
        assert (normed - expected).abs().max() <= (2**-8 if kind == 1 else 1e-5) * inputs**0.5


@pytest.mark.parametrize("kind", KINDS, ids=NAMES.get)
@pytest.mark.parametrize("half", [16, 17, 31, 5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gate_and_up_meet_in_one_panel(level: str, teams: Teams, kind: int, half: int, activation: int) -> None:
    gate, up, bias = (
        random(half, 70).to(KINDS[kind]) / 4,
        random(half, 70, seed=1).to(KINDS[kind]) / 4,
        random(2 * half, seed=2),
    )
    packed = Packed([gate, up], kind, teams[2], interleaved=True)
    plain = [multiply(Packed([part], kind, teams[2]), random(13, 70, seed=3), teams[1]) for part in (gate, up)]
    out = multiply(packed, random(13, 70, seed=3), teams[2], activation=activation, bias=bias)
    expected = ACTIVATIONS[activation]((plain[0] + bias[:half]).double()) * (plain[1] + bias[half:]).double()
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("target", KINDS, ids=NAMES.get)
@pytest.mark.parametrize("source", KINDS, ids=NAMES.get)
@pytest.mark.parametrize("inputs", [1, 2, 127, 128, 129, 257])
def test_a_packed_row_unpacks_to_what_was_packed(
    level: str, teams: Teams, source: int, target: int, inputs: int
) -> None:
    outputs = 71
    wide = random(outputs, inputs + 3) * torch.logspace(-8, 5, outputs)[:, None]
    part = wide.to(KINDS[source])[:, :inputs]
    packed = Packed([part[:30], part[30:37], part[37:]], target, teams[2])
    tokens = torch.arange(outputs - 1, -1, -1, dtype=torch.int32)
    out = torch.full((outputs, inputs), torch.nan)
    args = _native.EmbedPacked()
    args.weight, args.out, args.out_stride, args.scale = packed.weight, out.data_ptr(), inputs, 1.0
    tape = _native.Tape(teams[2])
    tape.embed_packed(args)
    step = _native.Step()
    step.num_tokens, step.tokens = outputs, tokens.data_ptr()
    tape.run(step)
    assert torch.equal(out, part.to(KINDS[target]).float().flip(0))


def test_float16_has_every_value(level: str, teams: Teams) -> None:
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).reshape(1024, 64)
    packed = Packed([values], 2, teams[2])
    wide = Packed([values], 0, teams[2])
    for column in (0, 63):
        x = torch.zeros(1, 64)
        x[0, column] = 1.0
        finite = values.float().isfinite().all(1)
        assert torch.equal(multiply(packed, x, teams[1])[0, finite], values[finite, column].float())
        assert torch.equal(multiply(wide, x, teams[1])[0, finite], values[finite, column].float())


@pytest.mark.parametrize("kind", KINDS, ids=NAMES.get)
def test_infinite_and_undefined_weights_stay_in_their_feature(level: str, teams: Teams, kind: int) -> None:
    weight = random(40, 71)
    weight[3, 5], weight[33, 0], weight[39, 70] = torch.nan, torch.inf, -torch.inf
    packed = Packed([weight.to(KINDS[kind])], kind, teams[2])
    for rows in (1, 30):
        out = multiply(packed, random(rows, 71).abs() + 0.1, teams[2])
        assert out[:, 3].isnan().all()
        assert out[:, 33].isposinf().all()
        assert out[:, 39].isneginf().all()
        rest = [column for column in range(40) if column not in (3, 33, 39)]
        assert out[:, rest].isfinite().all()


def test_packing_refuses_what_does_not_fit(teams: Teams) -> None:
    weight, source = _native.PackedWeight(), random(4, 6)
    weight.kind, weight.out_features, weight.in_features, weight.panels = 0, 5, 6, source.data_ptr()
    weight.panel_bytes = _native.panel_bytes(weight)
    with pytest.raises(ValueError, match="parts have 4 rows; out_features=5"):
        _native.pack_float(teams[1], weight, [(source.data_ptr(), 0, 6, 4)])
    with pytest.raises(ValueError, match="stride below in_features"):
        _native.pack_float(teams[1], weight, [(source.data_ptr(), 0, 5, 5)])
    weight.panel_bytes -= 1
    with pytest.raises(ValueError, match="must be 768"):
        _native.pack_float(teams[1], weight, [(source.data_ptr(), 0, 6, 5)])
    weight.kind = 3
    with pytest.raises(ValueError, match="no float format"):
        _native.panel_bytes(weight)
