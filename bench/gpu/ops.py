"""The small operations of a layer alone: the share of a copy's bandwidth that each reaches, in a graph of calls.

With one token there is also the product that adds and normalizes on the way, beside the three launches it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from gpu.rows import Row, Scene
from torch import Tensor

from octavo import ops, spec
from octavo.ops import registry
from octavo.ops.qkv import QKNorm

ROTATED_BYTES = (
    200 * 2**20
)  # several times the last-level cache: in a model, inputs come from memory beyond some tokens
MOST_CALLS = 64
PAGE = 16


@dataclass(frozen=True)
class Shape:
    """A layer: hidden size, heads, KV heads, head size, inner size, and whether heads are normalized."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    dim: int
    inner: int
    has_norm: bool


SHAPES = (
    Shape("0.6B", 1024, 16, 8, 128, 3072, True),
    Shape("8B", 4096, 32, 8, 128, 14336, False),
)
TOKENS = (1, 16, 128, 1024, 4096)
REHEARSED = (Shape("tiny", 64, 2, 1, 32, 64, True),)


@dataclass(frozen=True)
class Call:
    """One operation: what runs it on the i-th of its inputs, how many there are, and the bytes it has to move."""

    name: str
    run: Callable[[int], object]
    count: int
    bytes: int


def measure(scene: Scene) -> Iterator[Row]:
    """Every operation of every shape, few tokens first."""
    dtype = torch.float32 if scene.is_rehearsal else torch.bfloat16
    registry.bind(("triton", "reference"), dtype)
    for tokens in (1,) if scene.is_rehearsal else TOKENS:
        for shape in REHEARSED if scene.is_rehearsal else SHAPES:
            for call in calls(shape, tokens, dtype, scene.device, scene.pick(MOST_CALLS, 1)):
                if scene.left_s() < 5:
                    return
                seconds = scene.time(call.run, rotate=call.count, is_recorded=True)
                share = 100 * call.bytes / seconds / scene.copy_bytes_s
                name = f"{call.name}, {shape.name}, {tokens} tokens"
                details = {"microseconds": round(seconds * 1e6, 2), "bytes": call.bytes}
                yield Row(name, share, "% of copy bandwidth", details=details)
    registry.bind(("reference",))


def calls(shape: Shape, tokens: int, dtype: torch.dtype, device: torch.device, most: int) -> Iterator[Call]:
    """What a layer calls besides its products and attention, each with inputs of its own, `most` of them at most."""
    value = dtype.itemsize
    row = tokens * shape.hidden * value
    weight = torch.ones(shape.hidden, device=device)

    def inputs(columns: int, moved: int) -> list[Tensor]:
        count = max(1, min(most, ROTATED_BYTES // moved))
        return [torch.randn(tokens, columns, device=device).to(dtype) for _ in range(count)]

    x, y = inputs(shape.hidden, 4 * row), inputs(shape.hidden, 4 * row)
    yield Call("rms_norm", lambda i: ops.rms_norm(x[i], weight, 1e-6), len(x), 2 * row)
    yield Call("add_rms_norm", lambda i: ops.add_rms_norm(x[i], y[i], weight, 1e-6), len(x), 4 * row)
    eight = 3 * row + row // value + 4 * tokens
    yield Call("add_rms_norm to int8", lambda i: to_int8(x[i], y[i], weight), len(x), eight)

    inner = tokens * shape.inner * value
    gate_up = inputs(2 * shape.inner, 3 * inner)
    yield Call("silu_mul", lambda i: ops.silu_mul(gate_up[i]), len(gate_up), 3 * inner)
    quantized = 2 * inner + inner // value + 4 * tokens
    yield Call(
        "silu_mul to int8", lambda i: ops.gate_quantized(gate_up[i], "silu", torch.int8), len(gate_up), quantized
    )

    total = shape.heads + 2 * shape.kv_heads
    normed = shape.heads + shape.kv_heads
    kept = 2 * shape.kv_heads
    moved = tokens * shape.dim * value * (total + normed + kept) + tokens * shape.dim * 4
    qkv = inputs(total * shape.dim, moved)
    norm = QKNorm(torch.ones(normed, shape.dim, device=device), 1e-6) if shape.has_norm else None
    angles = torch.rand(tokens, shape.dim, device=device)
    pages = -(-tokens // PAGE)
    cache = torch.zeros(2, pages, PAGE, shape.kv_heads, shape.dim, dtype=dtype, device=device)
    slots = torch.randperm(pages * PAGE, device=device)[:tokens]

    def prepare(i: int) -> object:
        heads = qkv[i].view(tokens, total, shape.dim)
        return ops.prepare_qkv(heads, shape.heads, norm, None, angles, cache, slots)

    yield Call("prepare_qkv", prepare, len(qkv), moved)
    if tokens == 1:
        yield from products(shape, x[0], y[0], weight, most)


def products(shape: Shape, x: Tensor, y: Tensor, norm: Tensor, most: int) -> Iterator[Call]:
    """Of one token: q, k and v's, and the gated one."""
    sizes = {"qkv": (shape.heads + 2 * shape.kv_heads) * shape.dim, "gate_up": 2 * shape.inner}
    for name, rows in sizes.items():
        activation = "silu" if name == "gate_up" else None
        moved = rows * shape.hidden * x.itemsize
        count = max(1, min(most, ROTATED_BYTES // moved))
        weights = [torch.randn(rows, shape.hidden, device=x.device).to(x.dtype) for _ in range(count)]

        def fused(i: int, weights: list[Tensor] = weights, activation: spec.Activation | None = activation) -> object:
            return ops.add_rms_norm_linear(x, y, norm, 1e-6, weights[i], None, activation)

        def apart(i: int, weights: list[Tensor] = weights, is_gated: bool = activation is not None) -> object:
            _, normed = ops.add_rms_norm(x, y, norm, 1e-6)
            product = ops.linear(normed, weights[i], None)
            return ops.silu_mul(product) if is_gated else product

        yield Call(f"{name} that adds and normalizes", fused, count, moved)
        yield Call(f"{name} behind add_rms_norm", apart, count, moved)


def to_int8(x: Tensor, y: Tensor, weight: Tensor) -> object:
    return ops.add_rms_norm_quantized(x, y, weight, 1e-6, torch.int8)
