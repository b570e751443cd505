"""The sampler: logits to token ids, greedy and random rows in one batch, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from octavo.messages import NewRow
from octavo.worker.rows import IntArray, Rows
from octavo.worker.sampling.choice import step_logits
from octavo.worker.sampling.custom import CustomProcessors
from octavo.worker.sampling.logits import MINUS_INF, Mask, StepLogits, TopLogprobs, sent
from octavo.worker.sampling.logprobs import NamedIds, most
from octavo.worker.sampling.parameters import NO_LOGPROBS, Parameters
from octavo.worker.sampling.processors import LogitsProcessor

NOBODY: IntArray = np.zeros(0, np.int64)
FINE, NOT_FINITE, NOTHING_LEFT = 0, 1, 2
PROBLEMS = (
    "",
    "the model returned logits that are not finite numbers",
    "no token may come next: allowed_token_ids, bad_words, min_tokens and the grammar exclude them all",
)


@dataclass(frozen=True)
class Sampled:
    """ids [L] int64; problems [L] int8, indices into PROBLEMS; `errors` what else went wrong, by index into L.

    `logprobs` are those of rows `told` (indices into L), which asked for `counts` alternatives; None when no row did.
    `named` has the ids that some of these asked for, and their log-probabilities, by index into `told`.
    """

    ids: Tensor
    problems: Tensor
    told: IntArray
    counts: IntArray
    logprobs: TopLogprobs | None
    named: dict[int, tuple[list[int], Tensor]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        """Everything of it that is on the device."""
        told = [] if self.logprobs is None else [self.logprobs.ids, self.logprobs.values, self.logprobs.ranks]
        return [self.ids, self.problems, *told, *(values for _, values in self.named.values())]

    def on_host(self, tensors: Sequence[Tensor]) -> Sampled:
        """The same with the host's copies of its `tensors`."""
        ids, problems, *rest = tensors
        logprobs = None if self.logprobs is None else TopLogprobs(*rest[:3])
        values = rest[3:]
        named = {j: (told, values[i]) for i, (j, (told, _)) in enumerate(self.named.items())}
        return replace(self, ids=ids, problems=problems, logprobs=logprobs, named=named)


class Sampler:
    """Chooses one token per row: processors, then the likeliest, or temperature, min-p, top-k, top-p and a draw.

    A draw takes a number that depends on the row's seed and the token's position alone.
    """

    def __init__(
        self,
        table: Rows,
        parameters: Parameters,
        processors: tuple[LogitsProcessor, ...],
        step_logits: Callable[[Tensor], StepLogits] = step_logits,
        custom: CustomProcessors | None = None,
        named: NamedIds | None = None,
    ) -> None:
        self._vocab_size = table.sizes.vocab_size
        self._parameters = parameters
        self._processors = processors
        self._step_logits = step_logits
        self._custom = custom or CustomProcessors(table, {})
        self._named = named or NamedIds(table)
        self._asking: set[int] = set()  # rows that want more than their likeliest token
        self._hosted: set[int] = set()  # of these, rows that want more than a draw

    def admit(self, row: int, new: NewRow) -> None:
        """Note whether a row asks for anything; parameters and processors must know it already."""
        rows = np.array([row])
        asks = self._parameters.logprobs[row] != NO_LOGPROBS
        if asks or self._custom.active(rows) or any(processor.active(rows) for processor in self._processors):
            self._hosted.add(row)
            self._asking.add(row)
        elif self._parameters.random[row]:
            self._asking.add(row)

    def drop(self, row: int) -> None:
        """Forget a row."""
        self._asking.discard(row)
        self._hosted.discard(row)

    def flush(self) -> None:
        """Nothing is staged."""

    def needs_host(self, rows: IntArray) -> bool:
        """Whether one of `rows` asks for more than the likeliest token or a draw."""
        return bool(self._hosted) and not self._hosted.isdisjoint(rows.tolist())

    def reads_history(self, rows: IntArray) -> bool:
        """Whether sampling `rows` needs the ids of all their earlier tokens on the host."""
        if not self._asking:
            return False
        return self._custom.active(rows) or any(p.reads_history and p.active(rows) for p in self._processors)

    def __call__(self, logits: Tensor, rows: IntArray, positions: IntArray, mask: Mask | None = None) -> Sampled:
        """Sample a token for each of rows [L] at positions [L]; logits [L, >= V] float32 are overwritten.

        mask [L, ceil(V / 32)]: bit i of the row's bits, least significant first, allows token i.
        """
        step = self._step_logits(logits[:, : self._vocab_size])
        problems = step.broken()
        if mask is None and self._asking.isdisjoint(rows.tolist()):
            return Sampled(step.ids, problems, NOBODY, NOBODY, None)
        counts = self._parameters.logprobs[rows]
        told = np.flatnonzero(counts != NO_LOGPROBS)
        raw, asked = step, told
        edits = [edit for p in self._processors if p.active(rows) for edit in p.edits(rows, positions)]
        runs_custom = self._custom.active(rows)
        errors: dict[int, str] = {}
        if edits or mask is not None or runs_custom:
            if len(told):
                raw, asked = step.copy(told), np.arange(len(told))
            if edits or mask is not None:
                step.edit(edits, mask)
            if runs_custom:
                errors = self._custom.apply(step, rows, positions)
            problems[(problems == FINE) & (step.top == MINUS_INF)] = NOTHING_LEFT
        draws = self._parameters.draws(rows, positions)
        if draws is not None:
            step.draw(draws)
        logprobs, named = None, {}
        if len(told):
            own = step.ids[sent(told, step.ids.device)]
            logprobs = raw.top_logprobs(asked, own, most(counts[told].tolist()))
            named = self._named.values(raw, rows[told], asked, logprobs)
        return Sampled(step.ids, problems, told, counts[told], logprobs, named, errors)
