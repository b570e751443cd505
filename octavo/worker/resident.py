"""What a GPU keeps of the worker's rows, and the tensors that every step is laid out in. No address ever changes.

host                                        device
Staging  rows, lengths, tokens, new pages ──upload──▶ words
Rows     pages, known tokens                          tables, last      by row; kept from step to step
                                                      tokens, positions, slots, step_tables     by step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo import ops
from octavo.forward import ForwardBatch, GroupInputs
from octavo.platforms.accelerator import Accelerator, Mark, Recording
from octavo.worker.rows import IntArray, Sizes

BUFFERS = 3  # steps whose words may be on their way at once: one more than fly on a GPU
LATE = -1  # in the place of a token that was sampled and has not reached the host
Words = NDArray[np.int32]


@dataclass(frozen=True)
class Parts:
    """Where a step's words stand, [start, stop) each, most of all last, so that a short step is a short copy.

    rows, lengths [S] and starts [S + 1] are the step's, given [T] its tokens; emit_rows and emit_positions [S] say what
    is sampled; at and pages [S · G] are new entries of page tables.
    """

    rows: slice
    lengths: slice
    emit_rows: slice
    emit_positions: slice
    at: slice
    pages: slice
    starts: slice
    given: slice

    @classmethod
    def of(cls, sizes: Sizes, num_groups: int) -> Parts:
        rows, entries = sizes.max_num_seqs, sizes.max_num_seqs * num_groups
        counts = (rows, rows, rows, rows, entries, entries, rows + 1, sizes.max_num_batched_tokens)
        return cls(*(slice(a, b) for a, b in pairwise(accumulate(counts, initial=0))))


class Staging:
    """One step's words on the host, as arrays, in pinned memory."""

    def __init__(self, parts: Parts, accelerator: Accelerator) -> None:
        self.pinned = accelerator.pinned(parts.given.stop, torch.int32)
        words: Words = self.pinned.numpy()
        self.rows, self.lengths, self.starts = words[parts.rows], words[parts.lengths], words[parts.starts]
        self.emit_rows, self.emit_positions = words[parts.emit_rows], words[parts.emit_positions]
        self.at, self.pages, self.given = words[parts.at], words[parts.pages], words[parts.given]
        self.mark: Mark | None = None


class Resident:
    """The device's side of rows and steps. Row R = max_num_seqs is nobody's: it stands for the rows that pad a step."""

    def __init__(self, sizes: Sizes, num_groups: int, accelerator: Accelerator) -> None:
        num_rows, device = sizes.max_num_seqs, accelerator.device
        self.sizes = sizes
        self.num_groups = num_groups
        self.nobody = num_rows
        self.accelerator = accelerator
        width = sizes.max_pages
        self.last = torch.zeros(num_rows + 1, dtype=torch.int32, device=device)
        self.tables = torch.full((num_groups, num_rows + 1, width), -1, dtype=torch.int32, device=device)
        assert self.tables.numel() < 2**31, tuple(self.tables.shape)
        self.no_entry = num_rows * width  # in the table of nobody, in the first group
        tokens = sizes.max_num_batched_tokens
        self.tokens = torch.zeros(tokens, dtype=torch.int32, device=device)
        self.positions = torch.zeros(tokens, dtype=torch.int32, device=device)
        self.slots = torch.full((num_groups, tokens), -1, dtype=torch.int64, device=device)
        self.step_tables = torch.zeros((num_groups, num_rows, width), dtype=torch.int32, device=device)
        parts = self.parts = Parts.of(sizes, num_groups)
        self.words = torch.zeros(parts.given.stop, dtype=torch.int32, device=device)
        self.rows, self.lengths = self.words[parts.rows], self.words[parts.lengths]
        self.starts, self.given = self.words[parts.starts], self.words[parts.given]
        self.emit_rows, self.emit_positions = self.words[parts.emit_rows], self.words[parts.emit_positions]
        self.at, self.pages = self.words[parts.at], self.words[parts.pages]
        self._pool = accelerator.pool()
        self._buffers = [Staging(parts, accelerator) for _ in range(BUFFERS)]
        self._turn = 0

    def stage(self) -> Staging:
        """A buffer for the next step's words, which no copy reads any more."""
        self._turn = (self._turn + 1) % BUFFERS
        staging = self._buffers[self._turn]
        if staging.mark is not None:
            staging.mark.wait()
        return staging

    def upload(self, staging: Staging, num_tokens: int) -> None:
        """Queue the copy of a step of so many tokens."""
        count = self.parts.given.start + num_tokens
        self.accelerator.upload(staging.pinned[:count], self.words[:count])
        staging.mark = self.accelerator.mark()

    def pad(self) -> None:
        """Make the words those of a step in which every row is padding."""
        staging = self.stage()
        staging.rows[:] = staging.emit_rows[:] = self.nobody
        staging.lengths[:] = staging.emit_positions[:] = 0
        staging.starts[:] = np.arange(len(staging.starts))
        staging.at[:], staging.pages[:] = self.no_entry, -1
        self.upload(staging, self.sizes.max_num_batched_tokens)

    def put_pages(self, at: Sequence[int] | IntArray, pages: Sequence[int] | IntArray) -> None:
        """Write any number of page table entries, counted as `ops.extend_tables` does."""
        send = self.accelerator.send
        ops.extend_tables(self.tables, send(np.asarray(at, np.int32)), send(np.asarray(pages, np.int32)))

    def extend(self, num_entries: int) -> None:
        """Write the step's first so many entries of `at` and `pages` to the tables."""
        ops.extend_tables(self.tables, self.at[:num_entries], self.pages[:num_entries])

    def record(self, work: Callable[[], None]) -> Recording:
        """Record work on these tensors, which has run before, in the memory that all such recordings share."""
        return self.accelerator.record(work, self._pool)

    def lay_out(self, num_tokens: int, num_rows: int) -> None:
        """Make tokens, positions, slots and page tables of the words."""
        ops.lay_out(
            self.rows[:num_rows],
            self.starts[: num_rows + 1],
            self.lengths[:num_rows],
            self.given[:num_tokens],
            self.last,
            self.tables,
            self.sizes.page_size,
            self.tokens[:num_tokens],
            self.positions[:num_tokens],
            self.slots[:, :num_tokens],
            self.step_tables[:, :num_rows],
        )

    def batch(self, num_tokens: int, num_rows: int, caches: list[Tensor]) -> ForwardBatch:
        """The step that has been laid out, as the model sees it; the host lists are the caller's to fill."""
        page_size = self.sizes.page_size
        tables, slots = self.step_tables[:, :num_rows], self.slots[:, :num_tokens]
        return ForwardBatch(
            tokens=self.tokens[:num_tokens],
            positions=self.positions[:num_tokens],
            starts=self.starts[: num_rows + 1],
            lengths=self.lengths[:num_rows],
            groups=[GroupInputs(tables[g], slots[g], page_size) for g in range(self.num_groups)],
            caches=caches,
            logit_rows=self.starts[:0],  # the runner knows them
        )
