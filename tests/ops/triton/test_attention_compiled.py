"""The attention kernels, compiled for GPUs that are not here: none spills more than a word, each fits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo import spec
from octavo.attention.triton import TritonAttention
from octavo.forward import ForwardBatch, GroupInputs
from octavo.ops.triton.attention_tiles import Machine

LLAMA = spec.Attention(num_heads=32, num_kv_heads=8, head_dim=128, scale=0.1, rope=None)
GEMMA = replace(LLAMA, num_heads=8, num_kv_heads=4, head_dim=256, softcap=50.0, window=4096)
GPT2 = replace(LLAMA, num_heads=12, num_kv_heads=12, head_dim=64)
DECODES, MIXED = [1, 1], [1, 300]


def launch(layer: spec.Attention, capability: int, counts: list[int], dtype: torch.dtype, cached: torch.dtype) -> None:
    """Rows of `counts` tokens at the end of contexts that are cut."""
    attention = TritonAttention(machine=Machine(capability, 132))
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    lengths = [100_000] * len(counts)
    table = torch.zeros(len(counts), 6250, dtype=torch.int32)
    batch = ForwardBatch(
        tokens=torch.zeros(starts[-1], dtype=torch.int32),
        positions=torch.zeros(starts[-1], dtype=torch.int32),
        starts=torch.tensor(starts, dtype=torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        groups=[GroupInputs(table, torch.zeros(starts[-1], dtype=torch.int64), 16)],
        caches=[torch.empty(attention.cache_shape(layer.cache, 4, 16, cached), dtype=cached)],
        logit_rows=torch.zeros(1, dtype=torch.int64),
        host_starts=starts,
        host_lengths=lengths,
    )
    heads = layer.num_heads + 2 * layer.num_kv_heads
    q = torch.empty(starts[-1], heads, layer.head_dim, dtype=dtype)[:, : layer.num_heads]
    scales = torch.ones(2, layer.num_kv_heads) if cached == torch.float8_e4m3fn else None
    plan = attention.plan(batch, 0, spec.CacheGroup(layer.cache, (0,)))
    attention.run(layer, q, q, q, batch.caches[0], plan, scales)


def decodes(capability: int) -> None:
    """Of an 8B model."""
    launch(LLAMA, capability, DECODES, torch.bfloat16, torch.bfloat16)


def mixed(capability: int) -> None:
    """A chunk beside a decode, of an 8B model."""
    launch(LLAMA, capability, MIXED, torch.bfloat16, torch.bfloat16)


def shares(capability: int) -> None:
    """Heads of 128 channels: Qwen3 0.6B, Llama 70B, Qwen2 7B; and Mistral's window."""
    for layer in (
        replace(LLAMA, num_heads=16),
        replace(LLAMA, num_heads=64),
        replace(LLAMA, num_heads=28, num_kv_heads=4),
        replace(LLAMA, window=4096),
    ):
        for counts in (DECODES, MIXED):
            launch(layer, capability, counts, torch.bfloat16, torch.bfloat16)


def head_sizes(capability: int) -> None:
    """Gemma 2, GPT-2, GPT-NeoX, Phi-3."""
    for layer in (
        GEMMA,
        GPT2,
        replace(LLAMA, num_kv_heads=32, head_dim=80),
        replace(LLAMA, num_kv_heads=32, head_dim=96, window=2048),
    ):
        for counts in (DECODES, MIXED):
            launch(layer, capability, counts, torch.bfloat16, torch.bfloat16)


def float32(capability: int) -> None:
    """Exact products."""
    for layer in (LLAMA, GPT2, GEMMA):
        for counts in (DECODES, MIXED):
            launch(layer, capability, counts, torch.float32, torch.float32)


def float8(capability: int) -> None:
    """A cache of float8 with scales."""
    for layer in (LLAMA, GPT2, GEMMA):
        for counts in (DECODES, MIXED):
            launch(layer, capability, counts, torch.bfloat16, torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("launches", "capability"),
    [
        (decodes, 90),
        *(pytest.param(each, 90, marks=pytest.mark.slow) for each in (mixed, shares, head_sizes, float32, float8)),
        *(pytest.param(each, 80, marks=pytest.mark.slow) for each in (decodes, mixed, head_sizes, float32)),
    ],
)
def test_no_attention_kernel_spills_more_than_a_word(launches: Callable[[int], None], capability: int) -> None:
    from .compiling import compiled

    kernels = compiled(launches, (capability,))
    assert {kernel.name for kernel in kernels} == {"plan_kernel", "attend_kernel", "merge_kernel"}
    for kernel in kernels:
        assert kernel.spilled <= 4 and kernel.fits, kernel
