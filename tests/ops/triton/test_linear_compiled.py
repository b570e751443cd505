"""Linear kernels, experts and adapters, compiled for GPUs that are not here: what they spill is stated, each fits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo.ops import registry
from octavo.ops.linear import Packed, choose_kernel
from octavo.ops.moe import stack_experts
from octavo.ops.quantized import Quantized
from octavo.ops.triton import grouping, lora, moe
from octavo.weights.floats import E4M3, ScaledFloat8
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.weight import Dense, Weight

BACKENDS = ("triton", "reference")
CPU = torch.device("cpu")
SPILLED_BY_FLOAT32 = 96  # bytes: such products are for exactness, and no matrix instruction does them


def weight_of(kind: str, rows: int, columns: int) -> Weight:
    """A weight that nobody looks at."""
    name, _, detail = kind.partition(" ")
    eights = torch.empty(rows, columns, dtype=torch.uint8)
    match name:
        case "int4":
            group = int(detail.split()[0])
            scales = torch.ones(rows, columns // group)
            zeros = torch.zeros(rows, columns // group, dtype=torch.uint8) if "zeros" in detail else None
            return GroupInt(eights, scales, zeros, group)
        case "int8":
            return ScaledInt8(eights.view(torch.int8), torch.empty(rows))
        case "fp8" if detail == "blocks":
            scales = torch.empty(-(-rows // 128), -(-columns // 128))
            return ScaledFloat8(eights.view(E4M3), scales, (128, 128))
        case "fp8":
            return ScaledFloat8(eights.view(E4M3), torch.empty(rows, 1))
        case _:
            return Dense(torch.empty(rows, columns, dtype=torch.bfloat16))


def packed(kind: str, rows: int, columns: int, gated: bool, dtype: torch.dtype = torch.bfloat16) -> Packed:
    weight = weight_of(kind, rows, columns)
    return choose_kernel(weight, dtype, BACKENDS).pack([weight], dtype, CPU, gated)


def launch(kind: str, tokens: int, gated: bool, dtype: torch.dtype = torch.bfloat16) -> None:
    """A product of 4096 columns, small in features, which decide nothing but the grid."""
    held = packed(kind, 256, 4096, gated, dtype)
    x: Tensor | Quantized = torch.empty(tokens, 4096, dtype=dtype)
    if held.takes is not None:
        x = Quantized(torch.empty(tokens, 4096, dtype=held.takes), torch.empty(tokens, 1))
    if gated:
        held.gated(x, None, "silu")
    else:
        held.run(x, None)


def launch_experts(kind: str, tokens: int, hidden: int = 2048, inner: int = 768) -> None:
    """Experts as those of Qwen3-30B-A3B, four of them."""
    gate_up = stack_experts([packed(kind, 2 * inner, hidden, True) for _ in range(4)], BACKENDS)
    down = stack_experts([packed(kind, hidden, inner, False) for _ in range(4)], BACKENDS)
    x, ids = torch.empty(tokens, hidden, dtype=torch.bfloat16), torch.zeros(tokens, 2, dtype=torch.int64)
    moe.expert_mlps(x, gate_up, down, ids, torch.empty(tokens, 2), "silu")


def launch_adapters(tokens: int, rank: int) -> None:
    x, adapters = torch.empty(tokens, 4096, dtype=torch.bfloat16), torch.zeros(tokens, dtype=torch.int32)
    a = torch.empty(3, rank, 4096, dtype=torch.bfloat16)
    h = lora.lora_shrink(x, a, adapters)
    lora.lora_expand(x, h, a.transpose(1, 2).contiguous(), adapters, torch.empty(3), 0)


def kinds(capability: int) -> list[str]:
    eights = ["int8", *(["fp8", "fp8 blocks"] if capability >= 89 else [])]
    return [*eights, "int4 128", "int4 128 zeros"]


def the_usual(capability: int) -> None:
    """What a step of an int4 and of an eight-bit model launches, and one with experts."""
    registry.bind(BACKENDS, torch.bfloat16)
    launch("int4 128", 1, False)
    launch("int4 128", 256, False)
    launch("fp8" if capability >= 89 else "int8", 1, True)
    launch_experts("dense", 1)


def everything(capability: int) -> None:
    registry.bind(BACKENDS, torch.bfloat16)
    for tokens in (1, 17, 64, 128):
        for kind in (*kinds(capability), "int4 64", "int4 32 zeros"):
            for gated in (False, True):
                launch(kind, tokens, gated)
    launch("dense", 1, True)
    launch("int4 128", 1, False, torch.float16)
    launch("int4 128", 128, True, torch.float16)
    launch("int4 128", 16, False, torch.float32)
    for kind in ("dense", *kinds(capability)):
        for tokens in (1, 64, 128, 512):
            launch_experts(kind, tokens)
    for tokens, rank in ((1, 16), (64, 256), (128, 8), (512, 64)):
        launch_adapters(tokens, rank)
    for experts in (8, 128, 512):
        moe.route(torch.empty(3, experts, dtype=torch.bfloat16), 8, True)
        for items in (8, 128, 2048):
            grouping.plan(torch.zeros(items, dtype=torch.int64), experts, 16)


@pytest.mark.slow
@pytest.mark.parametrize("launches", [the_usual, everything])
def test_no_linear_kernel_spills(launches: Callable[[int], None]) -> None:
    from .compiling import compiled

    kernels = compiled(launches)
    assert {kernel.capability for kernel in kernels} == {80, 90}
    for kernel in kernels:
        allowed = SPILLED_BY_FLOAT32 if "triton.language.float32" in kernel.constants else 0
        assert kernel.spilled <= allowed and kernel.fits, kernel
