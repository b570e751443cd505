"""A step's inputs on a GPU: the host says which rows and how long, the device makes the rest of what it keeps."""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from octavo.forward import ForwardBatch
from octavo.messages import BatchMessage
from octavo.worker.graphs.buckets import Buckets
from octavo.worker.inputs import Layout, Layouts, StepInputs
from octavo.worker.resident import LATE, Resident, Staging
from octavo.worker.rows import IntArray, Rows


class ResidentInputs:
    """Builds each step's inputs in the tensors of `resident`, and advances the rows.

    What is queued here: one copy of a few words per row, and for a step that is not replayed also what makes page
    tables, tokens, positions and slots of them; a replayed step does that itself.
    """

    def __init__(self, rows: Rows, resident: Resident, caches: list[Tensor], buckets: Buckets) -> None:
        self.rows = rows
        self.resident = resident
        self.caches = caches
        self.buckets = buckets
        self.layouts = Layouts(rows)
        self._range = list(range(rows.sizes.max_num_seqs + 1))
        self._decoding: dict[int, ForwardBatch] = {}  # by number of rows

    def build(self, batch: BatchMessage, rows: IntArray, wants_prompt: NDArray[np.bool_]) -> StepInputs:
        """As Layouts.next, with the batch, and the rows are advanced."""
        resident = self.resident
        step = self.layouts.next(batch, rows, wants_prompt)
        bucket = self.buckets.of(len(rows)) if step.is_decode else None
        staging = resident.stage()
        num_entries = self._put_entries(staging, bucket)
        self._fill(staging, step, bucket)
        resident.upload(staging, step.num_tokens if bucket is None else bucket)
        if bucket is None:
            if num_entries:
                resident.extend(num_entries)
            resident.lay_out(step.num_tokens, len(rows))
        forward = self._batch(step, bucket)
        self.layouts.advance(step)
        return step.step(forward)

    def _put_entries(self, staging: Staging, bucket: int | None) -> int:
        """Put the new page table entries into the words; returns how many are there.

        A replayed step writes a fixed number of them; what has no place there is written before it.
        """
        resident, extensions = self.resident, self.rows.extensions
        room = len(staging.at) if bucket is None else bucket * resident.num_groups
        count = sum(len(pages) for *_, pages in extensions)
        if count:
            width, num_rows = resident.sizes.max_pages, resident.nobody + 1
            firsts = [((group * num_rows + row) * width + start, len(new)) for group, row, start, new in extensions]
            at = list(chain.from_iterable(range(first, first + more) for first, more in firsts))
            pages = list(chain.from_iterable(new for *_, new in extensions))
            if count <= room:
                staging.at[:count], staging.pages[:count] = at, pages
            else:
                resident.put_pages(at, pages)
                count = 0
        if bucket is not None:
            staging.at[count:room] = resident.no_entry
        return count

    def _fill(self, staging: Staging, step: Layout, bucket: int | None) -> None:
        num_rows, num_tokens, num_emitting = len(step.rows), step.num_tokens, len(step.emitting)
        staging.rows[:num_rows] = step.rows
        staging.lengths[:num_rows] = step.lengths
        staging.starts[: num_rows + 1] = step.starts
        given = staging.given[:num_tokens]
        given[:] = self.rows.tokens[step.slots_of, step.positions]
        late = np.flatnonzero(step.lengths > self.rows.known[step.rows])  # at most a row's last token
        if len(late):
            given[step.starts[late + 1] - 1] = LATE
        staging.emit_rows[:num_emitting] = step.emit_rows
        staging.emit_positions[:num_emitting] = step.ends
        if bucket is not None:
            nobody = self.resident.nobody
            staging.rows[num_rows:bucket] = nobody
            staging.lengths[num_rows:bucket] = 0
            staging.starts[num_rows + 1 : bucket + 1] = self._range[num_rows + 1 : bucket + 1]
        sampled = self.buckets.of(num_emitting)
        if sampled is not None:
            staging.emit_rows[num_emitting:sampled] = self.resident.nobody

    def _batch(self, step: Layout, bucket: int | None) -> ForwardBatch:
        num_rows = len(step.rows)
        forward = self._decoding.get(num_rows) if bucket is not None else None
        if forward is None:
            forward = self.resident.batch(step.num_tokens, num_rows, self.caches)
            forward.host_starts = step.starts.tolist()
            forward.bucket = bucket
            if bucket is not None:
                self._decoding[num_rows] = forward
        forward.host_lengths = step.lengths.tolist()
        return forward
