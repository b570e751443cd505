"""What --batch-invariant costs: the 0.6 B shape with it and without, decoding and reading prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator

from gpu import driving, shapes
from gpu.rows import Row, Scene

from octavo import LLM, SamplingParams


def measure(scene: Scene) -> Iterator[Row]:
    """Each kind of step, how many times as long."""
    options = scene.pick(
        {"max_num_seqs": 64, "max_model_len": 8192},
        {"max_num_seqs": 4, "max_model_len": 128, "max_num_batched_tokens": 64, "kv_cache_memory_bytes": 2**22},
    )
    shape = shapes.shape(scene, "0.6 B")
    found: list[tuple[float, float, float]] = []
    for batch_invariant in (False, True):
        with shapes.engine(scene, shape, batch_invariant=batch_invariant, **options) as llm:
            found.append(seconds(scene, llm))
    plain, invariant = found
    works = ("decode, 1 stream", "decode, 64 streams", "prefill 4 k tokens")
    for work, before, after in zip(works, plain, invariant, strict=True):
        told = {"plain_ms": 1e3 * before, "invariant_ms": 1e3 * after}
        yield Row(f"batch-invariant: {work}, 0.6 B", after / before, "times as long", details=told)


def seconds(scene: Scene, llm: LLM) -> tuple[float, float, float]:
    """Of a step of one row, of one of many, and of a prompt."""
    warm, turns = scene.pick((10, 60), (1, 2))
    one, _ = driving.decode_seconds(llm, 1, scene.pick(128, 16), warm, turns)
    many, _ = driving.decode_seconds(llm, scene.pick(64, 4), scene.pick(256, 16), warm, turns)
    times: list[float] = []
    for seed in range(scene.pick(4, 1)):
        ids = driving.prompt(scene.pick(4096, 24), llm.info.vocab_size, 1000 + seed)
        started = time.perf_counter()
        llm.generate({"prompt_token_ids": ids}, SamplingParams(max_tokens=1, temperature=0), use_tqdm=False)
        times.append(time.perf_counter() - started)
    return one, many, min(times)
