"""Rows of a table by index."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.registry import implements

BLOCK = 1024


@triton.jit
def embed_kernel(table_ptr, ids_ptr, out_ptr, columns, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < columns
    id = tl.load(ids_ptr + row).to(tl.int64)
    tl.store(out_ptr + row * columns + at, tl.load(table_ptr + id * stride + at, mask=mask), mask=mask)


@implements("embed", "triton")
def embed(table: Tensor, ids: Tensor) -> Tensor:
    """As ops.embed."""
    assert table.stride(1) == 1, table.stride()
    rows, columns = ids.shape[0], table.shape[1]
    out = torch.empty((rows, columns), dtype=table.dtype, device=table.device)
    if rows:
        block = min(triton.next_power_of_2(columns), BLOCK)
        grid = (rows, triton.cdiv(columns, block))
        embed_kernel[grid](
            table, ids, out, columns, table.stride(0), BLOCK=block, num_warps=min(max(block // 256, 1), 4)
        )
    return out
