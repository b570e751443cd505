"""Recordings: what fuses, what shares memory, what a program computes, and what falls back to torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from octavo import ops
from octavo.ops import registry
from octavo.ops.linear import Packed, choose_kernel
from octavo.ops.tape import Program, Recorder, Ref
from octavo.platforms import native
from octavo.weights.weight import Dense

if native.library is None:
    pytest.skip(f"the native library is not installed: {native.missing}", allow_module_level=True)

from octavo.ops.cpu.linear import LinearNode
from octavo.ops.cpu.norm import NormNode
from octavo.ops.cpu.pointwise import AddNode

CPU = torch.device("cpu")
H, INNER = 48, 80


@pytest.fixture(autouse=True)
def native_ops() -> object:
    registry.bind(("cpu", "reference"), torch.float32)
    yield
    registry.bind(("reference",))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def packed(weight: Tensor, gated: bool = False) -> Packed:
    return choose_kernel(Dense(weight), torch.float32, ("cpu",)).pack([Dense(weight)], torch.float32, CPU, gated)


def run(program: Program, inputs: dict[Ref, Tensor]) -> None:
    step = native.load().Step()
    for ref, tensor in inputs.items():
        step.num_tokens = len(tensor)
        ref.tensor(len(tensor)).copy_(tensor)
    program.run(step)


class Mlp:
    """x + down(silu(gate(norm x)) · up(norm x)), the shape of every gated block."""

    def __init__(self) -> None:
        self.norm, self.gate_up, self.down = draw(H).abs(), draw(2 * INNER, H) * 0.1, draw(H, INNER) * 0.1
        self.packed_up, self.packed_down = packed(self.gate_up, gated=True), packed(self.down)

    def __call__(self, x: Tensor) -> Tensor:
        inner = self.packed_up.gated(ops.rms_norm(x, self.norm, 1e-5), None, "silu")
        return ops.add(x, self.packed_down.run(inner, None))

    def expected(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.norm
        gate, up = (normed @ self.gate_up.T).chunk(2, -1)
        return x + (torch.nn.functional.silu(gate) * up) @ self.down.T


@pytest.mark.parametrize("rows", [0, 1, 5, 13])
@pytest.mark.parametrize("fuse", [False, True])
def test_a_recorded_block_computes_what_its_code_says(rows: int, fuse: bool) -> None:
    block, recorder = Mlp(), Recorder(max_rows=13)
    x = recorder.external(H)
    out = block(x)
    program = recorder.compile((out,), fuse=fuse)
    given = draw(rows, H, seed=1)
    run(program, {x: given})
    torch.testing.assert_close(out.tensor(rows), block.expected(given), atol=2e-5, rtol=1e-5)


def test_the_same_code_runs_at_once_on_tensors() -> None:
    block, x = Mlp(), draw(4, H, seed=2)
    torch.testing.assert_close(block(x), block.expected(x), atol=2e-5, rtol=1e-5)


def test_norm_and_residual_move_into_the_products() -> None:
    block, recorder = Mlp(), Recorder(max_rows=4)
    x = recorder.external(H)
    out = block(block(x))
    program = recorder.compile((out,))
    assert [type(node) for node in program.nodes] == [LinearNode] * 4
    assert len(program.tape) == 4
    run(program, {x: draw(4, H, seed=3)})
    expected = block.expected(block.expected(draw(4, H, seed=3)))
    torch.testing.assert_close(out.tensor(4), expected, atol=5e-5, rtol=1e-5)


def test_a_value_that_is_needed_twice_stays() -> None:
    block, recorder = Mlp(), Recorder(max_rows=4)
    x = recorder.external(H)
    normed = ops.rms_norm(x, block.norm, 1e-5)
    inner = block.packed_up.gated(normed, None, "silu")
    out = ops.add(normed, block.packed_down.run(inner, None))
    program = recorder.compile((out,))
    assert [type(node) for node in program.nodes] == [NormNode, LinearNode, LinearNode]
    given = draw(3, H, seed=4)
    run(program, {x: given})
    normed = given * torch.rsqrt(given.square().mean(-1, keepdim=True) + 1e-5) * block.norm
    torch.testing.assert_close(out.tensor(3), normed + block.expected(given) - given, atol=2e-5, rtol=1e-5)


def test_a_residual_that_is_also_the_products_input_is_not_written_over() -> None:
    recorder, weight = Recorder(max_rows=40), draw(H, H) * 0.1
    x = recorder.external(H)
    doubled = ops.add(x, x)
    out = ops.add(doubled, packed(weight).run(doubled, None))
    program = recorder.compile((out,))
    given = draw(40, H, seed=5)
    run(program, {x: given})
    torch.testing.assert_close(out.tensor(40), 2 * given + 2 * given @ weight.T, atol=2e-5, rtol=1e-5)


def test_memory_is_shared_by_values_that_do_not_meet() -> None:
    block, recorder = Mlp(), Recorder(max_rows=64)
    x = recorder.external(H)
    out = x
    for _ in range(20):
        out = block(out)
    program = recorder.compile((out,))
    assert program.arena.nbytes < 64 * 4 * (4 * H + 3 * INNER) + 4096


def test_parts_side_by_side_are_written_in_place() -> None:
    recorder = Recorder(max_rows=8)
    x = recorder.external(H)
    weights = [draw(n, H) for n in (5, 32, 40)]
    out = ops.concat([packed(weight).run(x, None) for weight in weights])
    program = recorder.compile((out,))
    assert [type(node) for node in program.nodes] == [LinearNode] * 3
    given = draw(8, H, seed=6)
    run(program, {x: given})
    torch.testing.assert_close(out.tensor(8), given @ torch.cat(weights).T, atol=5e-5, rtol=1e-5)


def test_an_op_without_a_kernel_runs_in_torch_between_native_records(caplog: pytest.LogCaptureFixture) -> None:
    from octavo.ops.cpu.fallback import _calls_python

    op = next(op for op in registry.all_ops() if op.name == "rms_norm")
    recorder = Recorder(max_rows=6)
    x = recorder.external(H)
    out = ops.add(x, _calls_python(op)(ops.add(x, x), torch.ones(H), 1e-5))
    program = recorder.compile((out,))
    assert len(program.segments) == 3
    given = draw(6, H, seed=7)
    run(program, {x: given})
    normed = given * 2 * torch.rsqrt((given * 2).square().mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(out.tensor(6), given + normed, atol=1e-5, rtol=1e-5)
    assert "no native kernel" in caplog.text


def test_an_addition_of_two_kept_values_stays_an_addition() -> None:
    recorder = Recorder(max_rows=3)
    x, y = recorder.external(H), recorder.external(H)
    out = ops.add(x, y)
    program = recorder.compile((out,))
    assert [type(node) for node in program.nodes] == [AddNode]
    a, b = draw(3, H, seed=8), draw(3, H, seed=9)
    run(program, {x: a, y: b})
    assert torch.equal(out.tensor(3), a + b)


def test_a_product_does_not_add_what_is_only_made_after_it() -> None:
    recorder, first, second = Recorder(max_rows=5), draw(H, H) * 0.1, draw(H, H, seed=1) * 0.1
    x = recorder.external(H)
    early = packed(first).run(x, None)
    late = packed(second).run(ops.rms_norm(early, torch.ones(H), 1e-5), None)
    out = ops.add(late, early)
    program = recorder.compile((out,))
    given = draw(5, H, seed=10)
    run(program, {x: given})
    wanted = given @ first.T
    normed = wanted * torch.rsqrt(wanted.square().mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(out.tensor(5), normed @ second.T + wanted, atol=2e-5, rtol=1e-5)
