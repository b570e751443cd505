"""Experts at every level: routing, products over tokens sorted by expert, a sum that other tokens do not touch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from octavo import ops
from octavo.ops import registry
from octavo.ops.linear import Packed, choose_kernel
from octavo.ops.tape import Recorder
from octavo.platforms import native
from octavo.quant.online import quantize_int8
from octavo.weights.weight import Dense, Weight

if native.library is None:
    pytest.skip(f"the native library is not installed: {native.missing}", allow_module_level=True)

LEVELS: list[str] = native.load().kernel_levels()
E, H, INNER, TOP = 7, 50, 35, 3
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.bfloat16}


@pytest.fixture(autouse=True, params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    registry.bind(("cpu", "reference"), torch.float32)
    library = native.load()
    before = library.kernel_level()
    library.use_kernel_level(request.param)
    yield request.param
    library.use_kernel_level(before)
    registry.bind(("reference",))


def draw(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def experts(kind: str) -> tuple[list[Packed], list[Packed], list[Tensor], list[Tensor]]:
    """gate | up and down of each expert, packed and as the values that they hold."""

    def pack(values: Tensor, gated: bool) -> tuple[Packed, Tensor]:
        weight: Weight = quantize_int8(values) if kind == "int8" else Dense(values.to(KINDS[kind]))
        packer = choose_kernel(weight, KINDS[kind], ("cpu",))
        return packer.pack([weight], KINDS[kind], torch.device("cpu"), gated), weight.dequantize()

    ups = [pack(draw(2 * INNER, H, seed=e, scale=0.2), True) for e in range(E)]
    downs = [pack(draw(H, INNER, seed=100 + e, scale=0.2), False) for e in range(E)]
    return [p for p, _ in ups], [p for p, _ in downs], [v for _, v in ups], [v for _, v in downs]


def run(x: Tensor, logits: Tensor, up: list[Packed], down: list[Packed], residual: bool) -> tuple[Tensor, Tensor]:
    """The layer recorded as a model records it; also the ids."""
    rows = len(x)
    recorder = Recorder(max(rows, 1))
    given, router = recorder.external(H), recorder.external(E)
    ids, weights = ops.route(router, TOP, True)
    out = ops.expert_mlps(given, up, down, ids, weights, "silu")
    if residual:
        out = ops.add(given, out)
    program = recorder.compile((out, ids))
    given.tensor(rows).copy_(x)
    router.tensor(rows).copy_(logits)
    step = native.load().Step()
    step.num_tokens = rows
    program.run(step)
    return out.tensor(rows).clone(), ids.tensor(rows).clone().view(torch.int32)


def expected(x: Tensor, logits: Tensor, up: list[Tensor], down: list[Tensor]) -> Tensor:
    out = torch.zeros(len(x), H, dtype=torch.float64)
    for t, row in enumerate(logits.double().softmax(-1)):
        chosen = row.argsort(descending=True, stable=True)[:TOP]
        for e in chosen.tolist():
            gate, above = (up[e].double() @ x[t].double()).chunk(2)
            inner = torch.nn.functional.silu(gate) * above
            out[t] += row[e] / row[chosen].sum() * (down[e].double() @ inner)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 1, 2, 13, 90])
def test_experts_compute_the_weighed_sum(kind: str, rows: int) -> None:
    up, down, wide_up, wide_down = experts(kind)
    x, logits = draw(rows, H, seed=1), draw(rows, E, seed=2)
    wanted = expected(x, logits, wide_up, wide_down)
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 4e-2}[kind]
    for residual in (False, True):
        out, _ = run(x, logits, up, down, residual)
        difference = (out.double() - wanted - (x if residual else 0)).abs().max() if rows else torch.tensor(0.0)
        assert difference <= tolerance * max(1.0, float(wanted.abs().max()) if rows else 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokens_sum_does_not_depend_on_the_other_tokens(kind: str) -> None:
    up, down, *_ = experts(kind)
    x, logits = draw(300, H, seed=3), draw(300, E, seed=4)
    logits[:250, 2] += 20  # one expert gets more rows than fit one product
    together, _ = run(x, logits, up, down, residual=True)
    for t in (0, 7, 260, 299):
        alone, _ = run(x[t : t + 1], logits[t : t + 1], up, down, residual=True)
        assert torch.equal(alone[0], together[t])
    order = torch.randperm(300, generator=torch.Generator().manual_seed(5))
    assert torch.equal(run(x[order], logits[order], up, down, residual=True)[0], together[order])


def test_equal_logits_go_to_the_lower_number() -> None:
    up, down, *_ = experts("float32")
    _, ids = run(draw(4, H, seed=6), torch.zeros(4, E), up, down, residual=False)
    np.testing.assert_array_equal(ids.numpy(), np.tile(np.arange(TOP, dtype=np.int32), (4, 1)))
