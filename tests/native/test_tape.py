"""The tape itself: records in order, memory of their own, every ticket once, turns, times; and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

native: Any = pytest.importorskip("octavo._native")

SCALE, COLUMNS = 2, 4096  # a Map's number; wide enough for every member to have a share


def matrix(x: Tensor) -> Any:
    return native.Matrix(x.data_ptr(), x.stride(0))


def scaling(x: Tensor, out: Tensor, factor: float) -> Any:
    record = native.Map()
    record.x, record.out, record.columns = matrix(x), matrix(out), x.shape[1]
    record.map, record.value = SCALE, factor
    return record


def doubling(team: Any, cells: list[Tensor]) -> Any:
    """A tape whose record i writes twice cell i to cell i + 1."""
    tape = native.Tape(team)
    for x, out in pairwise(cells):
        tape.map(scaling(x, out, 2.0))
    return tape


def step_of(num_tokens: int) -> Any:
    step = native.Step()
    step.num_tokens = num_tokens
    return step


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("pieces", [0, 1, 100])
def test_records_run_one_after_the_other_in_memory_of_their_own_and_claim_every_piece_once(
    size: int, pieces: int
) -> None:
    team = native.ThreadTeam(size)
    assert sum(team.tape_faults(20, pieces) for _ in range(3)) == 0


@pytest.mark.parametrize("size", [1, 3])
def test_each_record_sees_what_the_one_before_wrote(size: int) -> None:
    cells = [torch.ones(5, COLUMNS)] + [torch.zeros(5, COLUMNS) for _ in range(12)]
    tape = doubling(native.ThreadTeam(size), cells)
    assert len(tape) == 12
    assert {tape.name(i) for i in range(12)} == {"map"}
    tape.run(step_of(5))
    assert [cell.unique().tolist() for cell in cells] == [[2.0**i] for i in range(13)]


def test_a_part_of_a_tape_runs_alone() -> None:
    cells = [torch.ones(3, 8)] + [torch.zeros(3, 8) for _ in range(4)]
    tape = doubling(native.ThreadTeam(2), cells)
    tape.run(step_of(3), 1, 3)
    tape.run(step_of(3), 0, 1)
    tape.run(step_of(3), 2, 2)
    assert [cell[0, 0].item() for cell in cells] == [1, 2, 0, 0, 0]
    for first, last in ((-1, 2), (3, 2), (0, 5), (5, 5)):
        with pytest.raises(ValueError, match=f"records {first} to {last} of 4"):
            tape.run(step_of(3), first, last)
    with pytest.raises(IndexError):
        tape.name(4)


def test_a_step_without_tokens_and_a_tape_without_records_write_nothing() -> None:
    out = torch.full((1, 8), 7.0)
    tape = native.Tape(native.ThreadTeam(2))
    tape.run(step_of(4))
    tape.map(scaling(torch.ones(1, 8), out, 2.0))
    tape.run(step_of(0))
    assert out.unique().tolist() == [7.0]


def test_records_may_be_added_between_runs() -> None:
    cells = [torch.ones(2, 8)] + [torch.zeros(2, 8) for _ in range(2)]
    tape = doubling(native.ThreadTeam(3), cells[:2])
    tape.run(step_of(2))
    tape.map(scaling(cells[1], cells[2], 2.0))
    tape.run(step_of(2))
    assert cells[2].unique().tolist() == [4.0]


@pytest.mark.parametrize("shared", [False, True])
def test_runs_from_several_threads_take_turns(shared: bool) -> None:
    """Of one tape, or of tapes on one team."""
    team = native.ThreadTeam(3)
    cells = [[torch.full((4, COLUMNS), float(i)), *torch.zeros(6, 4, COLUMNS)] for i in range(4)]
    tapes = [doubling(team, mine) for mine in cells]
    errors: list[str] = []

    def work(i: int) -> None:
        which = 0 if shared else i
        for _ in range(20):
            tapes[which].run(step_of(4))
            if cells[which][-1].unique().tolist() != [which * 64.0]:
                errors.append(f"tape {which}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_profile_has_every_members_times_in_order() -> None:
    cells = [torch.ones(5, COLUMNS)] + [torch.zeros(5, COLUMNS) for _ in range(6)]
    tape = doubling(native.ThreadTeam(3), cells)
    tape.run(step_of(5))
    assert tape.times() == []
    tape.profile(True)
    tape.run(step_of(5), 1, 5)
    times = torch.tensor(tape.times()).view(4, 3, 2)
    started, finished = times.unbind(-1)
    assert (started >= 0).all()
    assert (finished >= started).all()
    # Nobody starts a record before everybody has finished the one before it.
    assert (started[1:].amin(1) >= finished[:-1].amax(1)).all()
    tape.profile(False)
    tape.run(step_of(5))
    assert tape.times() == []


def test_a_tape_keeps_its_team_alive() -> None:
    cells = [torch.ones(2, COLUMNS), torch.zeros(2, COLUMNS)]
    tape = doubling(native.ThreadTeam(3), cells)
    tape.run(step_of(2))
    assert cells[1].unique().tolist() == [2.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_that_the_tapes_team_is_not_there() -> None:
    code = """
import os, sys
from octavo import _native as n
tape = n.Tape(n.ThreadTeam(2))
tape.run(n.Step())
if os.fork() == 0:
    try:
        tape.run(n.Step())
    except RuntimeError as error:
        print(error, flush=True)
    del tape
    n.Tape(n.ThreadTeam(2)).run(n.Step())
    sys.stdout.flush()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
tape.run(n.Step())
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "this thread team belongs to the parent process; make a new one after fork()",
        "0",
    ], done.stderr
    assert done.returncode == 0
