"""What a checkpoint weighs on a device, before anything of it is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch

from octavo import log, spec
from octavo.platforms.cuda import FLOAT8_SINCE
from octavo.quant.online import Quantizing, Scheme
from octavo.weights.source import WeightSource
from octavo.weights.weight import WeightFormat
from octavo.worker.memory import CacheLayout

logger = log.get(__name__)

Role = Literal["layer", "router", "head", "embedding"]

BITS = {"int4": 4 + 16 / 128, "int8": 8, "fp8": 8}  # of a value: four bits with their share of a group's scale
# What the linear kernels of each ops backend multiply as it is; what no kernel takes is held dense.
KEPT = {"cpu": frozenset(("int4", "int8", "GGUF")), "triton": frozenset(("int4", "int8", "fp8"))}


def kept_kinds(backends: tuple[str, ...], device: torch.device) -> frozenset[str]:
    """The kinds of quantized weight that stay as they are on a device with these ops backends."""
    kept = frozenset[str]().union(*(KEPT.get(backend, frozenset()) for backend in backends))
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FLOAT8_SINCE:
        return kept - {"fp8"}
    return kept


def matrices(model: spec.Model) -> Iterator[tuple[Role, int, int]]:
    """Each matrix of the model: what for, output and input features. A tied table is one matrix, the head."""
    hidden = model.hidden_size
    if isinstance(model, spec.Decoder):
        yield "head", model.vocab_size, hidden
    if not model.tied:
        yield "embedding", model.vocab_size, hidden
    if model.positions is not None:
        yield "embedding", model.positions, hidden
    for block in model.blocks:
        mixer, ffn = block.mixer, block.ffn
        q_size, kv_size = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
        yield "layer", q_size + 2 * kv_size, hidden
        yield "layer", hidden, q_size
        if isinstance(ffn, spec.MLP):
            yield "layer", (3 if ffn.gated else 2) * ffn.size, hidden
        else:
            yield "router", ffn.num_experts, hidden
            yield "layer", 3 * ffn.size * ffn.num_experts, hidden


def weighed(
    model: spec.Model, source: WeightSource, format: WeightFormat, dtype: torch.dtype, kept: frozenset[str]
) -> tuple[str, int]:
    """What the weights are held as, for people, and how many bytes they take.

    Weights of kinds that are not `kept` are held dense.
    """
    name = str(dtype).removeprefix("torch.")
    method = "GGUF" if source.names is not None else format.method
    scheme = format.scheme if isinstance(format, Quantizing) else None
    missing = (frozenset(("GGUF",)) if source.names is not None else format.holds) - kept
    if missing:
        kinds = " and ".join(sorted(missing))
        logger.warning("no kernel for %s weights on this device: they are dequantized and held in %s", kinds, name)
        return name, dense_bytes(model, dtype)
    if method:
        return f"as stored ({method})", stored_bytes(model, source)
    return (name, dense_bytes(model, dtype)) if scheme is None else (str(scheme), rounded_bytes(model, dtype, scheme))


def dense_bytes(model: spec.Model, dtype: torch.dtype) -> int:
    """Bytes of the matrices, each value in `dtype`."""
    return sum(rows * columns for _, rows, columns in matrices(model)) * dtype.itemsize


def rounded_bytes(model: spec.Model, dtype: torch.dtype, scheme: Scheme) -> int:
    """Bytes of the matrices when those that a scheme rounds are held in its bits, the others in `dtype`."""
    by_role = {"layer": BITS[scheme.layers], "head": BITS[scheme.head]}
    return sum(
        math.ceil(rows * columns * by_role.get(role, 8 * dtype.itemsize) / 8) for role, rows, columns in matrices(model)
    )


def stored_bytes(model: spec.Model, source: WeightSource) -> int:
    """Bytes of the checkpoint's tensors, which are held as they are stored, without the copy of a tied table."""
    copies = [f"{head}.weight" for head in ("lm_head", "output") if model.tied and source.has(f"{head}.weight")]
    stored = [math.prod(source.shape(name)) for name in copies]
    return source.total_bytes - sum(stored) * source.total_bytes // max(1, source.num_parameters)


def page_bytes(
    groups: tuple[spec.CacheGroup, ...], layout: CacheLayout, page_size: int, dtype: torch.dtype
) -> tuple[int, ...]:
    """KV bytes of one page in all layers of each group: the attention backend's answer, which is linear in pages."""
    return tuple(
        len(group.layers) * math.prod(layout.cache_shape(group.spec, 1, page_size, dtype)) * dtype.itemsize
        for group in groups
    )


def token_bytes(model: spec.Model) -> int:
    """Activations of one token: the residual and the widest values that live at once, in float32."""
    widest = 0
    for block in model.blocks:
        mixer, ffn = block.mixer, block.ffn
        attention = (2 * mixer.num_heads + 2 * mixer.num_kv_heads) * mixer.head_dim
        experts = ffn.num_experts + 2 * ffn.top_k if isinstance(ffn, spec.MoE) else 0
        widest = max(widest, attention + ffn.size + experts)
    return 4 * (3 * model.hidden_size + widest)


def row_bytes(model: spec.Model) -> int:
    """Logits of one sequence; what is pooled of it in an encoder."""
    return 4 * model.vocab_size if isinstance(model, spec.Decoder) else 8 * model.hidden_size


def position_bytes(model: spec.Model) -> int:
    """Rotation angles of one position of the longest context."""
    return 4 * sum(rope.dim for rope in {block.mixer.rope for block in model.blocks} if rope is not None)
