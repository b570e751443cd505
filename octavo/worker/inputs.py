"""From a step message to what the model sees: tokens, positions, slots, page tables. Vectorized over the tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.forward import ForwardBatch, GroupInputs
from octavo.messages import BatchMessage
from octavo.worker.rows import IntArray, Rows


@dataclass(frozen=True)
class StepInputs:
    """A step laid out: the forward batch, and who gets which logits.

    `rows` [S] are slots. `emitting` [E] are indices into the step's rows, `emit_tokens` [E] their last tokens (of T),
    and `positions` [E] those their samples will have. Tokens `prompt_tokens` [Q] (of T) predict the prompt positions
    `prompt_targets` [Q] of the step's rows `prompt_rows` [Q].
    """

    forward: ForwardBatch
    rows: IntArray
    emitting: IntArray
    emit_tokens: IntArray
    positions: IntArray
    prompt_rows: IntArray
    prompt_tokens: IntArray
    prompt_targets: IntArray


NONE: IntArray = np.zeros(0, np.int64)


class Inputs:
    """Builds each step's inputs in preallocated host arrays, which the next step overwrites, and advances the rows."""

    def __init__(self, rows: Rows, device: torch.device, caches: list[Tensor]) -> None:
        sizes = rows.sizes
        self.rows = rows
        self.device = device
        self.caches = caches
        # The token each row sampled last, on the device: a step launched before its id reached the host reads it here.
        self.last = torch.zeros(sizes.max_num_seqs, dtype=torch.int32, device=device)
        self._tokens = np.zeros(sizes.max_num_batched_tokens, np.int32)
        self._positions = np.zeros(sizes.max_num_batched_tokens, np.int32)
        self._slots = [np.zeros(sizes.max_num_batched_tokens, np.int64) for _ in rows.pages]
        self._tables = [np.zeros(sizes.max_num_seqs * sizes.max_pages, np.int32) for _ in rows.pages]
        self._starts = np.zeros(sizes.max_num_seqs + 1, np.int32)

    def build(self, batch: BatchMessage, rows: IntArray, wants_prompt: NDArray[np.bool_]) -> StepInputs:
        """Lay out a step of `rows` [S]; `wants_prompt` [S] marks those whose prompt positions need logits."""
        state, num_rows = self.rows, len(rows)
        counts = np.array([work.num_tokens for work in batch.rows], np.int64)
        emits = np.array([work.emit for work in batch.rows], np.bool_)
        starts = self._starts[: num_rows + 1]
        np.cumsum(counts, out=starts[1:])
        total = int(starts[-1])
        before = state.computed[rows]
        lengths = before + counts
        if total == num_rows:
            owner, positions = np.arange(num_rows), before
        else:
            owner = np.repeat(np.arange(num_rows), counts)
            positions = np.arange(total) - starts[owner] + before[owner]
        slots_of = rows[owner]
        self._tokens[:total] = state.tokens[slots_of, positions]
        self._positions[:total] = positions
        prompt = self._prompt(owner, positions, slots_of, wants_prompt)
        emitting = np.flatnonzero(emits)
        emit_tokens = starts[1:][emitting] - 1
        logit_rows = emit_tokens if not len(prompt[0]) else np.sort(np.concatenate((emit_tokens, prompt[1])))
        forward = ForwardBatch(
            tokens=self._with_late_tokens(self._to_device(self._tokens[:total]), rows, starts, lengths),
            positions=self._to_device(self._positions[:total]),
            starts=self._to_device(starts),
            lengths=self._to_device(lengths.astype(np.int32)),
            groups=[self._group(g, rows, slots_of, positions, int(lengths.max())) for g in range(len(state.pages))],
            caches=self.caches,
            logit_rows=self._to_device(logit_rows.astype(np.int64)),
            host_starts=starts.tolist(),
            host_lengths=lengths.tolist(),
        )
        self._advance(rows, lengths, emitting)
        return StepInputs(forward, rows, emitting, emit_tokens.astype(np.int64), lengths[emitting], *prompt)

    def _advance(self, rows: IntArray, lengths: IntArray, emitting: IntArray) -> None:
        state = self.rows
        assert (lengths <= state.total[rows]).all(), (lengths.tolist(), state.total[rows].tolist())
        assert (lengths == state.total[rows])[emitting].all(), "a row may emit only once all its tokens are computed"
        state.computed[rows] = lengths
        state.total[rows[emitting]] += 1

    def _with_late_tokens(self, tokens: Tensor, rows: IntArray, starts: NDArray[np.int32], lengths: IntArray) -> Tensor:
        late = np.flatnonzero(lengths > self.rows.known[rows])  # at most its last token is not on the host yet
        if len(late):
            at = self._to_device(starts[late + 1].astype(np.int64) - 1)
            tokens[at] = self.last[self._to_device(rows[late])]
        return tokens

    def _group(self, g: int, rows: IntArray, slots_of: IntArray, positions: IntArray, longest: int) -> GroupInputs:
        pages, page_size = self.rows.pages[g], self.rows.sizes.page_size
        width = -(-longest // page_size)
        table = self._tables[g][: len(rows) * width].reshape(len(rows), width)
        np.take(pages[:, :width], rows, axis=0, out=table, mode="clip")
        page, offset = np.divmod(positions, page_size)
        slots = self._slots[g][: len(positions)]
        np.multiply(pages[slots_of, page], page_size, out=slots, dtype=np.int64)
        slots += offset
        return GroupInputs(self._to_device(table), self._to_device(slots), page_size)

    def _prompt(
        self, owner: IntArray, positions: IntArray, slots_of: IntArray, wants_prompt: NDArray[np.bool_]
    ) -> tuple[IntArray, IntArray, IntArray]:
        if not wants_prompt.any():
            return NONE, NONE, NONE
        # The logits at position p tell the token at p + 1, as long as that one is still prompt.
        at = np.flatnonzero(wants_prompt[owner] & (positions + 1 < self.rows.prompt_len[slots_of]))
        return owner[at], at, positions[at] + 1

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
