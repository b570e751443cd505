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

    `rows` [S] are slots. `emitting` [E] are indices into the step's rows, `emit_rows` [E] their slots, `emit_tokens`
    [E] their last tokens (of T), and `positions` [E] those their samples will have. Tokens `prompt_tokens` [Q] (of T)
    predict the prompt positions `prompt_targets` [Q] of the step's rows `prompt_rows` [Q].
    """

    forward: ForwardBatch
    rows: IntArray
    emitting: IntArray
    emit_rows: IntArray
    emit_tokens: IntArray
    positions: IntArray
    prompt_rows: IntArray
    prompt_tokens: IntArray
    prompt_targets: IntArray


NONE: IntArray = np.zeros(0, np.int64)


class Inputs:
    """Builds each step's inputs in preallocated host arrays, which the next step overwrites, and advances the rows.

    On a CPU the model reads those arrays themselves, so that a step that decodes as many rows as the one before, with
    page tables as wide, gets the same ForwardBatch.
    """

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
        self._lengths = np.zeros(sizes.max_num_seqs, np.int32)
        self._range = np.arange(sizes.max_num_seqs + 1)  # never written
        self._reuses = device.type == "cpu"
        self._decoded: tuple[int, int] | None = None  # rows and pages of the step that `_forward` was made for
        self._forward: ForwardBatch | None = None

    def build(self, batch: BatchMessage, rows: IntArray, wants_prompt: NDArray[np.bool_]) -> StepInputs:
        """Lay out a step of `rows` [S]; `wants_prompt` [S] marks those whose prompt positions need logits."""
        # A numpy call takes about as long as a list of dozens: small things are done in Python.
        state, num_rows = self.rows, len(rows)
        counts = [work.num_tokens for work in batch.rows]
        emits = [work.emit for work in batch.rows]
        total = sum(counts)
        starts = self._starts[: num_rows + 1]
        before = state.computed[rows]
        lengths = before + counts
        if total == num_rows:
            starts[:] = self._range[: num_rows + 1]
            owner, positions, slots_of = self._range[:num_rows], before, rows
        else:
            np.cumsum(counts, out=starts[1:])
            owner = np.repeat(self._range[:num_rows], counts)
            positions = np.arange(total) - starts[owner] + before[owner]
            slots_of = rows[owner]
        self._tokens[:total] = state.tokens[slots_of, positions]
        self._positions[:total] = positions
        self._lengths[:num_rows] = lengths
        prompt = self._prompt(owner, positions, slots_of, wants_prompt)
        if all(emits):
            emitting, emit_rows, ends, emit_tokens = owner, rows, lengths, starts[1:] - 1
            if total != num_rows:
                emitting = self._range[:num_rows]
        else:
            emitting = np.flatnonzero(emits)
            emit_rows, ends, emit_tokens = rows[emitting], lengths[emitting], starts[1:][emitting] - 1
        host_lengths: list[int] = lengths.tolist()
        num_pages = -(-max(host_lengths) // state.sizes.page_size)
        self._fill_groups(rows, slots_of, positions, num_pages)
        shape = (num_rows, num_pages) if total == num_rows == len(emitting) and prompt[0] is NONE else None
        if shape is None or shape != self._decoded or self._forward is None:
            logit_rows = emit_tokens if prompt[0] is NONE else np.sort(np.concatenate((emit_tokens, prompt[1])))
            self._forward = self._batch(total, num_rows, num_pages, logit_rows.astype(np.int64))
            self._decoded = shape if self._reuses else None
        forward = self._forward
        forward.host_lengths = host_lengths
        self._put_late_tokens(forward.tokens, rows, starts, lengths)
        self._advance(rows, lengths, emitting, emit_rows)
        return StepInputs(forward, rows, emitting, emit_rows, emit_tokens.astype(np.int64), ends, *prompt)

    def _batch(self, total: int, num_rows: int, num_pages: int, logit_rows: IntArray) -> ForwardBatch:
        """The step that the host arrays hold, where the model can read it."""
        starts = self._starts[: num_rows + 1]
        groups = []
        for tables, slots in zip(self._tables, self._slots, strict=True):
            table = tables[: num_rows * num_pages].reshape(num_rows, num_pages)
            page_size = self.rows.sizes.page_size
            groups.append(GroupInputs(self._to_device(table), self._to_device(slots[:total]), page_size))
        return ForwardBatch(
            tokens=self._to_device(self._tokens[:total]),
            positions=self._to_device(self._positions[:total]),
            starts=self._to_device(starts),
            lengths=self._to_device(self._lengths[:num_rows]),
            groups=groups,
            caches=self.caches,
            logit_rows=self._to_device(logit_rows),
            host_starts=starts.tolist(),
        )

    def _fill_groups(self, rows: IntArray, slots_of: IntArray, positions: IntArray, num_pages: int) -> None:
        page_size = self.rows.sizes.page_size
        page = positions // page_size
        for pages, tables, all_slots in zip(self.rows.pages, self._tables, self._slots, strict=True):
            table = tables[: len(rows) * num_pages].reshape(len(rows), num_pages)
            np.take(pages[:, :num_pages], rows, axis=0, out=table, mode="clip")
            slots = all_slots[: len(positions)]
            np.subtract(pages[slots_of, page], page, out=slots)
            slots *= page_size
            slots += positions

    def _advance(self, rows: IntArray, lengths: IntArray, emitting: IntArray, emit_rows: IntArray) -> None:
        state = self.rows
        left = state.total[rows] - lengths
        if len(emitting) < len(rows):
            assert left.min() >= 0, (lengths.tolist(), state.total[rows].tolist())
            left = left[emitting]
        assert not np.count_nonzero(left), "a row may emit only once all its tokens are computed"
        state.computed[rows] = lengths
        state.total[emit_rows] += 1

    def _put_late_tokens(self, tokens: Tensor, rows: IntArray, starts: NDArray[np.int32], lengths: IntArray) -> None:
        is_late = lengths > self.rows.known[rows]  # at most a row's last token is not on the host yet
        if np.count_nonzero(is_late):
            late = np.flatnonzero(is_late)
            at = self._to_device(starts[late + 1].astype(np.int64) - 1)
            tokens[at] = self.last[self._to_device(rows[late])]

    def _prompt(
        self, owner: IntArray, positions: IntArray, slots_of: IntArray, wants_prompt: NDArray[np.bool_]
    ) -> tuple[IntArray, IntArray, IntArray]:
        if not np.count_nonzero(wants_prompt):
            return NONE, NONE, NONE
        # The logits at position p tell the token at p + 1, as long as that one is still prompt.
        at = np.flatnonzero(wants_prompt[owner] & (positions + 1 < self.rows.prompt_len[slots_of]))
        return (owner[at], at, positions[at] + 1) if len(at) else (NONE, NONE, NONE)

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
