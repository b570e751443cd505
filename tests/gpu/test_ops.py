"""Every op in Triton on the GPU in every number format, beside its reference there."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from octavo import ops
from octavo.ops.quantized import Quantized
from octavo.ops.registry import Case, Op, all_ops

pytest.importorskip("triton")

import octavo.ops.triton  # noqa: F401  registers what is tested

BACKEND = "triton"
# In the interpreter products of bfloat16 mean nothing.
DTYPES = (torch.float32, torch.bfloat16, torch.float16) if torch.cuda.is_available() else (torch.float32,)
OPS = [op for op in all_ops() if BACKEND in op.implementations]


def cases(op: Op, dtype: torch.dtype) -> Iterator[Case]:
    """The op's cases in this format, each once; those of ops that have no format as they are."""
    seen: list[Case] = []
    for case in op.cases:
        asked = {**case, "dtype": dtype} if "dtype" in case else case
        if asked not in seen:
            seen.append(asked)
            yield asked


def takes(op: Op, dtype: torch.dtype) -> bool:
    """Whether there are cases of the op in this format; those in bfloat16 are cases of float16 too."""
    formats = {case.get("dtype", torch.float32) for case in op.cases}
    near = torch.bfloat16 if dtype == torch.float16 else dtype
    return near in formats and op.implementations[BACKEND].refuses(dtype) is None


def on(device: torch.device, value: object) -> object:
    """A copy of every tensor in `value`, on the device."""
    if isinstance(value, Tensor):
        return value.clone().to(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(on(device, each) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(on(device, each) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: on(device, getattr(value, field.name)) for field in dataclasses.fields(value)}
        return type(value)(**fields)
    return value


def tensors(value: object) -> list[Tensor]:
    """What an op returned, as numbers that can be compared."""
    if isinstance(value, Quantized):
        return [value.dequantize(torch.float32)]
    if isinstance(value, Tensor):
        return [value.double() if value.is_floating_point() else value]
    assert isinstance(value, tuple), value
    return [tensor for each in value for tensor in tensors(each)]


def compare(op: Op, case: Case, dtype: torch.dtype, device: torch.device) -> None:
    inputs = op.inputs(case, torch.Generator().manual_seed(zlib.crc32(op.name.encode())))
    expected, actual = (
        tensors(op.implementations[backend].function(*(on(device, each) for each in inputs)))
        for backend in ("reference", BACKEND)
    )
    # Both round to the format: each may be as far from the truth as the op allows.
    bound = 2 * op.tolerance.get(dtype, op.tolerance.get(torch.bfloat16, 0.0))
    for ours, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=bound, atol=bound, msg=lambda told: f"{case}: {told}")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_an_op_computes_what_its_reference_does(op: Op, dtype: torch.dtype, device: torch.device) -> None:
    if not takes(op, dtype):
        pytest.skip(f"takes no {dtype}")
    for case in cases(op, dtype):
        compare(op, case, dtype, device)


@pytest.mark.gpu
@pytest.mark.sanitized
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_an_ops_smallest_case_stays_within_its_tensors(op: Op, device: torch.device) -> None:
    dtype = next(dtype for dtype in reversed(DTYPES) if takes(op, dtype))
    compare(op, next(cases(op, dtype)), dtype, device)


def test_ops_in_triton_are_in_the_namespace() -> None:
    assert {op.name for op in OPS} <= set(ops.__all__)
