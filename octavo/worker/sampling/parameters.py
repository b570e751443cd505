"""What each row is sampled with."""

from __future__ import annotations

import numpy as np

from octavo.messages import NewRow
from octavo.worker.rows import IntArray, RowFields
from octavo.worker.sampling.logits import Draws

NO_LOGPROBS = -2


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

    def draws(self, rows: IntArray, positions: IntArray) -> Draws | None:
        """What the random ones among rows [L] are drawn with; None when there are none."""
        random = np.flatnonzero(self.random[rows])
        if not len(random):
            return None
        at = rows[random]
        return Draws(
            random,
            self.temperature[at],
            self.top_k[at],
            self.top_p[at],
            self.min_p[at],
            self.seed[at],
            positions[random],
        )
