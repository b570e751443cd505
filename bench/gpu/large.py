"""The 8 B shape in bfloat16: decoding one stream and 256, and a prompt of 8 k tokens."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from gpu import driving, shapes
from gpu.rows import Row, Scene

from octavo import LLM


def measure(scene: Scene) -> Iterator[Row]:
    """Shares of the limits that are measured here, in this process."""
    # Before the engine takes the memory.
    bandwidth, flops = scene.copy_bytes_s, scene.matrix_flops
    shape = shapes.shape(scene, "8 B")
    options = scene.pick(
        {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "max_model_len": 16_384},
        {"max_num_seqs": 8, "max_num_batched_tokens": 64, "max_model_len": 256, "kv_cache_memory_bytes": 2**22},
    )
    with shapes.engine(scene, shape, **options) as llm:
        for rows, figure in ((1, 80), (scene.pick(256, 4), 70)):
            yield decode(scene, llm, shape, rows, figure, bandwidth)
        yield prefill(scene, llm, shape, flops)


def decode(scene: Scene, llm: LLM, shape: shapes.Shape, rows: int, figure: int, bandwidth: float) -> Row:
    """A decode step's bytes, weights and KV, over what a copy moves in its time."""
    # One stream is about its weights; many are asked for with 1 k tokens behind each.
    context, warm, turns = scene.pick((128 if rows == 1 else 1000, 10, 30 if scene.is_quick else 100), (24, 2, 4))
    step_s, reached = driving.decode_seconds(llm, rows, context, warm, turns)
    kv_bytes = rows * reached * shape.kv_bytes
    moved = shape.step_bytes + kv_bytes
    streams = "1 stream" if rows == 1 else f"{rows} streams at 1 k context"
    return Row(
        f"decode, {streams}, 8 B",
        100 * moved / step_s / bandwidth,
        "% of copy bandwidth",
        figure,
        details={
            "step_ms": 1e3 * step_s,
            "tokens_s": rows / step_s,
            "weights_gb": shape.step_bytes / 1e9,
            "kv_gb": kv_bytes / 1e9,
            "context": round(reached),
            "copy_gb_s": bandwidth / 1e9,
        },
    )


def prefill(scene: Scene, llm: LLM, shape: shapes.Shape, flops: float) -> Row:
    """One prompt in one step, from its arrival to its first token."""
    length = scene.pick(8192, 48)
    times = [
        driving.generate_seconds(llm, [driving.prompt(length, llm.info.vocab_size, seed)], [1])
        for seed in range(scene.pick(4 if scene.is_quick else 8, 2))
    ]
    took = statistics.median(times[1:])
    return Row(
        "prefill of 8 k tokens, 8 B",
        100 * shape.prefill_flops(length) / took / flops,
        "% of the bfloat16 product's speed",
        55,
        details={"ms": 1e3 * took, "tokens_s": length / took, "tflops": flops / 1e12, "tokens": length},
    )
