"""GGUF's blocks as packed weights: values against the gguf package, products against float64."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

gguf = pytest.importorskip("gguf")
_native = pytest.importorskip("octavo._native")

Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, IQ4_NL = range(6, 15)
NAMES = dict(enumerate("q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k iq4_nl".split(), 6))
TYPES = {kind: gguf.GGMLQuantizationType[name.upper()] for kind, name in NAMES.items()}
# Where float16 fields stand in a block.
HALVES = {
    Q8_0: (0,),
    Q4_0: (0,),
    Q4_1: (0, 2),
    Q5_0: (0,),
    Q5_1: (0, 2),
    Q4_K: (0, 2),
    Q5_K: (0, 2),
    Q6_K: (208,),
    IQ4_NL: (0,),
}
ROWS = (0, 1, 2, 3, 5, 12, 13, 25, 119, 121, 240, 241)


@pytest.fixture(scope="module")
def teams() -> dict[int, object]:
    return {size: _native.ThreadTeam(size) for size in (1, 2, 3)}


@pytest.fixture(params=_native.kernel_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.kernel_level()
    _native.use_kernel_level(request.param)
    yield request.param
    _native.use_kernel_level(before)


every_kind = pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)


def inputs_of(kind: int, blocks: int) -> int:
    return gguf.GGML_QUANT_SIZES[TYPES[kind]][0] * blocks


def random_blocks(kind: int, outputs: int, inputs: int, seed: int = 0) -> Tensor:
    """Rows of blocks with any codes and sub-scales, and scales of either sign."""
    elements, size = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (outputs, inputs // elements, size), dtype=np.uint8)
    for at in HALVES[kind]:
        scales = random.uniform(0.5, 2.0, rows.shape[:2]) * random.choice((-1, 1), rows.shape[:2])
        rows[:, :, at : at + 2] = scales.astype(np.float16)[..., None].view(np.uint8)
    return torch.from_numpy(rows.reshape(outputs, -1))


def values_of(kind: int, blocks: Tensor) -> Tensor:
    return torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), TYPES[kind]))


class Packed:
    """A weight in panels, with the memory it stands in."""

    def __init__(self, kind: int, parts: list[Tensor], inputs: int, team: object, interleaved: bool = False) -> None:
        self.weight = weight = _native.PackedWeight()
        weight.kind, weight.interleaved = kind, int(interleaved)
        weight.out_features, weight.in_features = sum(len(part) for part in parts), inputs
        weight.panel_bytes = _native.block_panel_bytes(weight)
        size = weight.num_panels * weight.panel_bytes
        memory = torch.full((size + 128,), 0xA5, dtype=torch.uint8)
        offset = -memory.data_ptr() % 64
        self.memory, self.behind = memory[offset : offset + size], memory[offset + size :]
        weight.panels = self.memory.data_ptr()
        _native.pack_blocks(team, weight, [(part.data_ptr(), part.stride(0), len(part)) for part in parts])


def multiply(packed: Packed, x: Tensor, team: object, **fields: int) -> Tensor:
    weight = packed.weight
    columns = weight.out_features // 2 if weight.interleaved else weight.out_features
    out = torch.full((len(x), columns), torch.nan)
    args = _native.Linear()
    args.weight, args.x, args.x_stride, args.out, args.out_stride = (
        weight,
        x.data_ptr(),
        x.stride(0),
        out.data_ptr(),
        columns,
    )
    for name, value in fields.items():
        setattr(args, name, value)
    tape = _native.Tape(team)
    tape.linear(args, max(1, len(x)))
    step = _native.Step()
    step.num_tokens = len(x)
    tape.run(step)
    return out


def embed(packed: Packed, rows: int, team: object) -> Tensor:
    out = torch.full((rows, packed.weight.in_features), torch.nan)
    tokens = torch.arange(rows, dtype=torch.int32)
    args = _native.EmbedPacked()
    args.weight, args.out, args.out_stride = packed.weight, out.data_ptr(), out.shape[1]
    tape = _native.Tape(team)
    tape.embed_packed(args)
    step = _native.Step()
    step.num_tokens, step.tokens = rows, tokens.data_ptr()
    tape.run(step)
    return out


def quantized(kind: int, x: Tensor) -> Tensor:
    """The activations that are multiplied: int8 with a scale per block."""
    blocks = x.view(len(x), -1, inputs_of(kind, 1))
    largest = blocks.abs().amax(-1, keepdim=True)
    codes = torch.where(largest > 0, blocks * (127 / largest), torch.zeros(())).round()
    return (codes.double() * (largest / 127).double()).view_as(x)


def random_rows(rows: int, inputs: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed))


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@every_kind
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 100])
def test_embedding_rows_are_bitwise_the_values_that_the_blocks_denote(
    level: str, teams: dict[int, object], kind: int, outputs: int
) -> None:
    inputs = inputs_of(kind, 3)
    blocks = random_blocks(kind, outputs, inputs)
    packed = Packed(kind, [blocks], inputs, teams[2])
    assert same_bits(embed(packed, outputs, teams[2]) + 0.0, values_of(kind, blocks) + 0.0)
    assert (packed.behind == 0xA5).all()


@every_kind
def test_panels_have_the_size_of_the_file(kind: int) -> None:
    weight = _native.PackedWeight()
    weight.kind, weight.out_features, weight.in_features = kind, 32, inputs_of(kind, 5)
    assert _native.block_panel_bytes(weight) == 32 * 5 * gguf.GGML_QUANT_SIZES[TYPES[kind]][1]


@every_kind
@pytest.mark.parametrize("outputs", [1, 33, 100])
def test_every_number_of_rows_matches_float64_and_is_bitwise_the_row_alone(
    level: str, teams: dict[int, object], kind: int, outputs: int
) -> None:
    inputs = inputs_of(kind, 2 if kind in (Q4_K, Q5_K, Q6_K) else 5)
    blocks = random_blocks(kind, outputs, inputs)
    packed = Packed(kind, [blocks], inputs, teams[2])
    values, x = values_of(kind, blocks).double(), random_rows(max(ROWS), inputs)
    full = multiply(packed, x, teams[2])
    # Relative to the magnitudes that are added: minima are added apart from the codes.
    operand = quantized(kind, x)
    size = operand.abs() @ values.abs().T + 1e-30
    assert ((full - operand @ values.T).abs() <= 1e-5 * size).all()
    assert torch.cosine_similarity(full.double().flatten(), (x.double() @ values.T).flatten(), dim=0) >= 0.999
    for rows in ROWS:
        assert same_bits(multiply(packed, x[:rows], teams[rows % 3 + 1]), full[:rows]), rows
    for row in (4, 11, 12, 120, 239, 240):
        assert same_bits(multiply(packed, x[row : row + 1], teams[1]), full[row : row + 1]), row


@every_kind
def test_gate_and_up_from_two_parts_meet_in_a_panel(level: str, teams: dict[int, object], kind: int) -> None:
    inputs, half = inputs_of(kind, 2), 37
    gate, up = random_blocks(kind, half, inputs), random_blocks(kind, half, inputs, seed=9)
    x = random_rows(14, inputs) / inputs
    packed = Packed(kind, [gate, up], inputs, teams[3], interleaved=True)
    plain = [multiply(Packed(kind, [part], inputs, teams[1]), x, teams[1]) for part in (gate, up)]
    expected = torch.relu(plain[0]) * plain[1]
    assert same_bits(multiply(packed, x, teams[2], activation=4), expected)


@every_kind
def test_parts_may_be_columns_of_wider_rows(teams: dict[int, object], kind: int) -> None:
    elements, size = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    wide = random_blocks(kind, 40, 4 * elements)
    part = wide[:, size : 3 * size]
    packed = Packed(kind, [part[:7], part[7:]], 2 * elements, teams[2])
    assert same_bits(embed(packed, 40, teams[1]) + 0.0, values_of(kind, part.contiguous()) + 0.0)


@every_kind
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
def test_extreme_codes_and_activations_do_not_overflow(
    level: str, teams: dict[int, object], kind: int, byte: int
) -> None:
    inputs = inputs_of(kind, 4)
    blocks = random_blocks(kind, 33, inputs)
    halves = blocks.view(33, 4, -1).clone()
    blocks = torch.full_like(halves, byte)
    for at in HALVES[kind]:
        blocks[:, :, at : at + 2] = halves[:, :, at : at + 2]
    blocks = blocks.view(33, -1)
    packed = Packed(kind, [blocks], inputs, teams[2])
    values = values_of(kind, blocks).double()
    for x in (torch.full((5, inputs), 3.0), torch.full((5, inputs), -1e30), torch.full((5, inputs), 1e-30)):
        error = (multiply(packed, x, teams[2]) - x.double() @ values.T).abs()
        assert (error <= 1e-5 * (x.double().abs() @ values.abs().T) + 1e-37).all()


@every_kind
def test_zero_rows_give_zeros_and_bad_values_stay_in_their_row(level: str, teams: dict[int, object], kind: int) -> None:
    inputs = inputs_of(kind, 2)
    packed = Packed(kind, [random_blocks(kind, 33, inputs)], inputs, teams[2])
    x = random_rows(7, inputs)
    clean = multiply(packed, x, teams[2])
    x[1], x[3, 5], x[5, inputs - 1] = 0.0, torch.nan, -torch.inf
    out = multiply(packed, x, teams[2])
    assert (out[1] == 0).all() and out[3].isnan().all() and out[5].isnan().all()
    assert same_bits(out[::2], clean[::2])


def test_packing_refuses_what_does_not_fit(teams: dict[int, object]) -> None:
    weight = _native.PackedWeight()
    weight.kind, weight.out_features, weight.in_features = Q4_K, 32, 128
    with pytest.raises(ValueError, match="in_features=128 is not a multiple of the block's 256"):
        _native.block_panel_bytes(weight)
    weight.kind = 0
    with pytest.raises(ValueError, match="kind 0 is no block format"):
        _native.block_panel_bytes(weight)
    blocks = random_blocks(Q8_0, 4, 32)
    packed = Packed(Q8_0, [blocks], 32, teams[1])
    packed.weight.out_features = 5
    with pytest.raises(ValueError, match="out_features=5"):
        _native.pack_blocks(teams[1], packed.weight, [(blocks.data_ptr(), blocks.stride(0), 4)])
