"""Sampling that never waits for the host: parameters on the device by row, and the definition of a draw from them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from octavo.messages import NewRow
from octavo.platforms.accelerator import Accelerator
from octavo.worker.sampling.parameters import Parameters
from octavo.worker.sampling.random import ROUNDS
from octavo.worker.sampling.torch_logits import draw, scaled

# The fields of a row's record, of 64 bits each: integers, and float64 where the table is viewed as such.
RANDOM, TEMPERATURE, TOP_K, TOP_P, FLOOR, SEED = range(6)
NUM_FIELDS = 6
MINUS_INF = float("-inf")
WORD = 0xFFFFFFFF


class ResidentSampler(Protocol):
    """Chooses tokens of logits [B, V] float32, which it may overwrite, for rows [B] int32 at positions [B] int32.

    Writes ids [B] int64, and problems [B] int8: 1 where the largest logit is no finite number. Shapes are all it learns
    on the host. Rows that nobody owns get some token.
    """

    def __call__(self, logits: Tensor, rows: Tensor, positions: Tensor, ids: Tensor, problems: Tensor) -> None: ...


def take_likeliest(logits: Tensor, rows: Tensor, positions: Tensor, ids: Tensor, problems: Tensor) -> None:
    """The lowest of the likeliest tokens. Implements `ResidentSampler` for steps without random rows."""
    top, likeliest = logits.max(-1)
    ids.copy_(likeliest)
    problems.copy_(~torch.isfinite(top))


class ResidentParameters:
    """What rows are drawn with, on the device: `table` [R + 1, 6] int64, a record per row. Implements RowState.

    RANDOM is 0 or 1, TEMPERATURE > 0, TOP_K 0 for none, TOP_P 1 for none; FLOOR is min-p as a distance from the largest
    logit, ln(min_p) · temperature in float32, -inf for none; SEED has the seed's bits. Row R is nobody's, and greedy.
    """

    def __init__(self, parameters: Parameters, num_rows: int, accelerator: Accelerator) -> None:
        self._parameters = parameters
        self._accelerator = accelerator
        self._greedy = np.zeros(NUM_FIELDS, np.int64)
        as_floats = self._greedy.view(np.float64)
        as_floats[TEMPERATURE], as_floats[TOP_P], as_floats[FLOOR] = 1, 1, MINUS_INF
        self._staged: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = {}
        self.table = accelerator.send(np.tile(self._greedy, (num_rows + 1, 1)))

    def admit(self, row: int, new: NewRow) -> None:
        """Stage the record of a row's new owner, whose parameters are known."""
        record = self._greedy.copy()
        given = self._parameters
        if given.random[row]:
            floats = record.view(np.float64)
            min_p, temperature = float(given.min_p[row]), float(given.temperature[row])
            record[RANDOM], record[TOP_K] = 1, given.top_k[row]
            floats[TEMPERATURE], floats[TOP_P] = temperature, given.top_p[row]
            floats[FLOOR] = np.float32(np.log(min_p) * temperature) if min_p > 0 else MINUS_INF
            record[SEED] = given.seed[row].view(np.int64)
        self._staged[row] = record

    def drop(self, row: int) -> None:
        """Greedy until the next owner comes."""
        self._staged[row] = self._greedy

    def flush(self) -> None:
        """Queue the copy of what is staged."""
        if self._staged:
            rows = np.array(list(self._staged))[:, None]
            sent = self._accelerator.send(np.concatenate((rows, np.stack(list(self._staged.values()))), 1))
            self.table.index_copy_(0, sent[:, 0], sent[:, 1:])
            self._staged.clear()


class TorchResidentSampler:
    """The definition: what TorchLogits draws, in fixed shapes. It sorts whole rows. Implements `ResidentSampler`."""

    def __init__(self, parameters: ResidentParameters) -> None:
        self._table = parameters.table

    def __call__(self, logits: Tensor, rows: Tensor, positions: Tensor, ids: Tensor, problems: Tensor) -> None:
        vocab_size = logits.shape[1]
        record = self._table.index_select(0, rows.long())
        floats = record.view(torch.float64)
        temperature, top_p, top_k = floats[:, TEMPERATURE].float(), floats[:, TOP_P], record[:, TOP_K]
        top, likeliest = logits.max(-1)
        problems.copy_(~torch.isfinite(top))
        ordered = logits.sort(-1, descending=True).values
        kth = ordered.gather(1, top_k.clamp(1, vocab_size)[:, None] - 1)[:, 0]
        low = top + floats[:, FLOOR].float()
        low = torch.where((top_k > 0) & (top_k < vocab_size), torch.maximum(low, kth), low)
        weights = scaled(logits, top, temperature).mul_(logits >= low[:, None])
        wanted = (top_p * weights.sum(-1)).ceil().long().clamp_(min=1)
        listed = scaled(ordered, top, temperature).mul_(ordered >= low[:, None]).cumsum(-1)
        reached = (listed < wanted[:, None]).sum(-1, keepdim=True).clamp_(max=vocab_size - 1)
        border = ordered.gather(1, reached)
        weights.mul_((logits >= border) | (top_p >= 1)[:, None])
        drawn = draw(weights, uniforms(record[:, SEED], positions.long()))
        ids.copy_(torch.where(record[:, RANDOM] > 0, drawn, likeliest))


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """As random.uniforms of stream 0, on the device: seeds [n] int64, the bits of uint64, and positions [n] int64."""
    first, second = positions & WORD, torch.zeros_like(positions)  # the words that are multiplied
    third, fourth = (positions >> 32) & WORD, torch.zeros_like(positions)  # those that are mixed in
    low, high = seeds & WORD, (seeds >> 32) & WORD
    for turn in range(ROUNDS):
        a, b = first * 0xD2511F53, second * 0xCD9E8D57  # wraps around: these are the products' 64 bits
        first = ((b >> 32) & WORD) ^ third ^ ((low + 0x9E3779B9 * turn) & WORD)
        second = ((a >> 32) & WORD) ^ fourth ^ ((high + 0xBB67AE85 * turn) & WORD)
        third, fourth = b & WORD, a & WORD
    return ((first << 21) | (third >> 11)).double() * 2.0**-53


class Samplers(NamedTuple):
    """For steps without random rows, and for all; `draw` None: StepLogits does it better, for as many as there are."""

    likeliest: ResidentSampler
    draw: ResidentSampler | None
