"""Who works on a step's logits: native code where it can reach them, else torch."""

from __future__ import annotations

from torch import Tensor

from octavo.platforms import native
from octavo.worker.sampling.logits import StepLogits
from octavo.worker.sampling.native_logits import NativeLogits
from octavo.worker.sampling.torch_logits import TorchLogits


def step_logits(logits: Tensor) -> StepLogits:
    """Logits [L, V] float32, which will be overwritten, as what the sampler works on."""
    if native.library is not None and logits.device.type == "cpu":
        return NativeLogits(logits)
    return TorchLogits(logits)
