"""Attention against what the GPU can do: decodes as a share of a copy's bandwidth, chunks of a product's speed.

A decode is a recorded step of LAYERS layers whose caches together are larger than the L2; its time has the plan's share
and the merge in it. A chunk runs as a model runs it, without a recording, beside torch's own attention where that could
do the work. The heads are those of an 8B model: 32 over 8 KV heads, 128 channels, pages of 16 in random order.

    cd bench && python -m gpu.attention              this part alone
    cd bench && python -m gpu.attention --sweep      other tiles too, for octavo/ops/triton/attention_tiles.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from gpu.alone import run_alone
from gpu.rows import Row, Scene
from torch import Tensor

from octavo import spec
from octavo.forward import ForwardBatch, GroupInputs

if TYPE_CHECKING:
    from octavo.attention.triton import TritonAttention
    from octavo.ops.triton.attention_tiles import Tuning

LAYERS, PAGE = 4, 16
LAYER = spec.Attention(num_heads=32, num_kv_heads=8, head_dim=128, scale=128**-0.5, rope=None)
REHEARSED = spec.Attention(num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25, rope=None)
Rows = tuple[tuple[int, int], ...]  # length, and how many of its last tokens are computed

DECODES: dict[str, Rows] = {
    "1 x 64k": ((65536, 1),),
    "4 x 16k": ((16384, 1),) * 4,
    "64 x 1k": ((1024, 1),) * 64,
    "256 x 256": ((256, 1),) * 256,
    "1 x 32k, 32 x 1k": ((32768, 1),) + ((1024, 1),) * 32,
    "1 x 16k, 8 x 4k, 128 x 128": ((16384, 1),) + ((4096, 1),) * 8 + ((128, 1),) * 128,
}
CHUNKS: dict[str, Rows] = {
    "8k": ((8192, 8192),),
    "4 x 2k": ((2048, 2048),) * 4,
    "16 x 512": ((512, 512),) * 16,
    "2k behind 30k": ((32768, 2048),),
    "256 behind 64k": ((65792, 256),),
}
MIXED: Rows = ((1024, 1),) * 64 + ((4096, 512),)
DECODE_FIGURE, CHUNK_FIGURE = 80.0, 55.0
# Rows, keys, warps, stages, resident programs.
NARROW_TRIALS = ((16, 32, 4, 5, 3), (16, 64, 4, 4, 2), (16, 128, 4, 3, 1), (16, 128, 8, 3, 1), (16, 64, 2, 3, 3))
WIDE_TRIALS = ((128, 128, 8, 2, 1), (128, 128, 8, 3, 1), (128, 64, 8, 4, 1), (128, 64, 4, 3, 1), (64, 64, 4, 3, 2))


@dataclass(frozen=True)
class Work:
    """A step that attention can be run for, as often as there are caches."""

    attention: TritonAttention
    layer: spec.Attention
    batch: ForwardBatch
    q: Tensor

    def plan(self) -> object:
        """A new plan, made by its first use."""
        return self.attention.plan(self.batch, 0, spec.CacheGroup(self.layer.cache, (0,)))

    def run(self, plan: object) -> None:
        """Each layer once."""
        for cache in self.batch.caches:
            self.attention.run(self.layer, self.q, self.q, self.q, cache, plan)


def measure(scene: Scene) -> Iterator[Row]:
    """Every case."""
    formats = [torch.float32] if scene.is_rehearsal else [torch.bfloat16, torch.float8_e4m3fn]
    for cached in formats:
        if cached != torch.float8_e4m3fn or torch.cuda.get_device_capability() >= (8, 9):
            yield from decodes(scene, cached)
    yield from chunks(scene)
    yield mixed(scene)
    yield from prompts(scene)
    for name, rows in CHUNKS.items():
        if not scene.is_rehearsal and all(length == count for length, count in rows):
            yield from libraries(scene, name, rows)


def decodes(scene: Scene, cached: torch.dtype, tuned: Tuning | None = None) -> Iterator[Row]:
    """64 k tokens of context in different mixes of lengths; `cached` in bfloat16 is what the figure is for."""
    layers = scene.pick(LAYERS, 1)
    for name, rows in scene.pick(DECODES, {"rehearsed": ((40, 1), (3, 1))}).items():
        work = prepare(scene, rows, cached, layers, tuned, is_recorded=True)
        seconds = scene.time(lambda _, work=work: work.run(work.plan()), is_recorded=True) / layers
        moved = sum(length for length, _ in rows) * work.layer.cache.bytes_per_token(cached.itemsize)
        figure = DECODE_FIGURE if cached == torch.bfloat16 else None
        details = {"microseconds": seconds * 1e6, "GB/s": moved / seconds / 1e9}
        share = 100 * moved / seconds / scene.copy_bytes_s
        yield Row(f"attention, decode {name}, {spelled(cached)} cache", share, "% of copy", figure, details=details)


def chunks(scene: Scene, tuned: Tuning | None = None) -> Iterator[Row]:
    """Prompts, and chunks of prompts."""
    for name, rows in scene.pick(CHUNKS, {"rehearsed": ((20, 20),)}).items():
        yield judged(scene, f"attention, chunk {name}", rows, chunk_seconds(scene, rows, tuned), CHUNK_FIGURE)


def mixed(scene: Scene) -> Row:
    """Whether chunks and decodes in one launch take less than each alone."""
    rows = scene.pick(MIXED, ((5, 1), (20, 12)))
    together = chunk_seconds(scene, rows)
    apart = chunk_seconds(scene, rows[:-1]) + chunk_seconds(scene, rows[-1:])
    details = {"microseconds": together * 1e6, "microseconds apart": apart * 1e6}
    return Row("attention, 64 x 1k decodes with 512 behind 3.5k", apart / together, "x apart", details=details)


def prompts(scene: Scene) -> Iterator[Row]:
    """What octavo leaves to torch from FIRST_CHUNK tokens on, beside its kernel; and what a new length costs."""
    from octavo.attention.triton import attend_prompt

    layer = scene.pick(LAYER, REHEARSED)
    kinds = (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads)
    for count in scene.pick((2048, 8192, 32768), (20,)):
        q, k, v = torch.randn(
            count, sum(kinds), layer.head_dim, device=scene.device, dtype=scene.pick(torch.bfloat16, torch.float32)
        ).split(kinds, 1)
        started = time.perf_counter()
        attend_prompt(layer, q, k, v)[-1, -1, -1].item()
        first = time.perf_counter() - started
        seconds = scene.time(lambda _, q=q, k=k, v=v: attend_prompt(layer, q, k, v))
        row = judged(scene, f"attention, a prompt of {count} by torch", ((count, count),), seconds, None)
        kernel = chunk_seconds(scene, ((count, count),))
        more = {"x of the kernel's speed": kernel / seconds, "first call of this length, milliseconds": first * 1e3}
        yield replace(row, details={**row.details, **more})


def libraries(scene: Scene, name: str, rows: Rows) -> Iterator[Row]:
    """torch's own attention on the same prompts, which it reads from contiguous memory."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shape = (len(rows), LAYER.num_heads, rows[0][0], LAYER.head_dim)
    q, k, v = (torch.randn(shape, device=scene.device, dtype=torch.bfloat16) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    for library, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
        title = f"torch's attention ({library}), chunk {name}"
        try:
            with sdpa_kernel(backend):
                yield judged(scene, title, rows, scene.time(lambda _: attend(q, k, v, is_causal=True)), None)
        except RuntimeError as error:
            yield Row(title, None, "% of product", details={"error": str(error)})


def judged(scene: Scene, title: str, rows: Rows, seconds: float, figure: float | None) -> Row:
    flops = operations(rows, scene.pick(LAYER, REHEARSED)) / seconds
    details = {"microseconds": seconds * 1e6, "TFLOP/s": flops / 1e12}
    return Row(title, 100 * flops / scene.matrix_flops, "% of product", figure, details=details)


def chunk_seconds(scene: Scene, rows: Rows, tuned: Tuning | None = None) -> float:
    dtype = torch.float32 if scene.is_rehearsal else torch.bfloat16
    work = prepare(scene, rows, dtype, 1, tuned, is_recorded=False)
    plan = work.plan()
    # Several at once, so that the device is waited for and not the host that launches.
    return scene.time(lambda _: work.run(plan), rotate=scene.pick(8, 1))


def operations(rows: Rows, layer: spec.Attention) -> int:
    """Of the two products, for the keys that each query sees."""
    keys = sum(count * (2 * length - count + 1) // 2 for length, count in rows)
    return 4 * keys * layer.num_heads * layer.head_dim


def prepare(
    scene: Scene, rows: Rows, cached: torch.dtype, layers: int, tuned: Tuning | None, is_recorded: bool
) -> Work:
    """Rows on pages in random order, and queries [T, N, D]."""
    from octavo.attention.triton import WHOLE, TritonAttention

    layer, attention = scene.pick(LAYER, REHEARSED), TritonAttention(tuning=tuned, first_chunk=WHOLE)
    starts = [0]
    for _, count in rows:
        starts.append(starts[-1] + count)
    counts = [-(-length // PAGE) for length, _ in rows]
    table = torch.zeros(len(rows), max(counts), dtype=torch.int32)
    for row, pages in enumerate(torch.randperm(sum(counts)).int().split(counts)):
        table[row, : len(pages)] = pages
    shape = attention.cache_shape(layer.cache, sum(counts), PAGE, cached)
    dtype = torch.bfloat16 if cached == torch.float8_e4m3fn else cached
    options: dict[str, Any] = {"device": scene.device}
    lengths = [length for length, _ in rows]
    batch = ForwardBatch(
        tokens=torch.zeros(starts[-1], dtype=torch.int32, **options),
        positions=torch.zeros(starts[-1], dtype=torch.int32, **options),
        starts=torch.tensor(starts, dtype=torch.int32, **options),
        lengths=torch.tensor(lengths, dtype=torch.int32, **options),
        groups=[GroupInputs(table.to(scene.device), torch.zeros(0, dtype=torch.int64), PAGE)],
        caches=[torch.randn(shape, dtype=dtype, **options).to(cached) for _ in range(layers)],
        logit_rows=torch.zeros(0, dtype=torch.int64),
        host_starts=starts,
        host_lengths=lengths,
        is_recorded=is_recorded,
    )
    heads = layer.num_heads + 2 * layer.num_kv_heads
    q = torch.randn(starts[-1], heads, layer.head_dim, dtype=dtype, **options)[:, : layer.num_heads]
    return Work(attention, layer, batch, q)


def spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def sweep(scene: Scene) -> Iterator[Row]:
    """The same for other tiles; one that the GPU cannot hold says so."""
    from octavo.ops.triton.attention_tiles import Tile, machine, tuning

    usual = tuning(machine(scene.device), LAYER.head_dim, LAYER.num_heads // LAYER.num_kv_heads, 2)
    trials: list[tuple[Tile, Callable[[], Iterator[Row]]]] = []
    for each in NARROW_TRIALS:
        tile = Tile(*each)
        trials.append((tile, lambda tile=tile: decodes(scene, torch.bfloat16, replace(usual, narrow=tile))))
    for each in WIDE_TRIALS:
        tile = Tile(*each)
        trials.append((tile, lambda tile=tile: chunks(scene, replace(usual, wide=tile))))
    for tile, rows in trials:
        try:
            for row in rows():
                yield replace(row, work=f"{row.work}: {tile}", figure=None)
        except Exception as error:  # a tile is tried: whatever it fails with is its result
            yield Row(str(tile), None, "", details={"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    run_alone("gpu.attention", __doc__, measure, sweep)


if __name__ == "__main__":
    main()
