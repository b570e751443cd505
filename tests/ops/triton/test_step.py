"""The kernels that lay a step out: what ptxas makes of them. What they compute is asked in tests/ops/test_ops.py."""

import pytest
import torch

from octavo.ops.triton import step


def launches(capability: int) -> None:
    rows, groups, tokens, pages = 256, 2, 8192, 2048

    def integers(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int32)

    tables = integers(groups, rows + 1, pages)
    for count in (1, 256):
        step.extend_tables(tables, integers(count), integers(count))
    out = integers(tokens), integers(tokens), torch.zeros(groups, tokens, dtype=torch.int64)
    step.lay_out(
        integers(rows), integers(rows + 1), integers(rows), integers(tokens), integers(rows + 1), tables, 16,
        *out, integers(groups, rows, pages),
    )  # fmt: skip


@pytest.mark.slow
def test_they_fit_and_spill_nothing() -> None:
    from .compiling import compiled  # the child that compiles loads this file by its path

    kernels = compiled(launches)
    assert {kernel.name for kernel in kernels} == {"lay_out_kernel", "extend_tables_kernel"}
    for kernel in kernels:
        assert kernel.fits and not kernel.spilled and kernel.registers <= 64, kernel
