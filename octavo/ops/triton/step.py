"""A step's inputs on a GPU: one launch lays them out, one extends the page tables."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.registry import implements

BLOCK = 512  # tokens, or pages, that a program handles at once


@triton.jit
def lay_out_kernel(
    rows_ptr,
    starts_ptr,
    lengths_ptr,
    given_ptr,
    last_ptr,
    tables_ptr,
    tokens_ptr,
    positions_ptr,
    slots_ptr,
    step_tables_ptr,
    tables_stride_group,
    tables_stride_row,
    slots_stride_group,
    step_stride_group,
    step_stride_row,
    page_size,
    BLOCK: tl.constexpr,
):
    s = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + s).to(tl.int64)
    start = tl.load(starts_ptr + s)
    stop = tl.load(starts_ptr + s + 1)
    length = tl.load(lengths_ptr + s)
    is_live = length > 0
    table_ptr = tables_ptr + group * tables_stride_group + row * tables_stride_row
    end = tl.where(is_live, stop, start)  # of tokens that are not padding
    late = tl.load(last_ptr + row)
    for first in range(start, stop, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < stop
        position = tl.where(is_live, length - stop + at, 0)
        page = position // page_size
        entry = tl.load(table_ptr + page, mask=at < end, other=0).to(tl.int64)
        slot = tl.where(is_live, entry * page_size + (position - page * page_size), -1)
        tl.store(slots_ptr + group * slots_stride_group + at, slot, mask=inside)
        if group == 0:
            given = tl.load(given_ptr + at, mask=inside, other=0)
            token = tl.where(is_live, tl.where(given >= 0, given, late), 0)
            tl.store(tokens_ptr + at, token, mask=inside)
            tl.store(positions_ptr + at, position, mask=inside)
    num_pages = (length + page_size - 1) // page_size
    out_ptr = step_tables_ptr + group * step_stride_group + s.to(tl.int64) * step_stride_row
    for first in range(0, num_pages, BLOCK):
        at = first + tl.arange(0, BLOCK)
        tl.store(out_ptr + at, tl.load(table_ptr + at, mask=at < num_pages, other=0), mask=at < num_pages)


@implements("lay_out", "triton")
def lay_out(
    rows: Tensor,
    starts: Tensor,
    lengths: Tensor,
    given: Tensor,
    last: Tensor,
    tables: Tensor,
    page_size: int,
    tokens: Tensor,
    positions: Tensor,
    slots: Tensor,
    step_tables: Tensor,
) -> tuple[Tensor, ...]:
    """As octavo.ops.step.lay_out: a program per row and group."""
    assert rows.dtype == given.dtype == last.dtype == tables.dtype == torch.int32, (rows.dtype, given.dtype)
    assert tables.stride(2) == step_tables.stride(2) == 1 and slots.stride(1) == 1, (tables.stride(), slots.stride())
    lay_out_kernel[(rows.shape[0], tables.shape[0])](
        rows,
        starts,
        lengths,
        given,
        last,
        tables,
        tokens,
        positions,
        slots,
        step_tables,
        tables.stride(0),
        tables.stride(1),
        slots.stride(0),
        step_tables.stride(0),
        step_tables.stride(1),
        page_size,
        BLOCK=BLOCK,
    )
    return tokens, positions, slots, step_tables


@triton.jit(do_not_specialize=["count"])
def extend_tables_kernel(tables_ptr, at_ptr, pages_ptr, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = tl.load(at_ptr + i, mask=i < count, other=0)
    tl.store(tables_ptr + at, tl.load(pages_ptr + i, mask=i < count, other=0), mask=i < count)


@implements("extend_tables", "triton")
def extend_tables(tables: Tensor, at: Tensor, pages: Tensor) -> Tensor:
    """As octavo.ops.step.extend_tables."""
    assert tables.is_contiguous() and tables.dtype == at.dtype == pages.dtype == torch.int32, tables.stride()
    count = at.shape[0]
    extend_tables_kernel[(triton.cdiv(count, BLOCK),)](tables, at, pages, count, BLOCK=BLOCK)
    return tables
