"""Logits on any device, in torch: the definition of what sampling does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.worker.rows import IntArray
from octavo.worker.sampling.logits import (
    ALL,
    MINUS_INF,
    Add,
    Draws,
    Edit,
    Exclude,
    Floats,
    KeepOnly,
    Mask,
    Penalize,
    TopLogprobs,
)
from octavo.worker.sampling.random import uniforms

# Probabilities become integers of this scale (the likeliest token's), so that sums are exact in any order and a token
# does not depend on how they were split. 2^20 tokens still sum below 2^63.
SCALE = 2.0**43
# e^x = 2^n e^r: n is x / ln 2 to the nearest (adding 1.5 · 2^23 leaves no bits for a fraction), and the first part of
# ln 2 has so few bits that n times it is exact.
LOG2_E, LN_2, ROUNDING = 1.4426950408889634, (0.693359375, -0.00021219444005469058), 1.5 * 2.0**23
TAYLOR = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)
# Logits drawn from at once. On a CPU their int64 weights, 2 MiB, are about what a core's own cache holds.
DRAW_CELLS_CPU, DRAW_CELLS = 2**18, 2**24
LISTED = 1024  # tokens looked at first for a nucleus, which rarely needs more


class TorchLogits:
    """Implements `StepLogits`."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        self.ids, self.top = likeliest(logits)

    def broken(self) -> Tensor:
        return (~torch.isfinite(self.top)).to(torch.int8)

    def copy(self, rows: IntArray) -> TorchLogits:
        return TorchLogits(self._logits[torch.from_numpy(rows).to(self._logits.device)])

    def edit(self, edits: Sequence[Edit], mask: Mask | None) -> None:
        logits = self._logits
        if mask is not None:
            logits.masked_fill_(~unpack_mask(mask, logits), MINUS_INF)
        for kind, group in groupby(edits, type):
            EDITORS[kind](logits, list(group))
        self.ids, self.top = likeliest(logits)

    def row(self, row: int) -> Tensor:
        return self._logits[row]

    def refresh(self) -> None:
        self.ids, self.top = likeliest(self._logits)

    def draw(self, draws: Draws) -> None:
        logits, device = self._logits, self._logits.device
        uniform = uniforms(draws.seeds, draws.positions)
        chunk = max(1, (DRAW_CELLS_CPU if device.type == "cpu" else DRAW_CELLS) // logits.shape[1])
        for first in range(0, len(draws.rows), chunk):
            part = slice(first, first + chunk)
            at = torch.from_numpy(draws.rows[part]).to(device)
            filters = Filters(draws.temperature[part], draws.top_k[part], draws.top_p[part], draws.min_p[part])
            weights = filters.weigh(logits.index_select(0, at), self.top[at])
            self.ids[at] = draw(weights, torch.from_numpy(uniform[part]).to(device))

    def top_logprobs(self, rows: IntArray, tokens: Tensor, count: int) -> TopLogprobs:
        logits = self._logits.index_select(0, torch.from_numpy(rows).to(self._logits.device))
        vocab_size = logits.shape[1]
        top = logits.amax(-1, keepdim=True)
        norm = top.double() + (logits - top).exp_().sum(-1, keepdim=True, dtype=torch.float64).log_()
        tokens = tokens.long()[:, None]
        own = logits.gather(1, tokens)
        ranks = torch.count_nonzero(logits > own, dim=-1) + 1
        if count == 0:
            return TopLogprobs(tokens, own - norm, ranks)
        values, ids = logits.topk(vocab_size if count == ALL else min(count, vocab_size), -1)
        return TopLogprobs(torch.cat((tokens, ids), 1), torch.cat((own, values), 1) - norm, ranks)


# ---- edits: all rows of a kind at once
def cells(edits: Sequence[Edit], device: torch.device) -> tuple[Tensor, Tensor]:
    """Index tensors of rows and columns of everything the edits touch."""
    rows = np.repeat([edit.row for edit in edits], [len(edit.ids) for edit in edits])
    ids = np.concatenate([edit.ids for edit in edits])
    return torch.from_numpy(rows).to(device), torch.from_numpy(ids).to(device, torch.int64)


def keep_only(logits: Tensor, edits: list[KeepOnly]) -> None:
    """Exclude every other token of the edits' rows."""
    at = cells(edits, logits.device)
    kept = logits[at]
    logits[torch.tensor([edit.row for edit in edits], device=logits.device)] = MINUS_INF
    logits[at] = kept


def exclude(logits: Tensor, edits: list[Exclude]) -> None:
    """Exclude the edits' tokens."""
    logits[cells(edits, logits.device)] = MINUS_INF


def add(logits: Tensor, edits: list[Add]) -> None:
    """Add the edits' values."""
    logits[cells(edits, logits.device)] += joined([edit.values for edit in edits], logits)


def penalize(logits: Tensor, edits: list[Penalize]) -> None:
    """Lower the edits' tokens as their penalties say."""
    at = cells(edits, logits.device)
    wishes = np.array([(edit.presence, edit.frequency, edit.repetition) for edit in edits], np.float32)
    repeated = torch.from_numpy(np.repeat(wishes, [len(edit.ids) for edit in edits], 0)).to(logits.device)
    presence, frequency, repetition = repeated.T
    times = joined([edit.counts for edit in edits], logits)
    values = logits[at]
    values = torch.where(values > 0, values / repetition, values * repetition)
    logits[at] = values - frequency * times - presence * (times > 0)


EDITORS: Mapping[type[Edit], Callable[..., None]] = {
    KeepOnly: keep_only,
    Exclude: exclude,
    Add: add,
    Penalize: penalize,
}


def joined(arrays: list[Floats], logits: Tensor) -> Tensor:
    """One tensor of all the arrays, where the logits are."""
    return torch.from_numpy(np.concatenate(arrays)).to(logits.device)


# ---- draws
@dataclass(frozen=True)
class Filters:
    """Temperature and filters of some random rows, [n] each: temperature > 0; top_k 0 for none."""

    temperature: NDArray[np.float32]
    top_k: IntArray
    top_p: NDArray[np.float64]
    min_p: NDArray[np.float64]

    def weigh(self, logits: Tensor, top: Tensor) -> Tensor:
        """Integer weights [n, V] in proportion to the filtered probabilities; logits [n, V], top [n] their maxima."""
        device, vocab_size = logits.device, logits.shape[1]
        temperature = torch.from_numpy(self.temperature).to(device)
        weights = scaled(logits, top, temperature)
        low = self._floor(logits, top)
        if low is not None:
            weights.mul_(logits >= low[:, None])
        nucleus = np.flatnonzero(self.top_p < 1)
        if not len(nucleus):
            return weights
        at = torch.from_numpy(nucleus).to(device)
        low = torch.full_like(top, MINUS_INF) if low is None else low
        inside, top, temperature, low = (part.index_select(0, at) for part in (logits, top, temperature, low))
        total = weights.sum(-1).index_select(0, at)
        wanted = (torch.from_numpy(self.top_p[nucleus]).to(device) * total).ceil().long().clamp_(min=1)
        border, reached = nucleus_border(inside, top, temperature, low, wanted, LISTED)
        rest = torch.nonzero(~reached)[:, 0]
        if len(rest):
            border[rest] = nucleus_border(
                inside[rest], top[rest], temperature[rest], low[rest], wanted[rest], vocab_size
            )[0]
        weights[at] *= inside >= border[:, None]
        return weights

    def _floor(self, logits: Tensor, top: Tensor) -> Tensor | None:
        """The least logit min-p and top-k keep, [n]; None when no row asks."""
        device, vocab_size = logits.device, logits.shape[1]
        low = None
        if self.min_p.any():
            logarithm = np.full(len(self.min_p), MINUS_INF)
            np.log(self.min_p, out=logarithm, where=self.min_p > 0)
            low = top + torch.from_numpy((logarithm * self.temperature).astype(np.float32)).to(device)
        limited = np.flatnonzero((self.top_k > 0) & (self.top_k < vocab_size))
        if len(limited):
            low = torch.full_like(top, MINUS_INF) if low is None else low
            limits = self.top_k[limited]
            at, k = torch.from_numpy(limited).to(device), torch.from_numpy(limits).to(device)
            kth = descending(logits.index_select(0, at), int(limits.max())).gather(1, k[:, None] - 1)[:, 0]
            low[at] = torch.maximum(low[at], kth)
        return low


def nucleus_border(
    logits: Tensor, top: Tensor, temperature: Tensor, low: Tensor, wanted: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The logit [n] at which the weights of tokens down to `low`, likeliest first, reach wanted [n].

    Looks at `count` tokens; the second result [n] says whether that was enough.
    """
    values = descending(logits, min(count, logits.shape[1]))
    listed = scaled(values, top, temperature).mul_(values >= low[:, None]).cumsum(-1)
    last = (listed < wanted[:, None]).sum(-1, keepdim=True)
    return values.gather(1, last.clamp(max=values.shape[1] - 1))[:, 0], last[:, 0] < values.shape[1]


def scaled(logits: Tensor, top: Tensor, temperature: Tensor) -> Tensor:
    """exp((logits - top) / temperature) as integers, 2^43 for the likeliest; logits [n, m], top and temperature [n]."""
    exponents = (logits - top[:, None]).div_(temperature[:, None])
    return exponential(exponents).mul_(SCALE).to(torch.int64)


def exponential(x: Tensor) -> Tensor:
    """e^x of x [...] <= 0, float32, to about one unit in the last place; 0 or next to it below -40 and for what is no
    number. Every operation rounds by itself, so that all devices agree to the last bit.
    """
    x = torch.where(x >= -40, x, -40.0)
    n = (x * LOG2_E).add_(ROUNDING).sub_(ROUNDING)
    r = (x - n * LN_2[0]).sub_(n * LN_2[1])
    p = torch.full_like(r, TAYLOR[0])
    for coefficient in TAYLOR[1:]:
        p.mul_(r).add_(coefficient)
    return p.mul_(((n.int() + 127) << 23).view(torch.float32))


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative weight first exceeds uniform [n] in [0, 1) of the whole; weights [n, V] int64,
    which are overwritten.

    A token of weight 0 is never drawn. Rows without weight (their logits are not numbers) get some token.
    """
    cumulative = weights.cumsum_(-1)
    total = cumulative[:, -1]
    target = torch.minimum((uniform * total).long(), total - 1)
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp_(max=weights.shape[1] - 1)


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest of the likeliest tokens [L] of logits [L, V], and its logit [L]; NaN counts as likeliest."""
    if logits.device.type != "cpu":
        top, ids = logits.max(-1)
        return ids, top
    array = logits.numpy()  # torch's own takes eight times as long on a CPU
    ids = array.argmax(1)
    return torch.from_numpy(ids), torch.from_numpy(array[np.arange(len(ids)), ids])


def descending(logits: Tensor, count: int) -> Tensor:
    """The `count` largest logits of each row of [n, V], largest first."""
    if logits.device.type != "cpu":
        return logits.topk(count, -1).values
    first = logits.shape[1] - count
    array = np.partition(logits.numpy(), first, axis=1)[:, first:]
    return torch.from_numpy(np.sort(array, axis=1)[:, ::-1].copy())


def unpack_mask(mask: Mask, logits: Tensor) -> Tensor:
    """Booleans [L, V] from bits [L, ceil(V / 32)]."""
    bits = np.unpackbits(np.ascontiguousarray(mask).view(np.uint8), axis=1, count=logits.shape[1], bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)).to(logits.device)
