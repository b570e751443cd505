"""Log-probabilities of the model itself, natural logarithm: before temperature, penalties, filters, grammar (R69)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from octavo.worker.sampling.choice import step_logits
from octavo.worker.sampling.logits import ALL, TopLogprobs

__all__ = ["ALL", "TopLogprobs", "most", "top_logprobs"]


def top_logprobs(logits: Tensor, tokens: Tensor, count: int) -> TopLogprobs:
    """The log-probabilities of tokens [n] and of the `count` likeliest under logits [n, V]; ALL is every token."""
    return step_logits(logits).top_logprobs(np.arange(len(logits)), tokens, count)


def most(counts: list[int]) -> int:
    """The alternatives a group of rows with these `logprobs` needs."""
    return ALL if ALL in counts else max(counts, default=0)
