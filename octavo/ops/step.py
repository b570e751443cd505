"""A step's inputs, laid out on the device from what the host says of its rows and what the device keeps of them."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.registry import Case, op, shapes, size


def _layout_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    groups, num_rows, page_size, slots_of_rows, width = size(case, "G"), size(case, "S"), 3, 9, 5
    counts = torch.randint(1, 7, (num_rows,), generator=generator) if case["chunks"] else torch.ones(num_rows)
    starts = torch.cat((torch.zeros(1), counts.cumsum(0))).int()
    lengths = (counts + torch.randint(0, 9, (num_rows,), generator=generator)).clamp(max=width * page_size).int()
    rows = torch.randperm(slots_of_rows - 1, generator=generator)[:num_rows].int()
    if not case["chunks"]:
        lengths[-1], rows[-1] = 0, slots_of_rows - 1
    num_tokens = int(starts[-1])
    given = torch.randint(-1, 50, (num_tokens,), generator=generator, dtype=torch.int32)
    given[::2] = -1
    last = torch.randint(50, (slots_of_rows,), generator=generator, dtype=torch.int32)
    tables = torch.randint(100, (groups, slots_of_rows, width), generator=generator, dtype=torch.int32)
    tokens, positions = (torch.full((num_tokens,), 77, dtype=torch.int32) for _ in range(2))
    slots = torch.full((groups, num_tokens), 77)
    step_tables = tables[:, rows.long()].clone()  # what is not written is not promised
    return rows, starts, lengths, given, last, tables, page_size, tokens, positions, slots, step_tables


@op(
    shapes(S=(1, 4, 8), G=(1, 2), chunks=(False, True), dtype=(torch.float32,)),
    _layout_inputs,
    {torch.float32: 0.0},
)
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
    """Write tokens [T] int32, positions [T] int32, slots [G, T] int64 and step_tables [G, S, M] int32; returns them.

    Row s of the step is row rows[s] of last [R] int32 and tables [G, R, M] int32, has lengths[s] visible positions, and
    computes its last ones as tokens starts[s]..starts[s + 1] - 1: those of given [T] int32, or last[rows[s]] where that
    is -1. Of step_tables, the pages of visible positions are promised. A row of length 0 is padding: its token is 0, at
    position 0 and slot -1. rows [S], starts [S + 1] and lengths [S] are int32. G: cache groups, M: pages of a row.
    """
    at = torch.arange(tokens.shape[0], dtype=torch.int32, device=tokens.device)
    owner = torch.searchsorted(starts[1:], at, right=True)
    row, is_live = rows.long()[owner], lengths[owner] > 0
    position = (lengths[owner] - starts[1:][owner] + at).where(is_live, 0)
    positions.copy_(position)
    tokens.copy_(given.where(given >= 0, last[row]).where(is_live, 0))
    page = position // page_size
    slot = tables[:, row, page].long() * page_size + (position - page * page_size)
    slots.copy_(slot.where(is_live, -1))
    step_tables.copy_(tables[:, rows.long()])
    return tokens, positions, slots, step_tables


def _extend_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tables = torch.randint(100, (2, 5, 6), generator=generator, dtype=torch.int32)
    at = torch.randperm(tables.numel(), generator=generator, dtype=torch.int32)[: size(case, "D")]
    pages = torch.randint(100, (size(case, "D"),), generator=generator, dtype=torch.int32)
    return tables, at, pages


@op(shapes(D=(1, 17, 60), dtype=(torch.float32,)), _extend_inputs, {torch.float32: 0.0})
def extend_tables(tables: Tensor, at: Tensor, pages: Tensor) -> Tensor:
    """Write pages [D] int32 to the entries at [D] int32, which differ where it matters, of tables [G, R, M] int32,
    counted through all of it; returns the tables.
    """
    tables.view(-1).index_copy_(0, at.long(), pages)
    return tables
