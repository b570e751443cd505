"""A step's logits and what is done with them: torch_logits.py defines it, native_logits.py does it on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.messages import Logprobs
from octavo.worker.rows import IntArray

ALL = -1  # SamplingParams.logprobs for the whole vocabulary
MINUS_INF = float("-inf")
Ids: TypeAlias = NDArray[np.int32]
Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.int32]


def sent(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """`array` on the device; a GPU gets a copy, and the host does not wait for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    # torch keeps the pinned copy from being used again before the device has read it.
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, slots=True, eq=False)
class KeepOnly:
    """Every token of `row` but `ids`, which ascend, is excluded."""

    row: int
    ids: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Exclude:
    """`ids` of `row` are excluded."""

    row: int
    ids: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """`values` are added to the logits of `ids`, which differ, of `row`."""

    row: int
    ids: Ids
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Penalize:
    """The logits of `ids`, which differ, of `row` are lowered: by repetition, and where counts say that a token was
    generated, by presence and by frequency times the count.
    """

    row: int
    ids: Ids
    counts: Floats
    presence: float
    frequency: float
    repetition: float


Edit: TypeAlias = KeepOnly | Exclude | Add | Penalize


@dataclass(frozen=True)
class Draws:
    """What some rows [n] of a step are drawn with: temperature > 0; top_k 0 for none; position of the token to draw."""

    rows: IntArray
    temperature: Floats
    top_k: IntArray
    top_p: NDArray[np.float64]
    min_p: NDArray[np.float64]
    seeds: NDArray[np.uint64]
    positions: IntArray


@dataclass(frozen=True)
class TopLogprobs:
    """ids [n, 1 + k] and values [n, 1 + k]: the token itself, then the k likeliest; ranks [n] of the token itself."""

    ids: Tensor
    values: Tensor
    ranks: Tensor

    def message(self, first: int, stop: int, count: int) -> Logprobs:
        """Tokens first..stop - 1 with `count` alternatives each, as it crosses to the core."""
        width = self.ids.shape[1] if count == ALL else 1 + count
        rows = slice(first, stop)
        return Logprobs(self.ids[rows, :width].tolist(), self.values[rows, :width].tolist(), self.ranks[rows].tolist())


class StepLogits(Protocol):
    """Logits [L, V] float32 of one step.

    ids [L] int64: each row's token, which is the lowest of the likeliest until draw() replaces it; NaN counts as
    likeliest. top [L]: the largest logit of each row.
    """

    ids: Tensor
    top: Tensor

    def broken(self) -> Tensor:
        """[L] int8: 1 for rows whose largest logit is no finite number."""
        ...

    def copy(self, rows: IntArray) -> StepLogits:
        """The logits of these rows as they are now, whatever happens to the step's."""
        ...

    def edit(self, edits: Sequence[Edit], mask: Mask | None) -> None:
        """Apply the mask, then the edits in their order; `ids` and `top` follow.

        mask [L, ceil(V / 32)]: bit i of the row's bits, least significant first, allows token i.
        """
        ...

    def row(self, row: int) -> Tensor:
        """The logits [V] of one row, to be read and changed in place; `refresh` follows a change."""
        ...

    def refresh(self) -> None:
        """`ids` and `top` follow what was written into rows."""
        ...

    def draw(self, draws: Draws) -> None:
        """Replace `ids` of some rows by random ones: temperature, then min-p and top-k, then top-p, then a draw.

        Ties at a filter's border are all kept, so a filter is one threshold per row. The draw inverts the cumulative
        distribution in token order. Rows whose logits are not numbers get some token.
        """
        ...

    def top_logprobs(self, rows: IntArray, tokens: Tensor, count: int) -> TopLogprobs:
        """The log-probabilities of tokens [n] and of the `count` likeliest in rows [n]; ALL is every token."""
        ...
