"""Log-probabilities of the model itself, natural logarithm: before temperature, penalties, filters, grammar (R69)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from octavo.messages import Logprobs

ALL = -1  # SamplingParams.logprobs for the whole vocabulary


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


def top_logprobs(logits: Tensor, tokens: Tensor, count: int) -> TopLogprobs:
    """The log-probabilities of tokens [n] and of the `count` likeliest under logits [n, V]; ALL is every token."""
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


def most(counts: list[int]) -> int:
    """The alternatives a group of rows with these `logprobs` needs."""
    return ALL if ALL in counts else max(counts, default=0)
