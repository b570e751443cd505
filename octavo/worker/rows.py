"""The worker's persistent rows: what it remembers of each running sequence between steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo.errors import InvalidRequest, OctavoError
from octavo.messages import BatchMessage, NewRow, RowWork

IntArray = NDArray[np.int64]
S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class Sizes:
    """The bounds of a worker: rows, tokens per step, tokens per row, tokens per page, and token ids it may meet."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    page_size: int
    vocab_size: int

    @property
    def max_pages(self) -> int:
        """Pages of the longest row."""
        return -(-self.max_model_len // self.page_size)


class RowState(Protocol):
    """Anything kept per row. `admit` raises InvalidRequest when the row asks for something impossible."""

    def admit(self, row: int, new: NewRow) -> None:
        """Take over a slot for a new sequence."""
        ...

    def drop(self, row: int) -> None:
        """Forget a slot; one that was never admitted is ignored."""
        ...

    def flush(self) -> None:
        """Staged host writes reach the device; called once per step, before the forward pass."""
        ...


class RowFields:
    """Arrays with one entry per row, each registered with its reset value: no owner of a slot inherits anything (R52).

    With `poison`, a dropped slot is filled with each field's poison value: what reads it shows.
    """

    def __init__(self, num_rows: int, poison: bool = False) -> None:
        self.num_rows = num_rows
        self.poison = poison
        self._fields: list[tuple[NDArray[np.generic], float, float]] = []

    def add(self, dtype: type[S], reset: float, poison: float, width: int | None = None) -> NDArray[S]:
        """A new field [rows] or [rows, width], filled with its reset value (or poison)."""
        array = np.zeros(self.num_rows if width is None else (self.num_rows, width), dtype)
        if self.poison or reset != 0:
            array[:] = poison if self.poison else reset
        self._fields.append((array, reset, poison))
        return array

    def reset(self, row: int) -> None:
        """Every field of `row` to its reset value."""
        for array, reset, _ in self._fields:
            array[row] = reset

    def spoil(self, row: int) -> None:
        """Every field of a freed `row` to poison, when that is wanted."""
        if self.poison:
            for array, _, poison in self._fields:
                array[row] = poison


class Rows:
    """Token ids, positions and page tables of every running sequence; applies the step message's delta.

    tokens [R, max_model_len] int32, of which row r knows `known[r]`; `total[r]` also counts the tokens sampled by steps
    whose ids have not reached the host. `computed[r]` positions have been launched. pages[g] [R, max_pages] int32, -1
    beyond `num_pages[g][r]`. `errors` has those that could not be admitted; such a row computes harmlessly.
    `extensions` are what the latest message added to page tables: group, row, index of the first entry, entries.
    """

    def __init__(self, sizes: Sizes, num_groups: int, fields: RowFields) -> None:
        self.sizes = sizes
        self.fields = fields
        self.tokens = fields.add(np.int32, 0, -1, sizes.max_model_len)
        self.known = fields.add(np.int64, 0, -1)
        self.total = fields.add(np.int64, 0, -1)
        self.computed = fields.add(np.int64, 0, -1)
        self.prompt_len = fields.add(np.int64, 0, -1)
        self.pages = [fields.add(np.int32, -1, -1, sizes.max_pages) for _ in range(num_groups)]
        self.num_pages = [fields.add(np.int64, 0, 1 << 40) for _ in range(num_groups)]
        self.life = np.zeros(sizes.max_num_seqs, np.int64)  # owners a slot has had; outlives them, so not a field
        self.index: dict[int, int] = {}
        self.errors: dict[int, OctavoError] = {}
        self.extensions: list[tuple[int, int, int, list[int]]] = []
        self.states: Sequence[RowState] = ()
        self._free = list(range(sizes.max_num_seqs - 1, -1, -1))

    def apply(self, batch: BatchMessage) -> IntArray:
        """Drop, admit and extend as the message says; return the slot of each of its rows [S]."""
        self.extensions.clear()
        for id in batch.gone:
            self.drop(id)
        for work in batch.rows:
            if work.new is not None:
                self.admit(work.id, work.new)
        index = self.index
        rows = np.array([index[work.id] for work in batch.rows], np.int64)
        for work, row in zip(batch.rows, rows.tolist(), strict=True):
            if any(work.new_pages):
                self._extend(row, work)
        for state in self.states:
            state.flush()
        return rows

    def admit(self, id: int, new: NewRow) -> None:
        """Give a slot to a sequence; a second life of one that is still here replaces the first."""
        self.drop(id)
        if not self._free:
            raise RuntimeError(f"no free row for sequence {id}: all {self.sizes.max_num_seqs} are taken")
        row = self._free.pop()
        self.index[id] = row
        self.life[row] += 1
        self.fields.reset(row)
        tokens = np.frombuffer(new.tokens, np.int32)
        assert len(tokens) <= self.sizes.max_model_len, (id, len(tokens), self.sizes.max_model_len)
        self.known[row] = self.total[row] = len(tokens)
        self.computed[row] = new.computed
        self.prompt_len[row] = len(new.spec.tokens) // 4
        self.tokens[row, : len(tokens)] = tokens
        try:
            check_tokens(tokens, self.sizes.vocab_size)
            for state in self.states:
                state.admit(row, new)
        except OctavoError as error:
            self._neutralize(row, error)

    def drop(self, id: int) -> None:
        """Free the slot of a sequence; unknown ids are ignored."""
        row = self.index.pop(id, None)
        if row is None:
            return
        for state in self.states:
            state.drop(row)
        self.errors.pop(row, None)
        self.fields.spoil(row)
        self.life[row] += 1
        self._free.append(row)

    def settle(self, rows: IntArray, lives: IntArray, positions: IntArray, ids: IntArray) -> None:
        """Write sampled `ids` at `positions` of those `rows` that still have the owner they were sampled for."""
        alive = (self.life[rows] == lives) & (positions < self.sizes.max_model_len)
        if np.count_nonzero(alive) < len(rows):
            rows, positions, ids = rows[alive], positions[alive], ids[alive]
        self.tokens[rows, positions] = ids
        self.known[rows] = positions + 1

    def _extend(self, row: int, work: RowWork) -> None:
        for group, pages in enumerate(work.new_pages):
            if pages:
                start = int(self.num_pages[group][row])
                self.pages[group][row, start : start + len(pages)] = pages
                self.num_pages[group][row] = start + len(pages)
                self.extensions.append((group, row, start, pages))

    def _neutralize(self, row: int, error: OctavoError) -> None:
        # Its tokens must still be computed, because the scheduler counts on the step as it is; they may be any.
        self.errors[row] = error
        self.tokens[row] = 0
        for state in self.states:
            state.drop(row)


def check_tokens(tokens: NDArray[np.int32], vocab_size: int) -> None:
    """Raise InvalidRequest for a token outside [0, vocab_size): no embedding may be indexed with it (R53)."""
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab_size):
        wrong = tokens[(tokens < 0) | (tokens >= vocab_size)][0]
        raise InvalidRequest(f"prompt has token id {wrong}, outside the vocabulary [0, {vocab_size})", "prompt")
