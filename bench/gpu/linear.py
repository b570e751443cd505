"""Linear layers alone: decodes as a share of a copy's bandwidth, prompts as a share of a product's speed.

The layers are those of an 8B model, their weights held in each way there is a kernel for, and experts those of a model
with 128 of them, 8 per token. Weights rotate, so that each is read from memory. A share counts the bytes of the weight
as it is held, or the operations of the product; a product of eight-bit numbers can pass 100 % of bfloat16's.

    cd bench && python -m gpu.linear                 this part alone
    cd bench && python -m gpu.linear --sweep         other tiles too, for octavo/ops/triton/product.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from gpu.alone import run_alone
from gpu.rows import Row, Scene
from torch import Tensor

from octavo import ops, spec
from octavo.ops import registry
from octavo.ops.linear import Packed, choose_kernel
from octavo.ops.moe import stack_experts
from octavo.ops.quantized import Activations
from octavo.quant.online import quantize_fp8, quantize_int4, quantize_int8
from octavo.weights.weight import Dense, Weight

if TYPE_CHECKING:
    from octavo.ops.triton.product import Config

BACKENDS = ("triton", "reference")
ROTATED_BYTES = 200 * 2**20  # several times the last-level cache
MOST_COPIES = 32
LEFT_S = 4.0  # a line is not begun with less time

# Output and input features, and whether the layer is gated.
LAYERS = {
    "out 4096 x 4096": (4096, 4096, False),
    "gate_up 28672 x 4096": (28672, 4096, True),
    "down 4096 x 14336": (4096, 14336, False),
    "qkv 6144 x 4096": (6144, 4096, False),
}
REHEARSED = {"tiny": (64, 64, True)}
KINDS: dict[str, Callable[[Tensor], Weight]] = {
    "int4": quantize_int4,
    "bf16": Dense,
    "int8": quantize_int8,
    "fp8": quantize_fp8,
}
EXPERTS, TOP_K, HIDDEN, INNER = 128, 8, 2048, 768
DECODE_TOKENS, PROMPT_TOKENS, EXPERT_TOKENS = (1, 64, 16), (2048, 256), (1, 64, 2048)
FIGURES = {"int4": 70.0, "bf16": 75.0, "int8": 75.0, "fp8": 75.0}  # of a copy, with one token


@dataclass(frozen=True)
class Layer:
    """A layer's weight, and copies of it elsewhere in memory; `bytes` of one."""

    packed: tuple[Packed, ...]
    rows: int
    columns: int
    activation: spec.Activation | None
    bytes: int

    def run(self, i: int, x: Activations) -> object:
        """The i-th copy's product."""
        if self.activation is None:
            return self.packed[i].run(x, None)
        return self.packed[i].gated(x, None, self.activation)


def measure(scene: Scene) -> Iterator[Row]:
    """Decodes of every layer and kind, experts, then prompts: what matters most first."""
    dtype = torch.float32 if scene.is_rehearsal else torch.bfloat16
    registry.bind(BACKENDS, dtype)
    try:
        for part in (decodes, experts, prompts):
            for row in part(scene, dtype):
                yield row
                if scene.left_s() < LEFT_S:
                    return
    finally:
        registry.bind(("reference",))


def usable(scene: Scene) -> list[str]:
    """The kinds that this device has a kernel for."""
    has_fp8 = scene.is_rehearsal or torch.cuda.get_device_capability() >= (8, 9)
    return [kind for kind in KINDS if has_fp8 or kind != "fp8"]


def decodes(scene: Scene, dtype: torch.dtype) -> Iterator[Row]:
    """Few tokens, which only read the weight."""
    for name, sizes in scene.pick(LAYERS, REHEARSED).items():
        for kind in usable(scene):
            layer = make_layer(scene, kind, *sizes, dtype)
            for tokens in scene.pick(DECODE_TOKENS, (1,)):
                x = given(scene, layer, tokens, dtype)
                seconds = scene.time(lambda i, layer=layer, x=x: layer.run(i, x), len(layer.packed), is_recorded=True)
                share = 100 * layer.bytes / seconds / scene.copy_bytes_s
                details = {"microseconds": seconds * 1e6, "GB/s": layer.bytes / seconds / 1e9}
                figure = FIGURES[kind] if tokens == 1 else None
                yield Row(f"linear {name}, {kind}, {tokens} tokens", share, "% of copy", figure, details=details)


def prompts(scene: Scene, dtype: torch.dtype) -> Iterator[Row]:
    """Many tokens, which multiply."""
    for name, sizes in scene.pick(LAYERS, REHEARSED).items():
        for kind in usable(scene):
            layer = make_layer(scene, kind, *sizes, dtype, most=1)
            for tokens in scene.pick(PROMPT_TOKENS, (70,)):
                x = given(scene, layer, tokens, dtype)
                seconds = scene.time(lambda i, layer=layer, x=x: layer.run(i, x), is_recorded=True)
                flops = 2 * tokens * layer.rows * layer.columns / seconds
                details = {"microseconds": seconds * 1e6, "TFLOP/s": flops / 1e12}
                share = 100 * flops / scene.matrix_flops
                yield Row(f"linear {name}, {kind}, {tokens} tokens", share, "% of product", details=details)


def experts(scene: Scene, dtype: torch.dtype) -> Iterator[Row]:
    """A layer of experts with its routing: the bytes of those that tokens went to."""
    count, top_k, hidden, inner = scene.pick((EXPERTS, TOP_K, HIDDEN, INNER), (4, 2, 32, 16))
    for kind in scene.pick(("bf16", "int4"), ("bf16",)):
        gate_up, down = (
            stack_experts([pack(scene, kind, *shape, gated, dtype) for _ in range(count)], BACKENDS)
            for shape, gated in (((2 * inner, hidden), True), ((hidden, inner), False))
        )
        expert_bytes = held_bytes(gate_up[0]) + held_bytes(down[0])
        for tokens in scene.pick(EXPERT_TOKENS, (3,)):
            x = torch.randn(tokens, hidden, device=scene.device).to(dtype)
            logits = torch.randn(tokens, count, device=scene.device).to(dtype)

            def run(_: int, x: Tensor = x, logits: Tensor = logits, gate_up=gate_up, down=down) -> object:
                ids, weights = ops.route(logits, top_k, True)
                return ops.expert_mlps(x, gate_up, down, ids, weights, "silu")

            used = len(ops.route(logits, top_k, True)[0].unique())
            seconds = scene.time(run, is_recorded=True)
            moved, flops = used * expert_bytes / seconds, 6 * tokens * top_k * hidden * inner / seconds
            details = {"microseconds": seconds * 1e6, "GB/s": moved / 1e9, "TFLOP/s": flops / 1e12, "experts": used}
            share = 100 * max(moved / scene.copy_bytes_s, flops / scene.matrix_flops)
            yield Row(f"experts {count} x {inner}, {kind}, {tokens} tokens", share, "% of limit", details=details)


def make_layer(
    scene: Scene, kind: str, rows: int, columns: int, gated: bool, dtype: torch.dtype, most: int = MOST_COPIES
) -> Layer:
    """Random weights."""
    first = pack(scene, kind, rows, columns, gated, dtype)
    num_bytes = held_bytes(first)
    copies = 1 if scene.is_rehearsal else max(1, min(most, -(-ROTATED_BYTES // num_bytes)))
    packed = (first, *(elsewhere(first) for _ in range(copies - 1)))
    return Layer(packed, rows, columns, "silu" if gated else None, num_bytes)


def pack(scene: Scene, kind: str, rows: int, columns: int, gated: bool, dtype: torch.dtype) -> Packed:
    weight = KINDS[kind]((torch.randn(rows, columns, device=scene.device) * columns**-0.5).to(dtype))
    return choose_kernel(weight, dtype, BACKENDS).pack([weight], dtype, scene.device, gated)


def elsewhere(packed: Packed) -> Packed:
    """A copy in other memory."""
    matrix = packed.matrix  # type: ignore[attr-defined]  # every kind of Triton's has one
    parts = {name: getattr(matrix, name) for name in ("values", "scales", "zeros")}
    copies = {name: None if part is None else part.clone() for name, part in parts.items()}
    return replace(packed, matrix=replace(matrix, **copies))  # type: ignore[type-var]


def held_bytes(packed: Packed) -> int:
    """Of the weight and its scales."""
    matrix = packed.matrix  # type: ignore[attr-defined]
    return sum(part.nbytes for part in (matrix.values, matrix.scales, matrix.zeros) if part is not None)


def given(scene: Scene, layer: Layer, tokens: int, dtype: torch.dtype) -> Activations:
    """Activations as the layer's producer would make them."""
    x = torch.randn(tokens, layer.columns, device=scene.device).to(dtype)
    takes = layer.packed[0].takes
    return x if takes is None else ops.quantize(x, takes)


def sweep(scene: Scene) -> Iterator[Row]:
    """Other tiles for one token and for 64, and dense gating beside cuBLAS; one that the GPU cannot hold says so."""
    from octavo.ops.triton.product import configure, multiply

    registry.bind(BACKENDS, torch.bfloat16)
    for name, sizes in LAYERS.items():
        for kind in usable(scene):
            layer = make_layer(scene, kind, *sizes, torch.bfloat16)
            for tokens in (1, 64):
                x = given(scene, layer, tokens, torch.bfloat16)
                values, scales = (x, None) if isinstance(x, Tensor) else x

                def run(i: int, config: Config, layer=layer, values=values, scales=scales) -> object:
                    matrix = layer.packed[i].matrix
                    return multiply(values, scales, matrix, None, layer.activation, torch.bfloat16, config)

                first = layer.packed[0].matrix  # type: ignore[attr-defined]
                usual = configure(first, tokens, values.element_size(), scene.device, first.num == 2)
                for config in trials(usual):
                    title = f"linear {name}, {kind}, {tokens} tokens: {config}"
                    try:
                        seconds = scene.time(lambda i, c=config, r=run: r(i, c), len(layer.packed), is_recorded=True)
                    except Exception as error:  # a tile is tried: whatever it fails with is its result
                        yield Row(title, None, "", details={"error": f"{type(error).__name__}: {error}"})
                        continue
                    share = 100 * layer.bytes / seconds / scene.copy_bytes_s
                    yield Row(title, share, "% of copy", details={"microseconds": seconds * 1e6})


def trials(usual: Config) -> list[Config]:
    """The tile that the table has, and its neighbors."""
    splits = {max(1, usual.split // 2), usual.split, min(16, 2 * usual.split)}
    shapes = {(usual.features, usual.warps), (64, 4), (128, 4), (128, 8)}
    found = [
        replace(usual, features=features, warps=warps, stages=stages, split=split)
        for features, warps in sorted(shapes)
        for stages in (3, 4, 6)
        for split in sorted(splits)
    ]
    return [usual, *(each for each in found if each != usual)]


def main() -> None:
    run_alone("gpu.linear", __doc__, measure, sweep)


if __name__ == "__main__":
    main()
