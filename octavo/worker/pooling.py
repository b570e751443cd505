"""Rows that are pooled instead of continued: what is kept of their hidden states, and what is made of it.

last   the newest token's state            needs nothing from earlier chunks
cls    the first token's state             kept when the first chunk has been computed
mean   the sum of all tokens' states       added up token by token in float64, so that chunks do not show
tokens every token's state                 collected
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from octavo.errors import InvalidRequest, OctavoError
from octavo.forward import ForwardBatch
from octavo.layers.pooling import Heads
from octavo.messages import NewRow
from octavo.pooling import PoolingWork
from octavo.spec import Pooled
from octavo.worker.inputs import StepInputs

CANNOT = "this engine's model cannot do this"


class Forward(Protocol):
    """A model whose hidden states are pooled."""

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] of the step's tokens."""
        ...


@dataclass
class PooledRow:
    """One row: what is wanted of it, how, and the states [n, H] that its chunks left so far (of tokens)."""

    work: PoolingWork
    kind: Pooled
    states: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Share:
    """A pooled row's part of a step: its index in the step, its slot, its tokens, and where they are in the prompt."""

    index: int
    slot: int
    row: PooledRow
    start: int
    stop: int
    position: int
    is_last: bool


class PoolingRows:
    """The pooled rows of a worker. Implements RowState; `heads` None: the model does nothing of the kind."""

    def __init__(self, max_rows: int, heads: Heads | None, device: torch.device) -> None:
        self.heads = heads or Heads()
        self.can_pool = heads is not None
        self.max_rows = max_rows
        self.device = device
        self.rows: dict[int, PooledRow] = {}
        # A row that could not be admitted is not here, but an encoder has no logits to compute for it either.
        self.is_always_asked = not self.heads.generates
        self._kept: Tensor | None = None  # [R, H] float64: sums, or first tokens

    @property
    def is_asked(self) -> bool:
        """Whether a step may hold rows to pool."""
        return bool(self.rows) or self.is_always_asked

    def admit(self, row: int, new: NewRow) -> None:
        work = new.spec.pooling
        if work is None:
            if not self.heads.generates:
                raise InvalidRequest("this model cannot generate text", "model")
            return
        classifies = work.task in ("classify", "token_classify")
        if not self.can_pool or (classifies and self.heads.classifier is None):
            raise InvalidRequest(f"{CANNOT}: {work.task}", "task")
        kind = self.heads.classifier.spec.pooled if classifies and self.heads.classifier else self.heads.kind
        if new.computed and (work.per_token or kind != "last"):
            raise OctavoError(f"{new.computed} tokens of the prompt were not computed, but all are needed")
        self.rows[row] = PooledRow(work, kind)

    def drop(self, row: int) -> None:
        self.rows.pop(row, None)

    def flush(self) -> None:
        """Nothing is staged."""

    def run(self, model: Forward, step: StepInputs) -> tuple[StepInputs, Tensor, dict[int, Tensor]]:
        """Compute a step; returns what is left of it to sample, its hidden states, and results by row of the step."""
        shares = self._shares(step)
        if self.heads.num_places:
            self._mark_second_texts(step.forward.positions, shares)
        hidden = model.forward(step.forward)
        self._keep(hidden, shares)
        done = [share for share in shares if share.is_last]
        results = self._finish(hidden, done)
        left = np.array([self.heads.generates and i not in results for i in step.emitting.tolist()], np.bool_)
        rest = replace(
            step,
            emitting=step.emitting[left],
            emit_rows=step.emit_rows[left],
            emit_tokens=step.emit_tokens[left],
            positions=step.positions[left],
        )
        return rest, hidden, results

    def _shares(self, step: StepInputs) -> list[Share]:
        starts, lengths = step.forward.host_starts, step.forward.host_lengths
        emits = set(step.emitting.tolist())
        return [
            Share(
                i, slot, self.rows[slot], starts[i], starts[i + 1], lengths[i] - starts[i + 1] + starts[i], i in emits
            )
            for i, slot in enumerate(step.rows.tolist())
            if slot in self.rows
        ]

    def _mark_second_texts(self, positions: Tensor, shares: list[Share]) -> None:
        for share in shares:
            second = share.row.work.second_from
            if second:
                positions[max(share.start, share.start + second - share.position) : share.stop] += self.heads.num_places

    def _keep(self, hidden: Tensor, shares: list[Share]) -> None:
        """Take from this step what later ones need."""
        summed: list[Share] = []
        for share in shares:
            if share.row.work.per_token:
                share.row.states.append(hidden[share.start : share.stop].float().clone())
            elif share.row.kind == "cls" and share.position == 0:
                self._memory(hidden)[share.slot] = hidden[share.start].double()
            elif share.row.kind == "mean":
                summed.append(share)
        if not summed:
            return
        sums = self._memory(hidden)
        fresh = [share.slot for share in summed if share.position == 0]
        if fresh:
            sums[self._on_device(fresh)] = 0
        counts = [share.stop - share.start for share in summed]
        owners = np.repeat([share.slot for share in summed], counts)
        if sum(counts) < hidden.shape[0]:
            hidden = hidden[self._on_device(np.concatenate([np.arange(s.start, s.stop) for s in summed]))]
        # One token after the other, in order, beginning with the sum so far.
        sums.index_add_(0, self._on_device(owners), hidden.double())

    def _finish(self, hidden: Tensor, done: list[Share]) -> dict[int, Tensor]:
        """What is made of the prompts that are complete now, float32, by row of the step."""
        results: dict[int, Tensor] = {}
        vectors = [share for share in done if not share.row.work.per_token]
        for share in done:
            if share.row.work.per_token:
                results[share.index] = self._of_tokens(share.row)
        if not vectors:
            return results
        pooled = self._pooled(hidden, vectors)
        groups: dict[tuple[str, int, bool], list[int]] = {}
        for i, share in enumerate(vectors):
            work = share.row.work
            groups.setdefault((work.task, work.dimensions, work.activate), []).append(i)
        for (task, dimensions, activate), members in groups.items():
            x = pooled if len(members) == len(vectors) else pooled[self._on_device(members)]
            made = self.heads.embeddings(x, dimensions, activate) if task == "embed" else self.heads.scores(x, activate)
            for i, row in zip(members, made, strict=True):
                results[vectors[i].index] = row
        return results

    def _of_tokens(self, row: PooledRow) -> Tensor:
        states = torch.cat(row.states)
        if row.work.task == "token_embed":
            return self.heads.embeddings(states, row.work.dimensions, row.work.activate)
        return self.heads.scores(states, row.work.activate)

    def _pooled(self, hidden: Tensor, vectors: list[Share]) -> Tensor:
        """One vector per row, [E, H] float32."""
        last = hidden[self._on_device([share.stop - 1 for share in vectors])].float()
        kept = [i for i, share in enumerate(vectors) if share.row.kind != "last"]
        if kept:
            sizes = [vectors[i].position + vectors[i].stop - vectors[i].start for i in kept]
            counts = [size if vectors[i].row.kind == "mean" else 1 for i, size in zip(kept, sizes, strict=True)]
            memory = self._memory(hidden)[self._on_device([vectors[i].slot for i in kept])]
            last[self._on_device(kept)] = (memory / self._on_device(counts)[:, None]).float()
        return last

    def _memory(self, hidden: Tensor) -> Tensor:
        if self._kept is None:
            self._kept = torch.zeros(self.max_rows, hidden.shape[1], dtype=torch.float64, device=self.device)
        return self._kept

    def _on_device(self, ids: object) -> Tensor:
        there = torch.from_numpy(np.asarray(ids, np.int64))
        if self.device.type == "cpu":
            return there
        return there.pin_memory().to(self.device, non_blocking=True)  # unpinned, it would wait for the step in flight
