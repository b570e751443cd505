"""Rows of a table by index: token embeddings, learned positions, rotation angles."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops.registry import Case, draw, op, shapes, size


def _inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    vocab = size(case, "V")
    ids = torch.randint(vocab, (size(case, "T"),), generator=generator, dtype=torch.int32)
    return draw((vocab, size(case, "H")), case, generator), ids


def _scale_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    return draw((size(case, "T"), size(case, "H")), case, generator), 8.0


@op(
    shapes(T=(1, 33), V=(1, 50), H=(8, 96), dtype=(torch.float32, torch.bfloat16)),
    _inputs,
    {torch.float32: 0.0, torch.bfloat16: 0.0},
)
def embed(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of table [V, H] at ids [T] int32; returns [T, H]."""
    return table.index_select(0, ids)


@op(
    shapes(T=(1, 33), H=(8, 96), dtype=(torch.float32, torch.bfloat16)),
    _scale_inputs,
    {torch.float32: 1e-6, torch.bfloat16: 1e-2},
)
def scale(x: Tensor, factor: float) -> Tensor:
    """x [T, H] times a factor that the dtype of x can hold exactly."""
    return x * factor


def _concat_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens = size(case, "T")
    return ([draw((tokens, columns), case, generator) for columns in (size(case, "A"), size(case, "B"))],)


@op(
    shapes(T=(1, 5), A=(3, 16), B=(1, 40), dtype=(torch.float32, torch.bfloat16)),
    _concat_inputs,
    {torch.float32: 0.0, torch.bfloat16: 0.0},
)
def concat(parts: list[Tensor]) -> Tensor:
    """Parts [T, n], [T, m] … side by side: [T, n + m + …]."""
    return torch.cat(parts, -1)
