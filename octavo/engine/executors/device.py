"""Open the real device: platform, plan, model, weights, caches. The one file that names the whole tensor tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from octavo import log, ops
from octavo.attention import backend as attention
from octavo.attention.cpu import CpuAttention
from octavo.checkpoint import Checkpoint
from octavo.config import EngineConfig
from octavo.engine.executors.local import LocalExecutor
from octavo.errors import StartupError
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import spec_for
from octavo.plan import ELEMENT_BYTES, Hardware, ModelFacts, Plan, resolve
from octavo.platforms.platform import Platform, select
from octavo.spec import CacheGroup, Decoder, group_caches
from octavo.weights.source import open_source
from octavo.worker.rows import Sizes
from octavo.worker.worker import Worker

logger = log.get(__name__)

Progress = Callable[[str, int, int], None]  # what, done, total
Graphs = Literal["cuda", "tape"] | None

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_device(
    config: EngineConfig, checkpoint: Checkpoint, progress: Progress
) -> tuple[LocalExecutor, Plan, tuple[CacheGroup, ...], int]:
    """A ready executor, the plan it follows, its cache groups, and the vocabulary's size."""
    platform = select(config.model.device)
    platform.pin(0)
    spec = spec_for(HFConfig(checkpoint.config))
    stored = stored_dtype(checkpoint)
    source = open_source(checkpoint)
    facts = ModelFacts(
        name=checkpoint.name,
        architecture=checkpoint.architecture,
        dtype=stored,
        parameters=source.num_parameters,
        hidden_size=spec.hidden_size,
        max_length=spec.max_length,
        groups=group_caches(spec.caches),
    )
    plan = resolve(config, facts, hardware(platform, stored))
    dtype = DTYPES[plan.dtype]
    backend, graphs, backends = choose_backends(platform, spec, dtype)
    ops.bind(backends, torch.float32 if graphs == "tape" else dtype)
    model = DecoderModel(spec, dtype, platform.device, backend, plan.max_model_len, backends)
    unread = model.load(source, lambda done, total: progress("Loading weights", done, total))
    if unread:
        logger.warning("%d tensors of %s are not used: %s", len(unread), checkpoint.name, ", ".join(unread[:8]))
    sizes = Sizes(plan.max_num_seqs, plan.max_num_batched_tokens, plan.max_model_len, plan.page_size, spec.vocab_size)
    worker = Worker(model, backend, cache_dtype(dtype, graphs), platform.device, graphs)
    worker.allocate(plan.num_pages, sizes)
    platform.settle(graphs)
    return LocalExecutor(worker), plan, facts.groups, spec.vocab_size


def hardware(platform: Platform, stored: str) -> Hardware:
    """The platform as the plan sees it."""
    memory = platform.memory()
    return Hardware(
        device=platform.device.type,
        name=platform.name,
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        threads=platform.num_threads,
        dtypes=(platform.preferred_dtype(stored),),
    )


def choose_backends(
    platform: Platform, spec: Decoder, dtype: torch.dtype
) -> tuple[attention.AttentionBackend, Graphs, tuple[str, ...]]:
    """The attention backend, how steps are recorded, and the ops backends: native ones work together or not at all."""
    backend = choose_attention(platform, spec, dtype)
    if platform.graphs == "tape" and not isinstance(backend, CpuAttention):
        return backend, None, ("reference",)
    return backend, platform.graphs, platform.ops


def cache_dtype(dtype: torch.dtype, graphs: Graphs) -> torch.dtype:
    """The format of the KV cache; native attention has no float16, whose products would be float32's anyway."""
    return torch.bfloat16 if graphs == "tape" and dtype == torch.float16 else dtype


def choose_attention(platform: Platform, spec: Decoder, dtype: torch.dtype) -> attention.AttentionBackend:
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
