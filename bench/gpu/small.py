"""The 0.6 B shape: the time of one stream's token, and how much of a step the device waits for the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from gpu import driving, shapes, timing
from gpu.rows import Row, Scene

from octavo import LLM

# Between two kernels of one recorded step lie a microsecond or two, which the host has no part in.
HOST_GAP_US = 5.0


def measure(scene: Scene) -> Iterator[Row]:
    """One stream, then 64."""
    shape = shapes.shape(scene, "0.6 B")
    options = scene.pick(
        {"max_num_seqs": 64, "max_model_len": 4096},
        {"max_num_seqs": 8, "max_model_len": 128, "max_num_batched_tokens": 64, "kv_cache_memory_bytes": 2**22},
    )
    bandwidth = scene.copy_bytes_s  # before the engine takes the memory
    with shapes.engine(scene, shape, **options) as llm:
        yield one_stream(scene, llm, shape, bandwidth)
        yield idle(scene, llm)


def one_stream(scene: Scene, llm: LLM, shape: shapes.Shape, bandwidth: float) -> Row:
    """Milliseconds from token to token, the host's work included."""
    warm, turns = scene.pick((20, 100 if scene.is_quick else 400), (2, 4))
    step_s, context = driving.decode_seconds(llm, 1, scene.pick(128, 16), warm, turns)
    moved = shape.step_bytes + context * shape.kv_bytes
    share = 100 * moved / step_s / bandwidth
    return Row(
        "0.6 B, 1 stream",
        1e3 * step_s,
        "ms per token",
        1.5,
        at_most=True,
        details={"tokens_s": 1 / step_s, "context": round(context), "percent_of_copy_bandwidth": share},
    )


def idle(scene: Scene, llm: LLM) -> Row:
    """Share of the time, at a batch of 64, in which no kernel runs because none has been launched."""
    rows, context = scene.pick((64, 256), (4, 16))
    warm, turns = scene.pick((20, 100), (2, 4))
    plain_s, _ = driving.decode_seconds(llm, rows, context, warm, turns)
    work = "device waiting for the host, batch of 64, 0.6 B"
    told: dict[str, float | str] = {"step_us": 1e6 * plain_s, "rows": rows}
    if scene.device.type != "cuda":
        return Row(work, None, "% of the step", 5, True, {**told, "why": "there are no kernels to see"})
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    switches = iter((profiler.start, profiler.stop))

    def switch() -> None:
        timing.synchronize(scene.device)  # so that exactly the turns in between are seen
        next(switches)()

    driving.decode_seconds(llm, rows, context, warm, turns, switch)
    spans = device_spans(profiler)
    if not spans:
        return Row(work, None, "% of the step", 5, True, {**told, "why": "the profiler saw no kernels"})
    busy_us, between_us = (each / turns for each in busy_and_between(spans, HOST_GAP_US))
    # The profiler slows the host, hence the step of the run without it.
    waiting = 1 - 1e-6 * (busy_us + between_us) / plain_s
    return Row(
        work,
        100 * max(0.0, waiting),
        "% of the step",
        5,
        at_most=True,
        details={
            **told,
            "kernels_us": busy_us,
            "between_kernels_us": between_us,
            "kernels": len(spans) / turns,
        },
    )


def device_spans(profiler: torch.profiler.profile) -> list[tuple[float, float]]:
    """Start and end in microseconds of everything that ran on the device."""
    events = profiler.events() or []
    on_device = torch.autograd.DeviceType.CUDA
    return [(each.time_range.start, each.time_range.end) for each in events if each.device_type == on_device]


def busy_and_between(spans: Sequence[tuple[float, float]], host_gap: float) -> tuple[float, float]:
    """How long anything ran, and the sum of the gaps in between that are shorter than `host_gap`; spans may overlap."""
    busy = between = 0.0
    reached: float | None = None
    for start, end in sorted(spans):
        if reached is None or start > reached:
            gap = 0.0 if reached is None else start - reached
            between += gap if gap < host_gap else 0.0
            busy += end - start
            reached = end
        elif end > reached:
            busy += end - reached
            reached = end
    return busy, between
