"""Open the real device: platform, plan, model, weights, caches. The one file that names the whole tensor tower."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Literal

import torch

from octavo import env, log, ops
from octavo.attention import backend as attention
from octavo.attention.bidirectional import BidirectionalAttention
from octavo.attention.cpu import CpuAttention
from octavo.checkpoint import Checkpoint
from octavo.config import EngineConfig
from octavo.embedder import Embedder
from octavo.engine.executors.facts import kept_kinds, page_bytes, position_bytes, row_bytes, token_bytes, weighed
from octavo.engine.executors.heads import abilities, kind_of, linked, make_heads
from octavo.engine.executors.local import LocalExecutor
from octavo.errors import StartupError
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.encoder import EncoderModel
from octavo.models.registry import spec_for
from octavo.ops.registry import REFERENCE
from octavo.plan import ELEMENT_BYTES, Hardware, Measured, ModelFacts, Plan, resolve, resolve_dtype, size
from octavo.platforms import host, native, reserve
from octavo.platforms.accelerator import Usage
from octavo.platforms.cuda import CudaPlatform
from octavo.platforms.platform import Platform, select
from octavo.pooling import Abilities
from octavo.processors import registered
from octavo.quant.method import stored_format
from octavo.quant.online import Quantizing, Scheme
from octavo.spec import CacheGroup, Encoder, Model, MoE, group_caches
from octavo.weights.dummy import NAMES, dummy_source
from octavo.weights.source import WeightSource, open_source
from octavo.weights.weight import WeightFormat
from octavo.worker.rows import Sizes
from octavo.worker.sampling.custom import load
from octavo.worker.worker import Worker

logger = log.get(__name__)

Progress = Callable[[str, int, int], None]  # what, done, total
Graphs = Literal["cuda", "tape"] | None

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
}
TRITON, INVARIANT = "triton", "invariant"
FLOAT8_NEEDS = ": it needs a GPU of compute capability 8.9 or later and the kernels of Triton"
W4A16 = "w4a16"  # the kernels of int4 weights that take bfloat16 activations register themselves under this name


def open_device(
    config: EngineConfig, checkpoint: Checkpoint, progress: Progress
) -> tuple[LocalExecutor, Plan, tuple[CacheGroup, ...], int, Abilities]:
    """A ready executor, the plan it follows, its cache groups, the vocabulary's size, and what the model can do."""
    platform = select(config.model.device)
    gpu = platform if isinstance(platform, CudaPlatform) else None
    use_threads(platform, config.parallel.cpu_threads)
    platform.pin(0)
    embedder = Embedder.of(checkpoint)
    spec = linked(spec_for(HFConfig(checkpoint.config)), embedder)
    kind = kind_of(spec, embedder, config.model.pooling_type)
    stored = stored_dtype(checkpoint)
    machine = hardware(platform, stored)
    before = None if gpu is None else gpu.usage()
    dtype = DTYPES[resolve_dtype(config.model.dtype, stored, machine)]
    spec, source = weights_of(config, checkpoint, spec, dtype, platform.device)
    backend, graphs, backends = choose_backends(platform, spec, dtype, config.model.batch_invariant)
    bound = ops.bind(backends, torch.float32 if graphs == "tape" else dtype)
    has_float8 = backend.records and gpu is not None and gpu.takes_float8
    kv_dtype = cache_dtype(config.cache.kv_cache_dtype, dtype, graphs, has_float8)
    format = weight_format(config, checkpoint, spec)
    held = weighed(spec, source, format, dtype, kept_kinds(backends, platform.device))
    longest = min(spec.max_length, embedder.max_length or spec.max_length)
    facts = facts_of(checkpoint, spec, longest, backend, config.cache.block_size, (dtype, kv_dtype), held)
    facts = replace(facts, records=graphs == "cuda" and can_record(spec, backend, bound))
    plan = resolve(config, facts, machine)
    kernels = (W4A16, *backends) if config.model.int4_activations == "bfloat16" else backends
    made = (dtype, platform.device, backend, plan.max_model_len, kernels, format)
    model = EncoderModel(spec, *made) if isinstance(spec, Encoder) else DecoderModel(spec, *made)
    started = time.perf_counter()
    read(model, source, format, checkpoint.name, progress)
    loaded = time.perf_counter()
    heads = make_heads(model, embedder, kind, platform.device, backends)
    processors = load(registered(config.model.logits_processors))
    worker = Worker(model, backend, kv_dtype, platform.device, graphs, heads, processors, gpu, plan.recorded_rows)
    if before is not None:
        facts = replace(facts, max_length=plan.max_model_len)
        plan = resolve(config, facts, machine, tried(worker, before, sizes_of(plan, spec)))
    check_host_memory(plan, platform)
    with fitting("the KV cache beside recorded steps", "lower it", "gpu_memory_utilization"):
        worker.allocate(plan.num_pages, sizes_of(plan, spec), host_pages=plan.host_pages)
        worker.record(lambda done, total: progress("Recording decode steps", done, total))
    platform.settle(graphs)
    logger.debug(
        "read and packed %s of weights in %.2f s; caches and recorded steps took %.2f s",
        size(source.total_bytes),
        loaded - started,
        time.perf_counter() - loaded,
    )
    able = abilities(spec, embedder, kind, checkpoint.architecture)
    return LocalExecutor(worker), plan, facts.groups, spec.vocab_size, able


def weights_of(
    config: EngineConfig, checkpoint: Checkpoint, spec: Model, dtype: torch.dtype, device: torch.device
) -> tuple[Model, WeightSource]:
    """Where the weights come from, and the spec by whose names they are found there."""
    if config.model.load_format == "dummy":
        spec = replace(spec, names=NAMES)
        return spec, dummy_source(spec, dtype, device)
    return spec, open_source(checkpoint)


def facts_of(
    checkpoint: Checkpoint,
    spec: Model,
    longest: int,
    backend: attention.AttentionBackend,
    page_size: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    held: tuple[str, int],
) -> ModelFacts:
    """What the plan must know. `dtypes`: of activations and KV cache; `held`: how weights are held, and their bytes."""
    dtype, kv_dtype = dtypes
    weights, weights_bytes = held
    groups = group_caches(spec.caches)
    return ModelFacts(
        name=checkpoint.name,
        architecture=checkpoint.architecture,
        dtype=spelled(dtype),
        weights=weights,
        weights_bytes=weights_bytes,
        kv_dtype=spelled(kv_dtype),
        page_bytes=page_bytes(groups, backend, page_size, kv_dtype),
        token_bytes=token_bytes(spec),
        row_bytes=row_bytes(spec),
        position_bytes=position_bytes(spec),
        max_length=longest,
        groups=groups,
        whole_prompts=isinstance(spec, Encoder),
    )


def read(
    model: DecoderModel | EncoderModel, source: WeightSource, format: WeightFormat, name: str, progress: Progress
) -> None:
    """Load the weights, and warn of what nothing reads."""
    with fitting("the model", "use a smaller one, or quantization", "model"):
        unread = model.load(source, lambda done, total: progress("Loading weights", done, total))
    unread = [each for each in unread if not each.endswith(format.extras)]
    if unread:
        logger.warning("%d tensors of %s are not used: %s", len(unread), name, ", ".join(unread[:8]))


def sizes_of(plan: Plan, spec: Model) -> Sizes:
    """The bounds of a worker that follows `plan`."""
    return Sizes(plan.max_num_seqs, plan.max_num_batched_tokens, plan.max_model_len, plan.page_size, spec.vocab_size)


def check_host_memory(plan: Plan, platform: Platform) -> None:
    """Raise StartupError when the host has not the memory that pages are to be swapped to."""
    parts = [n * b for n, b in zip(plan.host_pages, plan.page_bytes, strict=False)]
    if platform.device.type == "cuda":
        parts = [1 << (part - 1).bit_length() for part in parts]  # torch pins powers of two
    wanted = sum(parts)
    free_bytes = host.memory().free_bytes
    if wanted > free_bytes:
        raise StartupError(
            f"swap_space: {size(wanted)} of host memory are wanted and {size(free_bytes)} are free; ask for less",
            "swap_space",
        )


@contextlib.contextmanager
def fitting(what: str, instead: str, field: str) -> Generator[None]:
    """Say what does not fit into a GPU's memory, and what to do about it, as a StartupError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise StartupError(f"{field}: {what} does not fit into the GPU's memory; {instead}", field) from None


def tried(worker: Worker, before: Usage, sizes: Sizes) -> Measured:
    """What a GPU needs beside the KV cache, by trial; StartupError when not even the largest step fits."""
    step = f"a step of {sizes.max_num_batched_tokens} tokens of {sizes.max_num_seqs} sequences"
    with fitting(step, "lower it and max_num_seqs", "max_num_batched_tokens"):
        found = worker.measure(before, sizes)
    logger.info(
        "GPU memory: %s weights, %s for the largest step, %s for recorded steps, %s for libraries",
        *map(size, (found.weights_bytes, found.step_bytes, found.recordings_bytes, found.other_bytes)),
    )
    return Measured(found.weights_bytes, found.engine_bytes)


def can_record(spec: Model, backend: attention.AttentionBackend, bound: Mapping[str, str]) -> bool:
    """Whether a GPU can replay this model's decode steps: nothing in them may wait for a value."""
    if not backend.records:
        return False
    has_experts = any(isinstance(block.ffn, MoE) for block in spec.blocks)
    if has_experts and bound["expert_mlps"] == REFERENCE:
        logger.warning("steps are not recorded: experts run on torch's own kernels, which wait for the host")
        return False
    return True


def hardware(platform: Platform, stored: str) -> Hardware:
    """The platform as the plan sees it."""
    on_cpu = platform.device.type == "cpu"
    if on_cpu:
        host.release_code()
    with reserve.still() as reserved:
        memory = platform.memory()
        process_bytes = max(0, host.resident_bytes() - reserved) if on_cpu else 0
    return Hardware(
        device=platform.device.type,
        name=platform.name if on_cpu else f"{platform.name} ({size(memory.total_bytes)})",
        total_bytes=memory.total_bytes,
        free_bytes=min(memory.total_bytes, memory.free_bytes + reserved),
        threads=platform.num_threads,
        dtypes=(platform.preferred_dtype(stored),),
        process_bytes=process_bytes,
    )


def choose_backends(
    platform: Platform, spec: Model, dtype: torch.dtype, batch_invariant: bool = False
) -> tuple[attention.AttentionBackend, Graphs, tuple[str, ...]]:
    """The attention backend, how steps are recorded, and the ops backends: native ones work together or not at all."""
    if batch_invariant and platform.graphs != "tape":
        return invariant_attention(platform, spec, dtype), platform.graphs, (INVARIANT, *platform.ops)
    if isinstance(spec, Encoder):
        return BidirectionalAttention(), platform.graphs, platform.ops
    backend = choose_attention(platform, spec, dtype)
    if platform.graphs == "tape" and not isinstance(backend, CpuAttention):
        return backend, None, ("reference",)
    return backend, platform.graphs, platform.ops


def invariant_attention(platform: Platform, spec: Model, dtype: torch.dtype) -> attention.AttentionBackend:
    """Attention whose results do not know the batch; StartupError where there is none."""
    if TRITON not in platform.ops or isinstance(spec, Encoder):
        which = "this device" if TRITON not in platform.ops else "encoders"
        raise StartupError(f"batch_invariant: {which} has no kernels for that; leave it out", "batch_invariant")
    backend = attention.create(INVARIANT)
    for block in spec.blocks:
        if (reason := backend.refuses(block.mixer, dtype)) is not None:
            raise StartupError(f"batch_invariant: {reason}; leave it out", "batch_invariant")
    return backend


def cache_dtype(wanted: str, dtype: torch.dtype, graphs: Graphs, has_float8: bool = False) -> torch.dtype:
    """The format of the KV cache. Native attention has no float16, whose products would be float32's anyway."""
    if wanted == "auto":
        return torch.bfloat16 if graphs == "tape" and dtype == torch.float16 else dtype
    allowed = ("float32", "bfloat16", "int8") if graphs == "tape" else (spelled(dtype), *["fp8"] * has_float8)
    if wanted.removesuffix("_e4m3") not in allowed:
        why = FLOAT8_NEEDS if wanted.startswith("fp8") else ""
        raise StartupError(
            f"kv_cache_dtype={wanted} is not possible here{why}; the attention of this device and model takes "
            f"{', '.join(allowed)}, or auto",
            "kv_cache_dtype",
        )
    return DTYPES[wanted]


def weight_format(config: EngineConfig, checkpoint: Checkpoint, spec: Model) -> WeightFormat:
    """How the checkpoint spells its weights, and what becomes of dense ones."""
    stored = stored_format(checkpoint.config)
    if config.model.load_format == "dummy" and stored.method is not None:
        raise StartupError(
            f"load_format=dummy makes dense weights, and config.json says that these are quantized by {stored.method}; "
            "take that out of it, and use --quantization to round them",
            "load_format",
        )
    match config.model.quantization:
        case "int8" | "int4" | "fp8" as bits:
            return Quantizing(stored, Scheme(bits), spec.tied)
        case _:
            return stored


def use_threads(platform: Platform, wanted: int | None) -> None:
    """Compute with as many threads as wanted; StartupError when that is more than there are cores for."""
    if wanted is None or platform.device.type != "cpu":
        return
    cores = native.report().usable_cores
    if wanted > cores:
        raise StartupError(
            f"cpu_threads={wanted} is more than the {cores} cores usable here; use at most that", "cpu_threads"
        )
    env.use_threads(wanted)
    platform.num_threads = wanted


def spelled(dtype: torch.dtype) -> str:
    """A format's name."""
    return str(dtype).removeprefix("torch.")


def choose_attention(platform: Platform, spec: Model, dtype: torch.dtype) -> attention.AttentionBackend:
    """The platform's first backend that can run every layer; each refusal is logged with its reason."""
    reasons = []
    for name in platform.attention:
        backend = attention.create(name)
        refused = {reason for block in spec.blocks if (reason := backend.refuses(block.mixer, dtype))}
        if not refused:
            return backend
        reasons.append(f"{name}: {'; '.join(sorted(refused))}")
        logger.warning("attention backend %s", reasons[-1])
    raise StartupError(f"no attention backend can run this model in {dtype}: {' | '.join(reasons)}", "model")


def stored_dtype(checkpoint: Checkpoint) -> str:
    """The number format config.json says the weights are in; float32 when it does not say."""
    text = checkpoint.config.get("text_config")
    places = [checkpoint.config, text if isinstance(text, dict) else {}]
    for place in places:
        name = place.get("dtype") or place.get("torch_dtype")
        if isinstance(name, str) and name in ELEMENT_BYTES:
            return name
    return "float32"
