"""Logits in a GPU's memory, worked on by Triton's kernels in octavo/ops/triton; the host never waits for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.ops.triton import logits as kernels
from octavo.ops.triton import sampling
from octavo.ops.triton.sampling import TILING, Tiling
from octavo.worker.rows import IntArray
from octavo.worker.sampling.logits import (
    ALL,
    MINUS_INF,
    Add,
    Draws,
    Edit,
    Exclude,
    KeepOnly,
    Mask,
    Penalize,
    TopLogprobs,
    sent,
)
from octavo.worker.sampling.resident import FLOOR, NUM_FIELDS, RANDOM, SEED, TEMPERATURE, TOP_K, TOP_P

LISTED = 64  # alternatives that are found one by one; a sort finds more of them sooner
NO_FLOATS: NDArray[np.float32] = np.zeros(0, np.float32)
KINDS: dict[type[Edit], int] = {
    KeepOnly: kernels.KEEP_ONLY.value,
    Exclude: kernels.EXCLUDE.value,
    Add: kernels.ADD.value,
    Penalize: kernels.PENALIZE.value,
}


class TritonLogits:
    """Implements `StepLogits`. Its tokens are TorchLogits's for the same logits, bit for bit."""

    def __init__(self, logits: Tensor, tiling: Tiling = TILING) -> None:
        self._logits = logits if logits.stride(1) == 1 else logits.contiguous()
        self._tiling = tiling
        self.refresh()

    def refresh(self) -> None:
        logits = self._logits
        self._best = sampling.best(logits, self._tiling)
        self.ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
        self.top = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        self._broken = torch.empty(logits.shape[0], dtype=torch.int8, device=logits.device)
        sampling.take(self._best, self.ids, self.top, self._broken)

    def broken(self) -> Tensor:
        return self._broken.clone()

    def copy(self, rows: IntArray) -> TritonLogits:
        return TritonLogits(self._logits.index_select(0, sent(rows, self._logits.device)), self._tiling)

    def row(self, row: int) -> Tensor:
        return self._logits[row]

    def edit(self, edits: Sequence[Edit], mask: Mask | None) -> None:
        device = self._logits.device
        if mask is not None:
            kernels.mask(self._logits, sent(np.ascontiguousarray(mask, np.int32), device), self._tiling)
        if edits:
            words, num_rows = written(edits)
            kernels.edit(self._logits, sent(words, device), num_rows)
        self.refresh()

    def draw(self, draws: Draws) -> None:
        num = len(draws.rows)
        width = num + num % 2  # so that every part lies at a multiple of 16 bytes
        words = np.zeros(NUM_FIELDS * num + 2 * width, np.int64)
        words[: NUM_FIELDS * num] = records(draws).reshape(-1)
        words[NUM_FIELDS * num :].reshape(2, width)[:, :num] = draws.rows, draws.positions
        there = sent(words, self._logits.device)
        table, rest = there[: NUM_FIELDS * num].view(num, NUM_FIELDS), there[NUM_FIELDS * num :].view(2, width)
        at, positions = rest[0, :num], rest[1, :num]
        sampling.draw(self._logits, self._best, self.top, table, positions, self.ids, at, tiling=self._tiling)

    def top_logprobs(self, rows: IntArray, tokens: Tensor, count: int) -> TopLogprobs:
        logits, vocab_size = self._logits, self._logits.shape[1]
        at, tokens = sent(rows, logits.device).long(), tokens.long().contiguous()
        alternatives = vocab_size if count == ALL else min(count, vocab_size)
        if alternatives <= LISTED:
            return TopLogprobs(*kernels.tell(logits, self._best, at, tokens, alternatives, self._tiling))
        own_ids, own, ranks = kernels.tell(logits, self._best, at, tokens, 0, self._tiling)
        logits = logits.index_select(0, at)
        norm = logits.gather(1, tokens[:, None]) - own
        values, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
        values, ids = values[:, :alternatives] - norm, ids[:, :alternatives]
        return TopLogprobs(torch.cat((own_ids, ids), 1), torch.cat((own, values), 1), ranks)


def records(draws: Draws) -> NDArray[np.int64]:
    """The draws' parameters as ResidentParameters keeps them: [n, 6]."""
    table = np.empty((len(draws.rows), NUM_FIELDS), np.int64)
    floats = table.view(np.float64)
    logarithm = np.full(len(draws.rows), MINUS_INF)
    np.log(draws.min_p, out=logarithm, where=draws.min_p > 0)
    table[:, RANDOM], table[:, TOP_K], table[:, SEED] = 1, draws.top_k, draws.seeds.view(np.int64)
    floats[:, TEMPERATURE], floats[:, TOP_P] = draws.temperature, draws.top_p
    floats[:, FLOOR] = (logarithm * draws.temperature).astype(np.float32)
    return table


def written(edits: Sequence[Edit]) -> tuple[NDArray[np.int32], int]:
    """All edits in one array, as kernels.edit reads it, and how many rows they edit."""
    by_row: dict[int, list[Edit]] = defaultdict(list)
    for edit in edits:
        by_row[edit.row].append(edit)
    size, row_size = kernels.EDIT.value, kernels.EDITED.value
    first = -(-len(by_row) * row_size // size)  # the edit that begins behind the rows
    head = np.zeros((first + len(edits)) * size, np.int32)
    parts, end, at = [head], len(head), first
    for i, (row, of_row) in enumerate(by_row.items()):
        head[i * row_size : i * row_size + 3] = row, at, at + len(of_row)
        for edit in of_row:
            floats = edit.values if isinstance(edit, Add) else edit.counts if isinstance(edit, Penalize) else NO_FLOATS
            words, count = head[at * size : (at + 1) * size], len(edit.ids)
            words[[kernels.KIND.value, kernels.IDS.value, kernels.FLOATS.value, kernels.COUNT.value]] = (
                KINDS[type(edit)], end, end + count, count
            )  # fmt: skip
            if isinstance(edit, Penalize):
                penalties = words.view(np.float32)
                penalties[kernels.PRESENCE.value] = edit.presence
                penalties[kernels.FREQUENCY.value] = edit.frequency
                penalties[kernels.REPETITION.value] = edit.repetition
            parts += [edit.ids, floats.view(np.int32)]
            end, at = end + count + len(floats), at + 1
    return np.concatenate(parts), len(by_row)


class TritonResidentSampler:
    """Draws for rows whose records are in `table` [R + 1, 6]. Implements `ResidentSampler`."""

    def __init__(self, table: Tensor, tiling: Tiling = TILING) -> None:
        self._table = table
        self._tiling = tiling

    def __call__(self, logits: Tensor, rows: Tensor, positions: Tensor, ids: Tensor, problems: Tensor) -> None:
        best, top = sampling.best(logits, self._tiling), logits.new_empty(logits.shape[0])
        sampling.take(best, ids, top, problems)
        sampling.draw(logits, best, top, self._table, positions, ids, rows=rows, tiling=self._tiling)


def take_likeliest(logits: Tensor, rows: Tensor, positions: Tensor, ids: Tensor, problems: Tensor) -> None:
    """As resident.take_likeliest. Implements `ResidentSampler` for steps without random rows."""
    sampling.take(sampling.best(logits), ids, logits.new_empty(logits.shape[0]), problems)
