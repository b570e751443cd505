"""Attention over pages: every level against float64 dense attention, and against itself in other cuts, bit by bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

_native = pytest.importorskip("octavo._native")

F32, BF16, INT8 = 0, 1, 2
NAMES = {F32: "f32", BF16: "bf16", INT8: "int8"}
EPS = 1e-6


@pytest.fixture(scope="module")
def teams() -> dict[int, object]:
    return {size: _native.ThreadTeam(size) for size in (1, 2, 3)}


@pytest.fixture(params=_native.kernel_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.kernel_level()
    _native.use_kernel_level(request.param)
    yield request.param
    _native.use_kernel_level(before)


@dataclass(frozen=True)
class Layer:
    """What a layer's attention is."""

    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    kind: int = F32
    page_size: int = 16
    window: int = 0
    softcap: float = 0.0
    clip: float = 0.0
    rotated: int = 0
    norm: bool = False
    sinks: bool = False


@dataclass
class Stream:
    """One sequence's projections, whole, its pages, and how far it has been computed."""

    q: Tensor
    k: Tensor
    v: Tensor
    angles: Tensor
    pages: list[int]
    done: int = 0
    outs: list[Tensor] = field(default_factory=list)

    @property
    def out(self) -> Tensor:
        return torch.cat(self.outs)


def aligned(size: int, byte: int) -> Tensor:
    memory = torch.full((size + 64,), byte, dtype=torch.uint8)
    offset = -memory.data_ptr() % 64
    return memory[offset : offset + size]


class Engine:
    """A layer with its cache, full of NaN, and one tape."""

    def __init__(self, layer: Layer, team: object, seed: int = 0, num_pages: int = 200, share: bool = True) -> None:
        self.layer = layer
        random = torch.Generator().manual_seed(seed)
        self.weight = torch.rand(layer.heads + layer.kv_heads, layer.dim, generator=random) + 0.5
        self.sinks = torch.randn(layer.heads, generator=random) * 2
        self.free = torch.randperm(num_pages, generator=random).tolist()
        self.plan = _native.PlanAttention()
        self.args = args = _native.Attention()
        for record in (self.plan, args):
            record.page_size, record.window, record.group = layer.page_size, layer.window, 1
            record.num_heads, record.num_kv_heads, record.head_dim = layer.heads, layer.kv_heads, layer.dim
        self.plan.max_rows, self.plan.max_tokens, self.plan.max_pages = 16, 2048, 256
        self.plan.share_prefixes = int(share)
        self.plan.plan_bytes = self.plan.bytes
        self.plan_memory = aligned(self.plan.bytes, 0xFF)
        self.plan.plan = args.plan = self.plan_memory.data_ptr()
        args.kind, args.num_pages = layer.kind, num_pages
        self.cache = aligned(args.cache_bytes, 0xFF)
        args.cache = self.cache.data_ptr()
        args.scale, args.softcap, args.clip, args.rotated = layer.dim**-0.5, layer.softcap, layer.clip, layer.rotated
        if layer.norm:
            args.norm_weight, args.norm_eps = self.weight.data_ptr(), EPS
        if layer.sinks:
            args.sinks = self.sinks.data_ptr()
        self.team = team

    def sequence(self, length: int, seed: int, prefix: Stream | None = None, shared: int = 0) -> Stream:
        """Random unit-variance tokens; the first `shared` are those of `prefix`, pages included, and computed."""
        layer, random = self.layer, torch.Generator().manual_seed(1000 + seed)
        q, k, v = (
            torch.randn(length, n, layer.dim, generator=random) for n in (layer.heads, layer.kv_heads, layer.kv_heads)
        )
        theta = torch.rand(length, layer.rotated // 2, generator=random) * 6.3
        angles = torch.cat((theta.cos(), theta.sin()), -1)
        pages: list[int] = []
        if prefix is not None:
            assert shared % layer.page_size == 0
            pages = prefix.pages[: shared // layer.page_size]
            for mine, theirs in ((k, prefix.k), (v, prefix.v), (angles, prefix.angles)):
                mine[:shared] = theirs[:shared]
        while len(pages) * layer.page_size < length:
            pages.append(self.free.pop())
        return Stream(q, k, v, angles, pages, shared)

    def step(self, sequences: Sequence[Stream], counts: Sequence[int]) -> None:
        """Computes the next counts[s] tokens of each sequence."""
        layer, args = self.layer, self.args
        new = [slice(s.done, s.done + n) for s, n in zip(sequences, counts, strict=True)]
        # Strides wider than the operands, as in a fused projection.
        q, k, v = (
            torch.cat([getattr(s, name)[at].flatten(1) for s, at in zip(sequences, new, strict=True)]) for name in "qkv"
        )
        qkv = torch.cat((q, k, v), 1).contiguous()
        width = qkv.shape[1]
        angles = torch.cat([s.angles[at] for s, at in zip(sequences, new, strict=True)]).contiguous()
        out = torch.full((len(qkv), layer.heads * layer.dim + 3), torch.nan)
        args.q = qkv.data_ptr()
        args.k = qkv.data_ptr() + 4 * q.shape[1]
        args.v = qkv.data_ptr() + 4 * (q.shape[1] + k.shape[1])
        args.q_stride = args.k_stride = args.v_stride = width
        args.angles = angles.data_ptr() if layer.rotated else 0
        args.out, args.out_stride = out.data_ptr(), out.shape[1]
        starts = torch.tensor([0, *torch.tensor(counts, dtype=torch.int32).cumsum(0).tolist()], dtype=torch.int32)
        lengths = torch.tensor([at.stop for at in new], dtype=torch.int32)
        table = torch.full((len(sequences), 256), -1, dtype=torch.int32)
        slots: list[int] = []
        for row, (sequence, at) in enumerate(zip(sequences, new, strict=True)):
            oldest = 0 if layer.window == 0 else max(0, at.start - layer.window + 1)
            reached = range(oldest // layer.page_size, -(-at.stop // layer.page_size))
            for page in reached:
                table[row, page] = sequence.pages[page]
            slots += [
                sequence.pages[p // layer.page_size] * layer.page_size + p % layer.page_size
                for p in range(at.start, at.stop)
            ]
        slot_tensor = torch.tensor(slots, dtype=torch.int64)
        step = _native.Step()
        step.num_tokens, step.num_rows = len(slots), len(sequences)
        step.starts, step.lengths = starts.data_ptr(), lengths.data_ptr()
        step.set_group(1, table.data_ptr(), table.stride(0), slot_tensor.data_ptr())
        tape = _native.Tape(self.team)
        tape.plan_attention(self.plan)
        tape.attention(args, 2048)
        tape.attention(args, 2048)  # a plan serves several layers: what one leaves must suit the next
        tape.run(step)
        assert out[:, layer.heads * layer.dim :].isnan().all()
        for sequence, at, first in zip(sequences, new, starts.tolist(), strict=False):
            sequence.done = at.stop
            piece = out[first : first + at.stop - at.start, : layer.heads * layer.dim]
            sequence.outs.append(piece.unflatten(1, (layer.heads, layer.dim)))

    def dense(self, sequence: Stream, first: int = 0) -> Tensor:
        """float64 attention of the computed tokens from `first` on."""
        layer, end = self.layer, sequence.done
        q, k, v = (x[:end].double() for x in (sequence.q, sequence.k, sequence.v))
        if layer.norm:
            weight = self.weight.double()
            q = q * (q.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight[: layer.heads]
            k = k * (k.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight[layer.heads :]
        if layer.clip:
            q, k, v = (x.clamp(-layer.clip, layer.clip) for x in (q, k, v))
        if layer.rotated:
            half = layer.rotated // 2
            cos, sin = sequence.angles[:end, None, :half].double(), sequence.angles[:end, None, half:].double()
            q, k = (
                torch.cat(
                    (
                        x[..., :half] * cos - x[..., half : 2 * half] * sin,
                        x[..., half : 2 * half] * cos + x[..., :half] * sin,
                        x[..., 2 * half :],
                    ),
                    -1,
                )
                for x in (q, k)
            )
        grouped = q[first:].view(end - first, layer.kv_heads, -1, layer.dim)
        scores = torch.einsum("nkgd,lkd->nkgl", grouped, k) * layer.dim**-0.5
        if layer.softcap:
            scores = torch.tanh(scores / layer.softcap) * layer.softcap
        query, key = torch.arange(first, end)[:, None], torch.arange(end)
        mask = (key <= query) & ((layer.window == 0) | (key > query - layer.window))
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        if layer.sinks:
            sink = self.sinks.double().view(1, layer.kv_heads, -1, 1).expand(end - first, -1, -1, 1)
            scores = torch.cat((scores, sink), -1)
        weights = scores.softmax(-1)[..., :end]
        return torch.einsum("nkgl,lkd->nkgd", weights, v).reshape(end - first, layer.heads, layer.dim)


def assert_close(out: Tensor, expected: Tensor, kind: int) -> None:
    error = (out.double() - expected).abs()
    assert not out.isnan().any()
    if kind == F32:
        assert error.max() < 1e-5, error.max()
    elif kind == BF16:
        assert error.max() < 2e-2, error.max()
        assert error.mean() < 2e-3, error.mean()
    else:
        cosine = torch.nn.functional.cosine_similarity(out.double(), expected, dim=-1)
        assert cosine.min() >= 0.998, cosine.min()
        assert cosine.mean() >= 0.999, cosine.mean()


def run_whole(layer: Layer, team: object, lengths: Sequence[int]) -> tuple[Engine, list[Stream]]:
    engine = Engine(layer, team)
    sequences = [engine.sequence(length, seed) for seed, length in enumerate(lengths)]
    engine.step(sequences, lengths)
    return engine, sequences


SHAPES = ((4, 4, 8), (4, 2, 16), (6, 3, 64), (4, 1, 80), (8, 1, 96), (14, 2, 64), (4, 2, 128), (3, 1, 256), (20, 1, 18))


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prompts_agree_with_dense_attention(
    level: str, teams: dict[int, object], kind: int, shape: tuple[int, ...]
) -> None:
    heads, kv_heads, dim = shape
    engine, sequences = run_whole(Layer(heads, kv_heads, dim, kind), teams[2], (1, 15, 16, 17, 70))
    for sequence in sequences:
        assert_close(sequence.out, engine.dense(sequence), kind)


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("length", [255, 256, 257, 511, 512, 513, 1025])
def test_long_contexts_agree_with_dense_attention(level: str, teams: dict[int, object], kind: int, length: int) -> None:
    engine = Engine(Layer(2, 1, 32, kind), teams[2])
    sequence = engine.sequence(length, 0)
    engine.step([sequence], [length - 1])
    engine.step([sequence], [1])
    first = length - 40
    assert_close(sequence.out[first:], engine.dense(sequence, first), kind)


FEATURES = {
    "window smaller than a tile": {"window": 7},
    "window of some tiles": {"window": 50},
    "window beyond a segment": {"window": 300},
    "window larger than the context": {"window": 10_000},
    "window of the token alone": {"window": 1},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": True},
    "clip": {"clip": 0.8},
    "head norm": {"norm": True},
    "rotation": {"rotated": 64},
    "partial rotation": {"rotated": 20},
    "everything": {"window": 90, "softcap": 3.0, "sinks": True, "clip": 1.5, "norm": True, "rotated": 48},
}


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("feature", FEATURES)
def test_every_option_agrees_with_dense_attention(
    level: str, teams: dict[int, object], kind: int, feature: str
) -> None:
    options = FEATURES[feature]
    engine = Engine(Layer(6, 2, 64, kind, page_size=32, **options), teams[2])  # type: ignore[arg-type]
    sequences = [engine.sequence(length, seed) for seed, length in enumerate((290, 40))]
    engine.step(sequences, (249, 33))
    engine.step(sequences, (40, 6))
    engine.step(sequences, (1, 1))
    for sequence in sequences:
        assert_close(sequence.out, engine.dense(sequence), kind)


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("page_size", [1, 3, 4, 16, 17, 32, 48, 64])
def test_pages_of_every_size_give_the_same_bits(
    level: str, teams: dict[int, object], kind: int, page_size: int
) -> None:
    def outs(size: int, seed: int) -> list[Tensor]:
        engine = Engine(Layer(4, 2, 24, kind, page_size=size, window=70), teams[2], seed, num_pages=300)
        sequences = [engine.sequence(length, seed) for seed, length in enumerate((90, 33, 2))]
        engine.step(sequences, (60, 33, 1))
        engine.step([sequences[0], sequences[2]], (30, 1))
        for sequence in sequences:
            assert_close(sequence.out, engine.dense(sequence), kind)
        return [sequence.out for sequence in sequences]

    for mine, other in zip(outs(page_size, 1), outs(16, 2), strict=True):
        assert torch.equal(mine, other)


@dataclass(frozen=True)
class Cut:
    """How the end of a prompt is computed: tokens per step, and what else is in the step."""

    chunk: int
    team: int = 1
    company: bool = False
    pages: int = 0


CUTS = (Cut(7), Cut(1), Cut(64, team=2), Cut(40, team=3, company=True, pages=5), Cut(1, team=2, company=True))
OPTIONS = ({}, {"window": 60}, {"softcap": 5.0, "sinks": True, "norm": True, "rotated": 32})


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_way_a_prompt_is_cut_changes_no_bit(
    level: str, teams: dict[int, object], kind: int, options: dict[str, object]
) -> None:
    layer = Layer(6, 2, 32, kind, **options)  # type: ignore[arg-type]
    begin, length = 230, 275

    def compute(cut: Cut) -> Tensor:
        engine = Engine(layer, teams[cut.team])
        engine.free = torch.randperm(200, generator=torch.Generator().manual_seed(cut.pages)).tolist()
        sequence = engine.sequence(length, 0)
        decoding, prompt = engine.sequence(400, 1), engine.sequence(400, 2)
        if cut.chunk < length:
            engine.step([sequence], [begin])
        if cut.company:
            engine.step([decoding], [300])
        while sequence.done < length:
            count = min(cut.chunk, length - sequence.done)
            if cut.company:
                engine.step([decoding, sequence, prompt], [1, count, min(150, 400 - prompt.done)])
            else:
                engine.step([sequence], [count])
        return sequence.out[begin:]

    whole = compute(Cut(length))
    for cut in CUTS:
        assert torch.equal(compute(cut), whole), cut


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
def test_splitting_a_long_context_changes_no_bit(level: str, teams: dict[int, object], kind: int) -> None:
    def compute(team: int, chunk: int) -> Tensor:
        engine = Engine(Layer(2, 1, 16, kind), teams[team])
        sequence = engine.sequence(1400, 0)
        engine.step([sequence], [1380])
        while sequence.done < 1400:
            engine.step([sequence], [chunk])
        return sequence.out[1380:]

    alone = compute(1, 1)
    for team, chunk in ((2, 1), (3, 1), (3, 4), (1, 20), (2, 20)):
        assert torch.equal(compute(team, chunk), alone), (team, chunk)


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("team", [1, 3])
def test_reading_a_shared_prefix_together_changes_no_bit(
    level: str, teams: dict[int, object], kind: int, team: int
) -> None:
    def compute(share: bool) -> list[Tensor]:
        engine = Engine(Layer(4, 2, 32, kind, sinks=True), teams[team], share=share, num_pages=400)
        first = engine.sequence(900, 0)
        engine.step([first], [880])
        # Two depths, one that is no multiple of a segment, and a stranger.
        others = [
            engine.sequence(900, 1, first, 768),
            engine.sequence(800, 2, first, 784),
            engine.sequence(700, 3, first, 272),
        ]
        others += [engine.sequence(600, 4), engine.sequence(500, 5, first, 256), engine.sequence(780, 6, first, 768)]
        for sequence in others:
            engine.step([sequence], [len(sequence.q) - sequence.done - 5])
        sequences = [others[3], first, *others[:3], *others[4:]]
        for counts in ((1,) * 7, (1, 2, 1, 1, 2, 1, 1), (1,) * 7):
            engine.step(sequences, counts)
        for sequence in sequences:
            start = sequence.done - 4
            assert_close(torch.cat(sequence.outs[-3:])[-3:], engine.dense(sequence, sequence.done - 3), kind), start
        return [torch.cat(sequence.outs[-3:]) for sequence in sequences]

    for shared, alone in zip(compute(True), compute(False), strict=True):
        assert torch.equal(shared, alone)


def test_a_step_without_tokens_does_nothing(level: str, teams: dict[int, object]) -> None:
    engine = Engine(Layer(), teams[2])
    before = engine.cache.clone()
    sequence = engine.sequence(4, 0)
    engine.step([sequence], [0])
    assert torch.equal(engine.cache, before)
    engine.step([sequence], [4])
    engine.step([sequence, engine.sequence(2, 1)], [0, 2])
    assert_close(torch.cat(sequence.outs), engine.dense(sequence), F32)


def test_infinite_and_missing_numbers_show_only_where_they_are_seen(level: str, teams: dict[int, object]) -> None:
    for kind in (F32, BF16):
        engine = Engine(Layer(kind=kind), teams[1])
        sequence, other = engine.sequence(20, 0), engine.sequence(20, 1)
        sequence.k[19, 0, 3] = math.nan
        engine.step([sequence, other], [19, 19])
        engine.step([sequence, other], [1, 1])
        assert not sequence.outs[0].isnan().any()
        assert sequence.outs[1][:, :2].isnan().all()
        assert not sequence.outs[1][:, 2:].isnan().any()
        assert not other.out.isnan().any()
