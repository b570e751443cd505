"""Rows: slots, fields and page tables under the step message's delta."""

import numpy as np
import pytest

from octavo.messages import BatchMessage, NewRow, RowWork
from octavo.worker.rows import RowFields, Rows

from .toy import Driver, ToyModel, make_runner, make_sizes, make_spec


def rows(count: int = 3, poison: bool = True) -> Rows:
    return Rows(make_sizes(rows=count, page=4), 2, RowFields(count, poison))


def work(id: int, pages: list[list[int]], new: bool = True) -> RowWork:
    spec = make_spec(id, [id, id + 1])
    return RowWork(id, 0, 1, False, pages, NewRow(spec, spec.tokens, 0) if new else None)


def test_pages_extend_each_groups_table_in_order():
    table = rows()
    (row,) = table.apply(BatchMessage([work(7, [[3, 9], [5]])], []))
    table.apply(BatchMessage([work(7, [[], [6, 2]], new=False)], []))
    table.apply(BatchMessage([work(7, [[1], []], new=False)], []))
    assert table.pages[0][row, :4].tolist() == [3, 9, 1, -1]
    assert table.pages[1][row, :4].tolist() == [5, 6, 2, -1]


def test_a_dropped_slot_is_poisoned_and_its_next_owner_finds_reset_values():
    table = rows(count=1)
    table.apply(BatchMessage([work(1, [[3, 9], [5]])], []))
    table.drop(1)
    assert table.tokens[0].max() == table.known[0] == table.prompt_len[0] == -1
    table.apply(BatchMessage([work(2, [[], []])], []))
    assert (table.pages[0] == -1).all()
    assert table.tokens[0, :4].tolist() == [2, 3, 0, 0]


def test_a_field_is_reset_and_poisoned_by_being_registered():
    fields = RowFields(2, poison=True)
    numbers, flags = fields.add(np.float32, 0.5, float("nan")), fields.add(np.bool_, 0, 1, width=3)
    assert np.isnan(numbers).all()
    fields.reset(1)
    assert numbers[1] == 0.5
    assert not flags[1].any()
    fields.spoil(1)
    assert np.isnan(numbers[1])
    assert flags[1].all()


def test_gone_comes_before_new_and_unknown_ids_are_ignored():
    table = rows(count=1)
    table.apply(BatchMessage([work(1, [[], []])], [55]))
    table.apply(BatchMessage([work(2, [[], []])], [1, 1, 99]))
    assert table.index == {2: 0}
    table.apply(BatchMessage([work(2, [[8], [8]])], []))  # a second life without a word of the first one's end
    assert table.pages[0][0, :2].tolist() == [8, -1]


def test_more_sequences_than_rows_are_refused_by_name():
    with pytest.raises(RuntimeError, match=r"no free row for sequence 4: all 3 are taken"):
        rows().apply(BatchMessage([work(id, [[], []]) for id in range(1, 5)], []))


def test_a_row_that_emits_before_its_tokens_are_computed_is_a_broken_invariant():
    d = Driver(make_runner(ToyModel(50), make_sizes()))
    spec = make_spec(0, [1, 2, 3])
    with pytest.raises(AssertionError, match="may emit only once"):
        d.runner.launch(BatchMessage([RowWork(0, 0, 2, True, [[0]], NewRow(spec, spec.tokens, 0))], []))


def test_the_last_token_of_the_longest_context_is_still_sampled():
    d = Driver(make_runner(ToyModel(50), make_sizes(length=8)))
    assert len(d.generate(make_spec(0, [1, 2, 3, 4, 5], temperature=0.0), 4)) == 4
