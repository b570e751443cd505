"""The sampler's kernels for the vocabulary of Qwen3, compiled for GPUs that are not here: none spills, each fits."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from octavo.ops.triton import logits as kernels
from octavo.ops.triton import sampling

VOCABULARY = 151_936
EXACT_ANYWAY = ("take_kernel", "mask_kernel", "rank_kernel")  # no sums of products


def launches(capability: int) -> None:
    """As TritonLogits and the resident sampler launch them."""
    logits, table = torch.empty(4, VOCABULARY), torch.empty(5, 6, dtype=torch.int64)
    ids, problems = torch.empty(4, dtype=torch.int64), torch.empty(4, dtype=torch.int8)
    slots = torch.empty(4, dtype=torch.int32)
    best = sampling.best(logits)
    top = torch.empty(4)
    sampling.take(best, ids, top, problems)
    sampling.draw(logits, best, top, table, slots, ids, rows=slots)
    kernels.mask(logits, torch.empty(4, -(-VOCABULARY // 32), dtype=torch.int32))
    kernels.edit(logits, torch.empty(64, dtype=torch.int32), 2)
    kernels.tell(logits, best, ids, ids, 20)


@pytest.mark.slow
def test_no_kernel_of_the_sampler_spills_or_contracts() -> None:
    from .compiling import compiled

    kernels = compiled(launches)
    assert {kernel.capability for kernel in kernels} == {80, 90}
    assert len({kernel.name for kernel in kernels}) == 11
    for kernel in kernels:
        assert kernel.spilled == 0 and kernel.fits, kernel
        assert kernel.name in EXACT_ANYWAY or "'enable_fp_fusion': False" in kernel.constants, kernel
