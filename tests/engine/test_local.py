"""Errors of a device in this process: which end a step, and which end the engine."""

from __future__ import annotations

import pytest
import torch

from octavo.engine.executors.executor import DeviceLost
from octavo.engine.executors.local import watched


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA` to enable ...",
        "CUDA error: device-side assert triggered",
        "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "Triton Error [CUDA]: an illegal memory access was encountered",
    ],
)
def test_a_gpu_whose_kernel_broke_is_lost(text: str) -> None:
    with pytest.raises(DeviceLost, match="the GPU is lost") as caught, watched():
        raise RuntimeError(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), torch.OutOfMemoryError("CUDA out of memory.")])
def test_any_other_error_is_its_steps(error: RuntimeError) -> None:
    with pytest.raises(type(error)) as caught, watched():
        raise error
    assert caught.value is error
