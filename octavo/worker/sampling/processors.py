"""Logits processors: allowed ids, bad words, minimum length, bias, penalties. `pipeline` is their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from octavo.errors import InvalidRequest
from octavo.messages import NewRow
from octavo.thinking import Thoughts
from octavo.worker.rows import IntArray, Rows, RowState
from octavo.worker.sampling.logits import Add, Edit, Exclude, Floats, Ids, KeepOnly, Penalize

Wish = TypeVar("Wish")


class LogitsProcessor(RowState, Protocol):
    """Has edits for the rows that ask for it; `reads_history` if it needs all their earlier ids on the host."""

    reads_history: bool

    def active(self, rows: IntArray) -> bool:
        """Whether any of `rows` asks for it; `edits` is skipped otherwise."""
        ...

    def edits(self, rows: IntArray, positions: IntArray) -> Iterator[Edit]:
        """What changes the step's logits [L, V]; rows [L] slots, positions [L] those of the tokens to sample."""
        ...


class Wishes(Generic[Wish]):
    """What the few rows that ask for something ask for, by slot."""

    def __init__(self) -> None:
        self._by_row: dict[int, Wish] = {}

    def set(self, row: int, wish: Wish) -> None:
        """Note what `row` asks for."""
        self._by_row[row] = wish

    def drop(self, row: int) -> None:
        """Forget a slot."""
        self._by_row.pop(row, None)

    def any(self, rows: IntArray) -> bool:
        """Whether one of `rows` asks."""
        return bool(self._by_row) and not self._by_row.keys().isdisjoint(rows.tolist())

    def among(self, rows: IntArray) -> Iterator[tuple[int, int, Wish]]:
        """Index into `rows`, slot and wish of each of them that asks."""
        for i, row in enumerate(rows.tolist()):
            if row in self._by_row:
                yield i, row, self._by_row[row]


def as_ids(ids: Sequence[int]) -> Ids:
    """Distinct ids in ascending order."""
    return np.unique(np.array(ids, np.int32))


def check_vocabulary(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Raise InvalidRequest for an id outside [0, vocab_size): no request's index reaches a kernel unchecked (R53)."""
    for id in ids:
        if not 0 <= id < vocab_size:
            raise InvalidRequest(f"{name} has token id {id}, outside the vocabulary [0, {vocab_size})", name)


class AllowedIds:
    """allowed_token_ids: every other token is excluded."""

    reads_history = False

    def __init__(self, table: Rows) -> None:
        self._vocab_size = table.sizes.vocab_size
        self._wishes: Wishes[Ids] = Wishes()

    def admit(self, row: int, new: NewRow) -> None:
        allowed = new.spec.sampling.allowed_token_ids
        if allowed is not None:
            check_vocabulary("allowed_token_ids", allowed, self._vocab_size)
            self._wishes.set(row, as_ids(allowed))

    def drop(self, row: int) -> None:
        self._wishes.drop(row)

    def flush(self) -> None:
        pass

    def active(self, rows: IntArray) -> bool:
        return self._wishes.any(rows)

    def edits(self, rows: IntArray, positions: IntArray) -> Iterator[Edit]:
        for i, _, allowed in self._wishes.among(rows):
            yield KeepOnly(i, allowed)


class BadWords:
    """bad_words: the last token of a sequence is excluded where its others were just generated."""

    reads_history = True

    def __init__(self, table: Rows) -> None:
        self._table = table
        self._wishes: Wishes[list[list[int]]] = Wishes()

    def admit(self, row: int, new: NewRow) -> None:
        words = [list(word) for word in new.spec.bad_words if word]
        for word in words:
            check_vocabulary("bad_words", word, self._table.sizes.vocab_size)
        if words:
            self._wishes.set(row, words)

    def drop(self, row: int) -> None:
        self._wishes.drop(row)

    def flush(self) -> None:
        pass

    def active(self, rows: IntArray) -> bool:
        return self._wishes.any(rows)

    def edits(self, rows: IntArray, positions: IntArray) -> Iterator[Edit]:
        for i, row, words in self._wishes.among(rows):
            longest = max(len(word) for word in words) - 1
            first = max(int(self._table.prompt_len[row]), int(positions[i]) - longest)
            recent = self._table.tokens[row, first : positions[i]].tolist()
            if excluded := [word[-1] for word in words if ends_with(recent, word[:-1])]:
                yield Exclude(i, as_ids(excluded))


def ends_with(tokens: list[int], end: list[int]) -> bool:
    """Whether `end` (perhaps empty) is the end of `tokens`."""
    return len(end) <= len(tokens) and tokens[len(tokens) - len(end) :] == end


class MinTokens:
    """min_tokens: end-of-sequence and stop tokens are excluded until so many tokens were generated."""

    reads_history = False

    def __init__(self, table: Rows) -> None:
        self._table = table
        self._wishes: Wishes[tuple[int, Ids]] = Wishes()

    def admit(self, row: int, new: NewRow) -> None:
        sampling = new.spec.sampling
        ends = sorted({*new.spec.eos, *(sampling.stop_token_ids or ())})
        check_vocabulary("stop_token_ids", ends, self._table.sizes.vocab_size)
        if sampling.min_tokens > 0 and ends:
            self._wishes.set(row, (int(self._table.prompt_len[row]) + sampling.min_tokens, as_ids(ends)))

    def drop(self, row: int) -> None:
        self._wishes.drop(row)

    def flush(self) -> None:
        pass

    def active(self, rows: IntArray) -> bool:
        return self._wishes.any(rows)

    def edits(self, rows: IntArray, positions: IntArray) -> Iterator[Edit]:
        for i, _, (first, ends) in self._wishes.among(rows):
            if positions[i] < first:
                yield Exclude(i, ends)


class LogitBias:
    """logit_bias: added to the logits of the tokens it names."""

    reads_history = False

    def __init__(self, table: Rows) -> None:
        self._vocab_size = table.sizes.vocab_size
        self._wishes: Wishes[tuple[Ids, Floats]] = Wishes()

    def admit(self, row: int, new: NewRow) -> None:
        bias = new.spec.sampling.logit_bias
        if bias:
            check_vocabulary("logit_bias", list(bias), self._vocab_size)
            self._wishes.set(row, (np.array(list(bias), np.int32), np.array(list(bias.values()), np.float32)))

    def drop(self, row: int) -> None:
        self._wishes.drop(row)

    def flush(self) -> None:
        pass

    def active(self, rows: IntArray) -> bool:
        return self._wishes.any(rows)

    def edits(self, rows: IntArray, positions: IntArray) -> Iterator[Edit]:
        for i, _, (ids, values) in self._wishes.among(rows):
            yield Add(i, ids, values)


class Seen:
    """The distinct tokens of one sequence and how often each was generated; tokens of the prompt alone count 0."""

    def __init__(self, presence: float, frequency: float, repetition: float) -> None:
        self.penalties = (presence, frequency, repetition)
        self.upto = 0  # tokens of the row that are counted
        self._ids = np.zeros(64, np.int32)
        self._counts = np.zeros(64, np.float32)
        self._at: dict[int, int] = {}

    @property
    def ids(self) -> Ids:
        """The tokens, in the order of their first appearance or ascending."""
        return self._ids[: len(self._at)]

    @property
    def counts(self) -> Floats:
        """How often each was generated."""
        return self._counts[: len(self._at)]

    def count(self, tokens: Ids, weight: int) -> None:
        """Also these tokens, generated `weight` times each."""
        distinct, times = (tokens, np.ones(1)) if len(tokens) == 1 else np.unique(tokens, return_counts=True)
        for id, number in zip(distinct.tolist(), times.tolist(), strict=True):
            at = self._at.setdefault(id, len(self._at))
            if at == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[at] = id
            self._counts[at] += weight * number
        self.upto += len(tokens)


class Penalties:
    """repetition_penalty over prompt and output, then frequency_penalty and presence_penalty over the output."""

    reads_history = True

    def __init__(self, table: Rows) -> None:
        self._table = table
        self._wishes: Wishes[Seen] = Wishes()

    def admit(self, row: int, new: NewRow) -> None:
        p = new.spec.sampling
        if p.presence_penalty == 0 and p.frequency_penalty == 0 and p.repetition_penalty == 1:
            return
        seen = Seen(p.presence_penalty, p.frequency_penalty, p.repetition_penalty)
        # What is prompt comes from the spec: a preempted sequence returns with its outputs among its tokens.
        seen.count(self._table.tokens[row, : self._table.prompt_len[row]], 0)
        self._wishes.set(row, seen)

    def drop(self, row: int) -> None:
        self._wishes.drop(row)

    def flush(self) -> None:
        pass

    def active(self, rows: IntArray) -> bool:
        return self._wishes.any(rows)

    def edits(self, rows: IntArray, positions: IntArray) -> Iterator[Edit]:
        for i, row, seen in self._wishes.among(rows):
            seen.count(self._table.tokens[row, seen.upto : positions[i]], 1)
            if len(seen.ids):
                yield Penalize(i, seen.ids, seen.counts, *seen.penalties)


class Thinking:
    """thinking_token_budget: when it is used up, only what ends reasoning may come."""

    reads_history = True

    def __init__(self, table: Rows) -> None:
        self._table = table
        self._wishes: Wishes[Thoughts] = Wishes()
        self._upto: dict[int, int] = {}  # tokens of the row that its thoughts know

    def admit(self, row: int, new: NewRow) -> None:
        budget = new.spec.thinking
        if budget is not None:
            check_vocabulary("thinking_token_budget", budget.end, self._table.sizes.vocab_size)
            self._wishes.set(row, Thoughts(budget))
            self._upto[row] = int(self._table.prompt_len[row])

    def drop(self, row: int) -> None:
        self._wishes.drop(row)
        self._upto.pop(row, None)

    def flush(self) -> None:
        pass

    def active(self, rows: IntArray) -> bool:
        return self._wishes.any(rows)

    def edits(self, rows: IntArray, positions: IntArray) -> Iterator[Edit]:
        for i, row, thoughts in self._wishes.among(rows):
            for token in self._table.tokens[row, self._upto[row] : positions[i]].tolist():
                thoughts.push(token)
            self._upto[row] = int(positions[i])
            forced = thoughts.forced()
            if forced is not None:
                yield KeepOnly(i, as_ids([forced]))


def pipeline(table: Rows) -> tuple[LogitsProcessor, ...]:
    """The processors in the order they are applied, which is vLLM's."""
    return AllowedIds(table), BadWords(table), MinTokens(table), LogitBias(table), Penalties(table), Thinking(table)
