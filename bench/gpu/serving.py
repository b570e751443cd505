"""1,000 mixed requests at once, beside Transformers' `generate` in static batches and its continuous batching.

octavo answers all 1,000. Transformers would take many minutes for them: it gets evenly spread samples of them, the same
for octavo where few requests at once would be to its advantage. Every engine has random weights of the same shape, and
answers are as long as the trace says.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from gpu import driving, lengths, shapes, timing
from gpu.rows import Row, Scene

STATIC_FIGURE, CONTINUOUS_FIGURE = 8, 2
LONGEST = 8192  # tokens of prompt and answer
LEAST_STEPS = 24  # of a static batch: what the length of the others is taken from
Pair = tuple[int, int]


@dataclass(frozen=True)
class Sizes:
    """How many requests: at once in octavo, in Transformers' continuous batching, and in its static batches."""

    requests: int
    continuous: int
    static: tuple[int, ...]
    shrink: int = 1


def measure_small(scene: Scene) -> Iterator[Row]:
    """0.6 B."""
    return measure_shape(scene, "0.6 B", Sizes(1000, 400, (128, 64)))


def measure_large(scene: Scene) -> Iterator[Row]:
    """8 B."""
    return measure_shape(scene, "8 B", Sizes(1000, 96, (64, 32)))


def measure_shape(scene: Scene, name: str, sizes: Sizes) -> Iterator[Row]:
    """octavo's speed, then the ratios."""
    sizes = scene.pick(sizes, Sizes(8, 4, (4, 2), shrink=200))
    shape = shapes.shape(scene, name)
    # A process of its own, so that Transformers finds the GPU's memory free.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        ours = apart.submit(octavo_speeds, scene, shape, sizes).result()
    work = f"{sizes.requests:,} mixed requests, {name}"
    yield Row(work, ours[sizes.requests], "output tokens/s", details={"sample": ours[sizes.continuous]})
    model = transformers_model(scene, shape)
    static = static_speeds(scene, model, sizes, time.monotonic() + 0.55 * scene.left_s())
    best = max(static.values(), key=lambda speed: speed["tokens_s"], default=None)
    told: dict[str, Any] = {f"batch of {size}": speed for size, speed in static.items()}
    yield Row(
        f"{work}, beside Transformers' best static batch",
        None if best is None else ours[sizes.requests] / best["tokens_s"],
        "times",
        STATIC_FIGURE,
        details=told or {"why": "no batch was answered in time"},
    )
    yield continuous_row(scene, model, work, sizes, ours[sizes.continuous])


def octavo_speeds(scene: Scene, shape: shapes.Shape, sizes: Sizes) -> dict[int, float]:
    """Output tokens per second of octavo, by how many requests it got at once."""
    options = scene.pick(
        {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "max_model_len": LONGEST},
        {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 128, "kv_cache_memory_bytes": 2**22},
    )
    speeds: dict[int, float] = {}
    with shapes.engine(scene, shape, **options) as llm:
        vocab_size = llm.info.vocab_size
        driving.generate_seconds(llm, [driving.prompt(16, vocab_size, i) for i in range(4)], [4] * 4)
        for count in dict.fromkeys((sizes.continuous, sizes.requests)):
            pairs = lengths.requests(count, sizes.shrink)
            prompts = prompts_of(pairs, vocab_size)
            took = driving.generate_seconds(llm, prompts, [output for _, output in pairs])
            speeds[count] = sum(output for _, output in pairs) / took
    return speeds


def prompts_of(pairs: Sequence[Pair], vocab_size: int) -> list[list[int]]:
    """Random prompts of these lengths."""
    return [driving.prompt(length, vocab_size, seed) for seed, (length, _) in enumerate(pairs)]


def transformers_model(scene: Scene, shape: shapes.Shape) -> Any:
    """Transformers' model of the shape with random weights, made on the device."""
    import transformers

    config = transformers.AutoConfig.for_model(**shape.config)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with scene.device:
            return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    finally:
        torch.set_default_dtype(before)


def static_speeds(scene: Scene, model: Any, sizes: Sizes, until: float) -> dict[int, dict[str, float]]:
    """For each size of batch, output tokens per second of `generate` for one batch of evenly spread requests.

    They share the time that is left until `until` (monotonic). A batch that needs too much memory is left out.
    """
    speeds: dict[int, dict[str, float]] = {}
    for left, size in zip(range(len(sizes.static), 0, -1), sizes.static, strict=True):
        share_s = (until - time.monotonic()) / left
        if share_s <= 0:
            break
        try:
            speeds[size] = static_batch(scene, model, lengths.requests(size, sizes.shrink), share_s)
        except torch.cuda.OutOfMemoryError:
            timing.free(scene.device)
    return speeds


def static_batch(scene: Scene, model: Any, pairs: Sequence[Pair], share_s: float) -> dict[str, float]:
    """One batch, padded on the left, until its longest answer is there.

    After `share_s` seconds it is stopped, and the steps that lack are taken to last as long as the latest ones; they
    would last longer, for the context grows.
    """
    import transformers

    longest, steps = (max(column) for column in zip(*pairs, strict=True))
    prompts = prompts_of(pairs, model.config.vocab_size)
    ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts], device=scene.device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=scene.device)
    options = {"do_sample": False, "pad_token_id": 0}
    with torch.inference_mode():
        model.generate(ids[:, -8:], **options, attention_mask=mask[:, -8:], max_new_tokens=2)  # warm-up
        times = [time.perf_counter()]

        def is_late(so_far: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
            timing.synchronize(scene.device)
            times.append(time.perf_counter())
            stops = times[-1] - times[0] > share_s and len(times) > LEAST_STEPS
            return torch.full((len(so_far),), stops, device=so_far.device)

        criteria = transformers.StoppingCriteriaList([is_late])
        model.generate(ids, **options, attention_mask=mask, max_new_tokens=steps, stopping_criteria=criteria)
    done = len(times) - 1
    latest = max(1, done // 4)
    lacking_s = (steps - done) * (times[-1] - times[-1 - latest]) / latest
    seconds = times[-1] - times[0] + lacking_s
    return {
        "tokens_s": sum(output for _, output in pairs) / seconds,
        "seconds": seconds,
        "lacking_s": lacking_s,
        "prompt_s": times[1] - times[0],
        "steps": steps,
        "longest_prompt": longest,
    }


def continuous_row(scene: Scene, model: Any, work: str, sizes: Sizes, ours: float) -> Row:
    """octavo over Transformers' continuous batching on the same sample."""
    row = f"{work}, beside Transformers' continuous batching"
    pairs = lengths.requests(sizes.continuous, sizes.shrink)
    try:
        speed = continuous_speed(scene, model, pairs)
    except Exception as error:  # a library beside which we measure: what it raises is its own
        why = {"why": f"{type(error).__name__}: {error}"[:300]}
        return Row(row, None, "times", CONTINUOUS_FIGURE, details=why)
    # Answers that are not whole do not count, so that a run which was stopped says too little.
    ratio = ours / speed["tokens_s"] if speed["answered"] == speed["asked"] else None
    return Row(row, ratio, "times", CONTINUOUS_FIGURE, details={**speed, "octavo_tokens_s": ours})


def continuous_speed(scene: Scene, model: Any, pairs: Sequence[Pair]) -> dict[str, float]:
    """Output tokens per second of whole answers, timed from behind its warm-up; stopped before this part is."""
    import transformers
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    # Left to itself it takes most of the memory that there is, which on a GPU is what it should do.
    small = {"page_size": 16, "num_blocks": 64, "max_batch_tokens": 64, "max_requests_per_batch": 8}
    batching = ContinuousBatchingConfig(**scene.pick({}, small))
    generation = transformers.GenerationConfig(
        do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=max(output for _, output in pairs)
    )
    prompts = prompts_of(pairs, model.config.vocab_size)
    told = answered = 0
    with model.continuous_batching_context_manager(
        generation_config=generation, continuous_batching_config=batching, block=True, timeout=5
    ) as manager:
        started = time.perf_counter()
        for i, (ids, (_, output)) in enumerate(zip(prompts, pairs, strict=True)):
            manager.add_request(ids, request_id=str(i), max_new_tokens=output)
        while answered < len(pairs) and scene.left_s() > 6:
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("its thread ended")
            if result is not None and result.is_finished():
                if result.error is not None:
                    raise RuntimeError(result.error)
                answered += 1
                told += len(result.generated_tokens)
        took = time.perf_counter() - started
    if not told:
        raise RuntimeError(f"no answer within {took:.0f} s")
    return {"tokens_s": told / took, "seconds": took, "answered": answered, "asked": len(pairs)}
