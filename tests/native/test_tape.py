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


def packed(team: Any, out_features: int = 5, in_features: int = 3, interleaved: bool = False) -> tuple[Any, Tensor]:
    """A float32 weight of ones, and its memory."""
    weight = native.PackedWeight()
    weight.kind, weight.out_features, weight.in_features, weight.interleaved = 0, out_features, in_features, interleaved
    weight.panel_bytes = native.panel_bytes(weight)
    memory = torch.zeros(weight.num_panels * weight.panel_bytes + 64, dtype=torch.uint8)
    weight.panels = memory.data_ptr() + -memory.data_ptr() % 64
    rows = torch.ones(out_features, in_features)
    native.pack_float(team, weight, [(rows.data_ptr(), 0, in_features, out_features)])
    return weight, memory


X, OUT = torch.ones(4, 64), torch.zeros(4, 64)


def linear(weight: Any, **fields: object) -> Any:
    record = native.Linear()
    record.weight, record.x, record.x_stride, record.out, record.out_stride = (
        weight,
        X.data_ptr(),
        64,
        OUT.data_ptr(),
        64,
    )
    for name, value in fields.items():
        setattr(record, name, value)
    return record


LINEARS: dict[str, dict[str, object]] = {
    "x_stride=2 is less than the 3 of a row": {"x_stride": 2},
    "out_stride=-1 is less than the 5 of a row": {"out_stride": -1},
    "residual_stride=0 is less than the 5 of a row": {"residual": 64},
    "an activation needs an interleaved weight": {"activation": 1},
}


@pytest.mark.parametrize("message", LINEARS)
def test_products_that_would_leave_their_operands_are_refused(message: str) -> None:
    team = native.ThreadTeam(1)
    weight, memory = packed(team)
    with pytest.raises(ValueError, match=message):
        native.Tape(team).linear(linear(weight, **LINEARS[message]), 4)
    assert len(memory)


WEIGHTS: dict[str, dict[str, object]] = {
    "panels must be the address of memory aligned to 64 bytes": {"panels": 0},
    "panel_bytes=-1 must be 384": {"panel_bytes": -1},
    "a weight of 0 by 3 has nothing to multiply": {"out_features": 0},
    "a weight of 5 by -3 has nothing to multiply": {"in_features": -3},
    "a weight of 5 by 3 has no two halves to interleave": {"interleaved": 1},
    "panel_bytes=384 must be ": {"kind": 3},
    "in_features=3 is not a multiple": {"kind": 6},
}


@pytest.mark.parametrize("message", WEIGHTS)
def test_weights_that_kernels_could_not_trust_are_refused(message: str) -> None:
    team = native.ThreadTeam(1)
    weight, memory = packed(team)
    for name, value in WEIGHTS[message].items():
        setattr(weight, name, value)
    for append in (
        lambda tape: tape.linear(linear(weight), 4),
        lambda tape: tape.embed_packed(embedding(weight)),
    ):
        tape = native.Tape(team)
        with pytest.raises(ValueError, match=message):
            append(tape)
        assert len(tape) == 0
    assert len(memory)


def embedding(weight: Any) -> Any:
    record = native.EmbedPacked()
    record.weight, record.out, record.out_stride = weight, OUT.data_ptr(), 64
    return record


def test_a_number_that_no_enumeration_has_is_refused() -> None:
    for record, name, value in (
        (native.PackedWeight(), "kind", 15),
        (native.Linear(), "activation", -1),
        (native.Linear(), "rows", 2),
        (native.Map(), "map", 7),
        (native.Norm(), "kind", 2),
        (native.Embed(), "kind", 3),
        (native.Attention(), "kind", 3),
        (native.Experts(), "activation", 6),
    ):
        with pytest.raises(ValueError, match=f"{name}={value} is not one of 0 to"):
            setattr(record, name, value)


def attention(**fields: int) -> Any:
    record = native.Attention()
    record.q = record.k = record.v = record.out = record.cache = record.plan = OUT.data_ptr()
    record.q_stride = record.k_stride = record.v_stride = record.out_stride = 64
    record.num_pages, record.page_size, record.num_heads, record.num_kv_heads, record.head_dim = 1, 16, 4, 2, 16
    for name, value in fields.items():
        setattr(record, name, value)
    return record


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_heads": 0}, "4 query heads cannot share 0 key heads"),
        ({"num_kv_heads": 3}, "4 query heads cannot share 3 key heads"),
        ({"page_size": 0}, "page_size=0"),
        ({"head_dim": -1}, "head_dim=-1"),
        ({"window": -1}, "window=-1"),
        ({"group": 8}, "group 8 does not exist"),
        ({"group": -1}, "group -1 does not exist"),
        ({"cache": 0}, "need memory"),
        ({"num_pages": 0}, "num_pages=0"),
        ({"rotated": 8}, "rotated=8 wants angles"),
        ({"rotated": 18, "angles": 64}, "rotated=18"),
        ({"k_stride": 31}, "a stride of q, k, v or out"),
    ],
)
def test_attention_that_could_not_be_computed_is_refused(fields: dict[str, int], message: str) -> None:
    tape = native.Tape(native.ThreadTeam(1))
    with pytest.raises(ValueError, match=message):
        tape.attention(attention(**fields), 4)
    assert len(tape) == 0


def test_a_plan_needs_the_memory_that_it_says() -> None:
    plan = native.PlanAttention()
    plan.page_size, plan.num_heads, plan.num_kv_heads, plan.head_dim = 16, 4, 2, 16
    plan.max_rows, plan.max_tokens, plan.max_pages = 2, 8, 4
    plan.plan, plan.plan_bytes = OUT.data_ptr(), plan.bytes - 1
    with pytest.raises(ValueError, match=f"plan needs memory of {plan.bytes} bytes"):
        native.Tape(native.ThreadTeam(1)).plan_attention(plan)
    plan.max_rows = 0
    with pytest.raises(ValueError, match="max_rows, max_tokens and max_pages are at least 1"):
        native.Tape(native.ThreadTeam(1)).plan_attention(plan)


def test_a_step_that_a_record_is_not_made_for_is_refused() -> None:
    team = native.ThreadTeam(2)
    weight, memory = packed(team)
    tape = native.Tape(team)
    tape.linear(linear(weight), 3)
    for tokens in (-1, 4):
        with pytest.raises(ValueError, match=f"num_tokens={tokens} is not between 0 and the tape's 3"):
            tape.run(step_of(tokens))
    tape.run(step_of(3))
    tape.embed_packed(embedding(weight))
    with pytest.raises(ValueError, match="the tape reads tokens, of which the step has none"):
        tape.run(step_of(3))
    tape.run(step_of(0))
    tape = native.Tape(team)
    tape.linear(linear(weight, out=0), 3)
    with pytest.raises(ValueError, match="num_tokens=3 is not between 0 and the tape's 0"):
        tape.run(step_of(3))
    tape = native.Tape(team)
    tape.attention(attention(group=2), 4)
    with pytest.raises(ValueError, match="the tape attends to group 2, for which the step has no rows"):
        tape.run(step_of(3))
    tape = native.Tape(team)
    tape.map(scaling(X, torch.empty(0, 64), 1.0))
    with pytest.raises(ValueError, match="num_tokens=1 is not between 0 and the tape's 0"):
        tape.run(step_of(1))
    tape.run(step_of(0))
    assert len(memory)


def test_experts_and_routes_that_do_not_fit_are_refused() -> None:
    team = native.ThreadTeam(1)
    route = native.Route()
    route.num_experts, route.top_k = 4, 5
    with pytest.raises(ValueError, match="top_k=5 of 4 experts cannot be chosen"):
        native.Tape(team).route(route)
    (up, up_memory), (down, down_memory) = packed(team, 8, 5, interleaved=True), packed(team, 5, 3)
    panels = [torch.tensor([weight.panels]) for weight in (up, down)]
    experts = native.Experts()
    experts.x = experts.out = native.Matrix(X.data_ptr(), 64)
    experts.ids = experts.weights = OUT.data_ptr()
    experts.num_experts = experts.top_k = 1
    experts.gate_up, experts.down = up, down
    with pytest.raises(ValueError, match="need memory"):
        native.Tape(team).experts(experts, 4)
    experts.gate_up_panels, experts.down_panels = (each.data_ptr() for each in panels)
    with pytest.raises(ValueError, match="half of its 8 outputs be the 3 inputs of down"):
        native.Tape(team).experts(experts, 4)
    panels[1][0] = 0
    with pytest.raises(ValueError, match="panels must be the address"):
        native.Tape(team).experts(experts, 4)
    assert len(up_memory) and len(down_memory)
