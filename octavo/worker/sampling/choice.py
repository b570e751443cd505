"""Who works on a step's logits: Triton's kernels or native code where they can reach them, else torch."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from octavo.platforms import native
from octavo.platforms.cuda import lacks_triton
from octavo.worker.sampling.logits import StepLogits
from octavo.worker.sampling.native_logits import NativeLogits
from octavo.worker.sampling.resident import ResidentParameters, Samplers, take_likeliest
from octavo.worker.sampling.torch_logits import TorchLogits


def step_logits(logits: Tensor) -> StepLogits:
    """Logits [L, V] float32, which will be overwritten, as what the sampler works on."""
    if native.library is not None and logits.device.type == "cpu":
        return NativeLogits(logits)
    if runs_triton(logits.device):
        from octavo.worker.sampling.triton_logits import TritonLogits

        return TritonLogits(logits)
    return TorchLogits(logits)


def resident_samplers(parameters: ResidentParameters) -> Samplers:
    """The fastest on the device of `parameters`."""
    if not runs_triton(parameters.table.device):
        return Samplers(take_likeliest, None)
    from octavo.worker.sampling import triton_logits

    return Samplers(triton_logits.take_likeliest, triton_logits.TritonResidentSampler(parameters.table))


@cache
def runs_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run on this device."""
    return device.type == "cuda" and lacks_triton(torch.cuda.get_device_capability(device)) is None
