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


@dataclass(slots=True)
class Layout:
    """A step's numbers, as the host knows them: all but the tokens that have not reached it.

    rows [S] are slots, starts [S + 1] and lengths [S] as in ForwardBatch. Token t (of T) is row owner[t]'s, whose slot
    is slots_of[t], at positions[t]. What is sampled and what is told of prompts is as in StepInputs.
    """

    rows: IntArray
    starts: NDArray[np.int32]
    lengths: IntArray
    owner: IntArray
    slots_of: IntArray
    positions: IntArray
    emitting: IntArray
    emit_rows: IntArray
    emit_tokens: NDArray[np.signedinteger]
    ends: IntArray
    prompt: tuple[IntArray, IntArray, IntArray]

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.positions)

    @property
    def is_decode(self) -> bool:
        """Whether every row computes one token, a token is sampled after each, and nothing else is asked."""
        return len(self.positions) == len(self.rows) == len(self.emitting) and self.prompt[0] is NONE

    def step(self, forward: ForwardBatch) -> StepInputs:
        """The whole step."""
        emit_tokens = self.emit_tokens.astype(np.int64)
        return StepInputs(forward, self.rows, self.emitting, self.emit_rows, emit_tokens, self.ends, *self.prompt)


class Layouts:
    """Lays out one step after the other, in arrays that the next one overwrites, and advances the rows."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._starts = np.zeros(rows.sizes.max_num_seqs + 1, np.int32)
        self._range = np.arange(rows.sizes.max_num_seqs + 1)  # never written

    def next(self, batch: BatchMessage, rows: IntArray, wants_prompt: NDArray[np.bool_]) -> Layout:
        """Lay out a step of `rows` [S]; `wants_prompt` [S] marks those whose prompt positions need logits."""
        # A numpy call takes about as long as a list of dozens: small things are done in Python.
        num_rows = len(rows)
        counts = [work.num_tokens for work in batch.rows]
        emits = [work.emit for work in batch.rows]
        total = sum(counts)
        starts = self._starts[: num_rows + 1]
        before = self.rows.computed[rows]
        lengths = before + counts
        if total == num_rows:
            starts[:] = self._range[: num_rows + 1]
            owner, positions, slots_of = self._range[:num_rows], before, rows
        else:
            np.cumsum(counts, out=starts[1:])
            owner = np.repeat(self._range[:num_rows], counts)
            positions = np.arange(total) - starts[owner] + before[owner]
            slots_of = rows[owner]
        prompt = self._prompt(owner, positions, slots_of, wants_prompt)
        if all(emits):
            emitting, emit_rows, ends, emit_tokens = self._range[:num_rows], rows, lengths, starts[1:] - 1
        else:
            emitting = np.flatnonzero(emits)
            emit_rows, ends, emit_tokens = rows[emitting], lengths[emitting], starts[1:][emitting] - 1
        return Layout(rows, starts, lengths, owner, slots_of, positions, emitting, emit_rows, emit_tokens, ends, prompt)

    def advance(self, step: Layout) -> None:
        """The rows have computed this step."""
        state, rows, lengths, emitting = self.rows, step.rows, step.lengths, step.emitting
        left = state.total[rows] - lengths
        if len(emitting) < len(rows):
            assert left.min() >= 0, (lengths.tolist(), state.total[rows].tolist())
            left = left[emitting]
        assert not np.count_nonzero(left), "a row may emit only once all its tokens are computed"
        state.computed[rows] = lengths
        state.total[step.emit_rows] += 1

    def _prompt(
        self, owner: IntArray, positions: IntArray, slots_of: IntArray, wants_prompt: NDArray[np.bool_]
    ) -> tuple[IntArray, IntArray, IntArray]:
        if not np.count_nonzero(wants_prompt):
            return NONE, NONE, NONE
        # The logits at position p tell the token at p + 1, as long as that one is still prompt.
        at = np.flatnonzero(wants_prompt[owner] & (positions + 1 < self.rows.prompt_len[slots_of]))
        return (owner[at], at, positions[at] + 1) if len(at) else (NONE, NONE, NONE)


class Inputs:
    """Builds each step's inputs in preallocated host arrays, which the next step overwrites.

    On a CPU the model reads those arrays themselves, so that a step that decodes as many rows as the one before, with
    page tables as wide, gets the same ForwardBatch.
    """

    def __init__(self, rows: Rows, device: torch.device, caches: list[Tensor]) -> None:
        sizes = rows.sizes
        self.rows = rows
        self.device = device
        self.caches = caches
        self.layouts = Layouts(rows)
        # The token each row sampled last, on the device: a step launched before its id reached the host reads it here.
        self.last = torch.zeros(sizes.max_num_seqs, dtype=torch.int32, device=device)
        self._tokens = np.zeros(sizes.max_num_batched_tokens, np.int32)
        self._positions = np.zeros(sizes.max_num_batched_tokens, np.int32)
        self._slots = [np.zeros(sizes.max_num_batched_tokens, np.int64) for _ in rows.pages]
        self._tables = [np.zeros(sizes.max_num_seqs * sizes.max_pages, np.int32) for _ in rows.pages]
        self._lengths = np.zeros(sizes.max_num_seqs, np.int32)
        self._reuses = device.type == "cpu"
        self._decoded: tuple[int, int] | None = None  # rows and pages of the step that `_forward` was made for
        self._forward: ForwardBatch | None = None

    def build(self, batch: BatchMessage, rows: IntArray, wants_prompt: NDArray[np.bool_]) -> StepInputs:
        """As Layouts.next, with the batch, and the rows are advanced."""
        step = self.layouts.next(batch, rows, wants_prompt)
        num_rows, total, positions = len(rows), step.num_tokens, step.positions
        self._tokens[:total] = self.rows.tokens[step.slots_of, positions]
        self._positions[:total] = positions
        self._lengths[:num_rows] = step.lengths
        host_lengths: list[int] = step.lengths.tolist()
        num_pages = -(-max(host_lengths) // self.rows.sizes.page_size)
        self._fill_groups(rows, step.slots_of, positions, num_pages)
        shape = (num_rows, num_pages) if step.is_decode else None
        if shape is None or shape != self._decoded or self._forward is None:
            emit_tokens, prompt = step.emit_tokens, step.prompt
            logit_rows = emit_tokens if prompt[0] is NONE else np.sort(np.concatenate((emit_tokens, prompt[1])))
            self._forward = self._batch(step.starts, total, num_pages, logit_rows.astype(np.int64))
            self._decoded = shape if self._reuses else None
        forward = self._forward
        forward.host_lengths = host_lengths
        for group in forward.groups:
            group.plan = None  # it was the step's before
        self._put_late_tokens(forward.tokens, step)
        self.layouts.advance(step)
        return step.step(forward)

    def _batch(self, starts: NDArray[np.int32], total: int, num_pages: int, logit_rows: IntArray) -> ForwardBatch:
        """The step that the host arrays hold, where the model can read it."""
        groups, num_rows = [], len(starts) - 1
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

    def _put_late_tokens(self, tokens: Tensor, step: Layout) -> None:
        is_late = step.lengths > self.rows.known[step.rows]  # at most a row's last token is not on the host yet
        if np.count_nonzero(is_late):
            late = np.flatnonzero(is_late)
            at = self._to_device(step.starts[late + 1].astype(np.int64) - 1)
            tokens[at] = self.last[self._to_device(step.rows[late])]

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
