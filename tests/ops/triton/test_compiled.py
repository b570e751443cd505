"""The model path's kernels, compiled for GPUs that are not here: none spills, each fits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo import ops, spec
from octavo.ops import registry
from octavo.ops.qkv import QKNorm

HIDDEN = (1024, 4096, 8192, 16384)
ACTIVATIONS: tuple[spec.Activation, ...] = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
# Heads, KV heads, channels, rotated channels, span of the norm: Qwen3, Llama 8B and 70B, OLMo 2, NeoX, Gemma 3, GPT-2,
# Gemma 1.
HEADS = (
    (16, 8, 128, 128, "head"),
    (32, 8, 128, 128, None),
    (64, 8, 128, 128, None),
    (40, 8, 128, 128, "all"),
    (32, 32, 96, 48, None),
    (8, 4, 256, 256, "head"),
    (12, 12, 64, 0, None),
    (8, 1, 256, 256, None),
)


def eights(capability: int) -> list[torch.dtype]:
    """The quantized activations that a capability has products for."""
    return [torch.int8, *([torch.float8_e4m3fn] if capability >= 89 else [])]


def one_layer(capability: int) -> None:
    """What a layer of Qwen3-8B launches, with activations as its products may take them."""
    registry.bind(("triton", "reference"), torch.bfloat16)
    launch_norms(4096, eights(capability)[-1:])
    launch_heads(*HEADS[0], torch.bfloat16)
    gate_up = torch.empty(3, 2 * 12288, dtype=torch.bfloat16)
    ops.silu_mul(gate_up)
    ops.gate_quantized(gate_up, "silu", eights(capability)[-1])
    launch_products(4096, 6144)


def everything(capability: int) -> None:
    """Every kernel in the sizes of real models."""
    registry.bind(("triton", "reference"), torch.bfloat16)
    for hidden in HIDDEN:
        launch_norms(hidden, eights(capability))
    gate_up = torch.empty(3, 2 * 14336, dtype=torch.bfloat16)
    for name in ACTIVATIONS:
        getattr(ops, name)(gate_up)
        getattr(ops, f"{name}_mul")(gate_up)
        for dtype in eights(capability):
            ops.gate_quantized(gate_up, name, dtype)
    ops.softcap(torch.empty(3, 151_936), 30.0)
    ops.clip(gate_up, 8.0)
    ops.add(gate_up, gate_up)
    ops.scale(gate_up, 2.0)
    ops.embed(torch.empty(100, 4096, dtype=torch.bfloat16), torch.empty(3, dtype=torch.int32))
    for heads in HEADS:
        for cached in (torch.bfloat16, *eights(capability)[1:]):
            launch_heads(*heads, cached)
    for hidden, rows in ((1024, 4096), (2880, 5120), (4096, 28672)):
        launch_products(hidden, rows)
    cache, new = torch.empty(2, 4, 16, 8, 128), torch.empty(3, 8, 128)
    ops.write_cache(cache, torch.empty(3, dtype=torch.int64), new, new)


def launch_norms(hidden: int, quantized: list[torch.dtype]) -> None:
    x, weight = torch.empty(3, hidden, dtype=torch.bfloat16), torch.empty(hidden)
    ops.rms_norm(x, weight, 1e-6)
    ops.add_rms_norm(x, x, weight, 1e-6)
    ops.rms_norm_add(x, x, weight, 1e-6)
    ops.rms_norm_add_rms_norm(x, x, weight, 1e-6, weight, 1e-6)
    ops.add_layer_norm(x, x, weight, weight, 1e-6)
    for dtype in quantized:
        ops.add_rms_norm_quantized(x, x, weight, 1e-6, dtype)


def launch_products(hidden: int, rows: int) -> None:
    x, norm = torch.empty(1, hidden, dtype=torch.bfloat16), torch.empty(hidden)
    weight = torch.empty(rows, hidden, dtype=torch.bfloat16)
    ops.add_rms_norm_linear(x, x, norm, 1e-6, weight, weight[:, 0].clone(), None)
    ops.add_rms_norm_linear(x, x, norm, 1e-6, weight, None, "silu")


def launch_heads(heads: int, kv_heads: int, dim: int, rotated: int, span: str | None, cached: torch.dtype) -> None:
    qkv = torch.empty(3, heads + 2 * kv_heads, dim, dtype=torch.bfloat16)
    norm = None if span is None else QKNorm(torch.empty(heads + kv_heads, dim), 1e-6, span)  # type: ignore[arg-type]
    angles = torch.empty(3, rotated) if rotated else None
    cache, slots = torch.empty(2, 4, 16, kv_heads, dim, dtype=cached), torch.empty(3, dtype=torch.int64)
    scales = torch.empty(2, kv_heads) if cached == torch.float8_e4m3fn else None
    ops.prepare_qkv(qkv, heads, norm, 8.0 if span == "all" else None, angles, cache, slots, scales)


def test_a_layers_kernels_do_not_spill() -> None:
    check(one_layer, (90,))


@pytest.mark.slow
def test_no_kernel_of_the_model_path_spills() -> None:
    check(everything, (80, 90))


def check(launches: Callable[[int], None], capabilities: tuple[int, ...]) -> None:
    from .compiling import compiled

    kernels = compiled(launches, capabilities)
    assert {kernel.capability for kernel in kernels} == set(capabilities)
    for kernel in kernels:
        assert kernel.spilled == 0 and kernel.fits, kernel
