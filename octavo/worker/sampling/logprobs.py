"""Log-probabilities of the model itself, natural logarithm: before temperature, penalties, filters, grammar (R69)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from octavo.messages import NewRow
from octavo.worker.rows import IntArray, Rows
from octavo.worker.sampling.choice import step_logits
from octavo.worker.sampling.logits import ALL, StepLogits, TopLogprobs, sent
from octavo.worker.sampling.processors import Wishes, check_vocabulary

__all__ = ["ALL", "NamedIds", "TopLogprobs", "most", "top_logprobs"]


def top_logprobs(logits: Tensor, tokens: Tensor, count: int) -> TopLogprobs:
    """The log-probabilities of tokens [n] and of the `count` likeliest under logits [n, V]; ALL is every token."""
    return step_logits(logits).top_logprobs(np.arange(len(logits)), tokens, count)


def most(counts: list[int]) -> int:
    """The alternatives a group of rows with these `logprobs` needs."""
    return ALL if ALL in counts else max(counts, default=0)


class NamedIds:
    """logprob_token_ids: tokens whose log-probabilities are told at every position, whatever their rank."""

    def __init__(self, table: Rows) -> None:
        self._vocab_size = table.sizes.vocab_size
        self._wishes: Wishes[list[int]] = Wishes()

    def admit(self, row: int, new: NewRow) -> None:
        """Note what the row asks for."""
        ids = new.spec.sampling.logprob_token_ids
        if ids:
            check_vocabulary("logprob_token_ids", ids, self._vocab_size)
            self._wishes.set(row, ids)

    def drop(self, row: int) -> None:
        """Forget a row."""
        self._wishes.drop(row)

    def flush(self) -> None:
        """Nothing is staged."""

    def values(
        self, raw: StepLogits, rows: IntArray, places: IntArray, own: TopLogprobs
    ) -> dict[int, tuple[list[int], Tensor]]:
        """Ids and log-probabilities of those of rows [n] that ask, by index; `places` are the rows in `raw`.

        own: what is told of the same rows, each row's token first, whose log-probability gives all others.
        """
        found: dict[int, tuple[list[int], Tensor]] = {}
        if not self._wishes.any(rows):
            return found
        for j, _, ids in self._wishes.among(rows):
            logits = raw.row(int(places[j]))
            of_ids = logits[sent(np.array(ids, np.int64), logits.device)].double()
            found[j] = ids, of_ids - logits[own.ids[j, :1]].double() + own.values[j, 0]
        return found
