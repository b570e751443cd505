"""The sampler: logits to token ids, greedy and random rows in one batch, each as if it were alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.messages import NewRow
from octavo.worker.rows import IntArray, RowFields, Rows
from octavo.worker.sampling.logprobs import TopLogprobs, most, top_logprobs
from octavo.worker.sampling.processors import MINUS_INF, LogitsProcessor
from octavo.worker.sampling.random import uniforms

# Probabilities become integers of this scale (the likeliest token's), so that sums are exact in any order and a token
# does not depend on how they were split. 2^20 tokens still sum below 2^63.
SCALE = 2.0**43
# Logits drawn from at once. On a CPU their int64 weights, 2 MiB, are about what a core's own cache holds.
DRAW_CELLS_CPU, DRAW_CELLS = 2**18, 2**24
LISTED = 1024  # tokens looked at first for a nucleus, which rarely needs more
NO_LOGPROBS = -2
Mask = NDArray[np.int32]

FINE, NOT_FINITE, NOTHING_LEFT = 0, 1, 2
PROBLEMS = (
    "",
    "the model returned logits that are not finite numbers",
    "no token may come next: allowed_token_ids, bad_words, min_tokens and the grammar exclude them all",
)


class Parameters:
    """Each row's temperature, filters, seed and number of log-probabilities."""

    def __init__(self, fields: RowFields) -> None:
        nan = float("nan")
        self.temperature = fields.add(np.float32, 0.0, nan)
        self.top_k = fields.add(np.int64, 0, 1 << 40)
        self.top_p = fields.add(np.float64, 1.0, nan)
        self.min_p = fields.add(np.float64, 0.0, nan)
        self.seed = fields.add(np.uint64, 0, 0xDEAD)
        self.random = fields.add(np.bool_, 0, 1)
        self.logprobs = fields.add(np.int64, NO_LOGPROBS, 1 << 40)
        self.prompt_logprobs = fields.add(np.int64, NO_LOGPROBS, 1 << 40)

    def admit(self, row: int, new: NewRow) -> None:
        """Note the parameters of a new sequence; those of a greedy one do not matter."""
        p = new.spec.sampling
        if not p.greedy:
            self.random[row] = True
            self.temperature[row] = p.temperature
            self.top_k[row] = max(0, p.top_k)
            self.top_p[row] = p.top_p
            self.min_p[row] = p.min_p
            self.seed[row] = new.spec.seed & (2**64 - 1)
        if p.logprobs is not None:
            self.logprobs[row] = p.logprobs
        # A sequence that comes back with outputs has told its prompt's log-probabilities in its first life.
        if p.prompt_logprobs is not None and len(new.tokens) <= len(new.spec.tokens):
            self.prompt_logprobs[row] = p.prompt_logprobs

    def drop(self, row: int) -> None:
        """Greedy, without log-probabilities, until the next owner comes."""
        self.random[row] = False
        self.logprobs[row] = self.prompt_logprobs[row] = NO_LOGPROBS

    def flush(self) -> None:
        """Nothing is staged."""


@dataclass(frozen=True)
class Sampled:
    """ids [L] int64; problems [L] int8, indices into PROBLEMS.

    `logprobs` are those of rows `told` (indices into L), which asked for `counts` alternatives; None when no row did.
    """

    ids: Tensor
    problems: Tensor
    told: IntArray
    counts: IntArray
    logprobs: TopLogprobs | None


class Sampler:
    """Chooses one token per row: processors, then the likeliest, or temperature, min-p, top-k, top-p and a draw.

    Ties at a filter's border are all kept, so a filter is one threshold per row. The draw inverts the cumulative
    distribution in token order, with a number that depends on the row's seed and the token's position alone.
    """

    def __init__(self, table: Rows, parameters: Parameters, processors: tuple[LogitsProcessor, ...]) -> None:
        self._vocab_size = table.sizes.vocab_size
        self._parameters = parameters
        self._processors = processors

    def reads_history(self, rows: IntArray) -> bool:
        """Whether sampling `rows` needs the ids of all their earlier tokens on the host."""
        return any(p.reads_history and p.active(rows) for p in self._processors)

    def __call__(self, logits: Tensor, rows: IntArray, positions: IntArray, mask: Mask | None = None) -> Sampled:
        """Sample a token for each of rows [L] at positions [L]; logits [L, >= V] float32 are overwritten.

        mask [L, ceil(V / 32)]: bit i of the row's bits, least significant first, allows token i.
        """
        logits = logits[:, : self._vocab_size]
        ids, top = likeliest(logits)
        problems = (~torch.isfinite(top)).to(torch.int8)
        counts = self._parameters.logprobs[rows]
        told = np.flatnonzero(counts != NO_LOGPROBS)
        raw = logits[torch.from_numpy(told).to(logits.device)] if len(told) else None
        if self._process(logits, rows, positions, mask):
            ids, top = likeliest(logits)
            problems[(problems == FINE) & (top == MINUS_INF)] = NOTHING_LEFT
        random = np.flatnonzero(self._parameters.random[rows])
        if len(random):
            drawn = self._draw(logits, top, random, rows[random], positions[random])
            ids[torch.from_numpy(random).to(ids.device)] = drawn
        logprobs = None
        if raw is not None:
            own = ids[torch.from_numpy(told).to(ids.device)]
            logprobs = top_logprobs(raw, own, most(counts[told].tolist()))
        return Sampled(ids, problems, told, counts[told], logprobs)

    def _process(self, logits: Tensor, rows: IntArray, positions: IntArray, mask: Mask | None) -> bool:
        active = [processor for processor in self._processors if processor.active(rows)]
        if mask is not None:
            logits.masked_fill_(~unpack_mask(mask, logits), MINUS_INF)
        for processor in active:
            processor.apply(logits, rows, positions)
        return bool(active) or mask is not None

    def _draw(self, logits: Tensor, top: Tensor, random: IntArray, rows: IntArray, positions: IntArray) -> Tensor:
        p, device = self._parameters, logits.device
        uniform = uniforms(p.seed[rows], positions)
        ids = torch.empty(len(rows), dtype=torch.int64, device=device)
        chunk = max(1, (DRAW_CELLS_CPU if device.type == "cpu" else DRAW_CELLS) // logits.shape[1])
        for first in range(0, len(rows), chunk):
            part = slice(first, first + chunk)
            at = torch.from_numpy(random[part]).to(device)
            filters = Filters(p.temperature[rows[part]], p.top_k[rows[part]], p.top_p[rows[part]], p.min_p[rows[part]])
            weights = filters.weigh(logits.index_select(0, at), top[at])
            ids[part] = draw(weights, torch.from_numpy(uniform[part]).to(device))
        return ids


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
    return exponents.exp_().mul_(SCALE).to(torch.int64)


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
