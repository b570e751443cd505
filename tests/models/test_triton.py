"""Whole forward passes through Triton's kernels, in its interpreter without a GPU, beside the torch references."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo import ops, spec
from octavo.attention import backend
from octavo.checkpoint import Checkpoint
from octavo.forward import ForwardBatch, GroupInputs
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import spec_for
from octavo.ops import registry
from octavo.weights.source import open_source
from octavo.worker.memory import allocate_caches

from .test_families import FAMILIES, reference_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PAGE = 16
# Every residual kind, both norms, both spans of q and k's norm, partial rotation, learned positions.
MODELS = ("llama", "qwen3", "gemma2", "olmo2", "gpt2", "gpt_neox", "phi3-window-partial")


def load(folder: Path, backends: tuple[str, ...], dtype: torch.dtype = torch.float32) -> DecoderModel:
    """The model over ops of these backends; attention is the reference's."""
    registry.bind(backends, dtype)
    checkpoint = Checkpoint.resolve(str(folder))
    described = spec_for(HFConfig(checkpoint.config))
    model = DecoderModel(described, dtype, DEVICE, backend.create("reference"), 64, backends)
    assert model.load(open_source(checkpoint)) == []
    return model


def make_caches(model: DecoderModel, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    counts = [8] * len(model.groups)
    caches = allocate_caches(model.groups, counts, PAGE, model.backend, dtype, DEVICE)
    for cache in caches:
        cache.fill_(7.0)
    return caches


def step(model: DecoderModel, caches: list[Tensor], work: list[tuple[int, list[int]]], padding: int = 0) -> Tensor:
    """Logits of a step: row r continues at a position with tokens, in page r + 1; then rows that are nobody's."""
    tokens = [token for _, new in work for token in new] + [0] * padding
    positions = [at + i for at, new in work for i in range(len(new))] + [0] * padding
    slots = [(row + 1) * PAGE + at + i for row, (at, new) in enumerate(work) for i in range(len(new))] + [-1] * padding
    lengths = [at + len(new) for at, new in work] + [0] * padding
    starts = [0]
    for size in [*(len(new) for _, new in work), *[1] * padding]:
        starts.append(starts[-1] + size)

    def put(values: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=DEVICE)

    table = put([row + 1 for row in range(len(work))] + [3] * padding)[:, None]
    batch = ForwardBatch(
        tokens=put(tokens),
        positions=put(positions),
        starts=put(starts),
        lengths=put(lengths),
        groups=[GroupInputs(table, put(slots, torch.int64), PAGE) for _ in model.groups],
        caches=caches,
        logit_rows=torch.arange(len(tokens), device=DEVICE),
        host_starts=starts,
        host_lengths=lengths,
    )
    with torch.inference_mode():
        return model.logits(model.forward(batch))


def run(model: DecoderModel, padding: int) -> tuple[Tensor, list[Tensor]]:
    """Logits of a prompt beside a first token, then of a step that decodes both; and the caches."""
    caches = make_caches(model)
    first = step(model, caches, [(0, [5, 9, 2]), (0, [11])])
    second = step(model, caches, [(3, [7]), (1, [13])], padding)
    return torch.cat((first, second[:2])), caches


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_kernels_computes_what_the_references_compute(name: str, tmp_path: Path) -> None:
    reference_model(FAMILIES[name], tmp_path)
    expected, expected_caches = run(load(tmp_path, ("reference",)), padding=0)
    actual, caches = run(load(tmp_path, ("triton", "reference")), padding=2)
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)
    for mine, theirs in zip(caches, expected_caches, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=2e-5)
        assert (mine == 7.0).sum() == mine.numel() * (8 * PAGE - 6) // (8 * PAGE), "padding wrote somewhere"


Calls = Counter[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[DecoderModel], Calls]:
    """Counts what a decoding step of a model calls: ops, and attention as one; a float16 model decodes one row."""

    def count(model: DecoderModel, dtype: torch.dtype = torch.float32) -> Calls:
        found: Calls = Counter()

        def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object) -> object:
                found[name] += 1
                return function(*args)

            return call

        with monkeypatch.context() as patch:
            for op in registry.all_ops():
                patch.setattr(ops, op.name, counted(op.name, getattr(ops, op.name)))
            patch.setattr(model.backend, "run", lambda layer, q, *rest: (found.update(["attention"]), q)[1])
            work = [(3, [7]), (1, [13])]
            step(model, make_caches(model, dtype), work[:1] if dtype == torch.float16 else work)
        return found

    return count


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_layer_of_one_token_is_six_launches(name: str, tmp_path: Path, calls: Callable[..., Calls]) -> None:
    reference_model(FAMILIES[name], tmp_path)
    model = load(tmp_path, ("triton", "reference"), torch.float16)
    layers = len(model.blocks)
    # The first layer has nothing to add: its norm and its product are two.
    once = Counter(embed=2, rms_norm=1, linear=2, add_rms_norm=1, add_rms_norm_linear=-1)
    each = Counter(add_rms_norm_linear=2, prepare_qkv=1, attention=1, linear=2)
    found = calls(model, torch.float16)
    found.subtract({op: count * layers for op, count in each.items()})
    assert {op: count for op, count in found.items() if count} == once


def test_one_token_in_float16_is_what_the_references_compute(tmp_path: Path) -> None:
    reference_model(FAMILIES["qwen3"], tmp_path)
    outs: list[Tensor] = []
    for backends in (("reference",), ("triton", "reference")):
        model = load(tmp_path, backends, torch.float16)
        caches = make_caches(model, torch.float16)
        outs.append(torch.cat([step(model, caches, [(at, [token])]) for at, token in enumerate((5, 9))]))
    torch.testing.assert_close(outs[1].log_softmax(-1), outs[0].log_softmax(-1), rtol=0, atol=3e-2)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_layer_is_nine_launches_of_which_four_are_products(
    name: str, tmp_path: Path, calls: Callable[[DecoderModel], Calls]
) -> None:
    reference_model(FAMILIES[name], tmp_path)
    found = calls(load(tmp_path, ("triton", "reference")))
    layers = len(spec_for(HFConfig(Checkpoint.resolve(str(tmp_path)).config)).blocks)
    # The first layer's first norm has nothing to add, and the last addition is the last norm's.
    once = Counter(embed=2, rms_norm=1, linear=1)
    each = Counter(linear=4, prepare_qkv=1, attention=1, silu_mul=1, add_rms_norm=2)
    assert found == once + Counter({op: count * layers for op, count in each.items()})


def test_a_sandwich_is_no_more_launches(tmp_path: Path, calls: Callable[[DecoderModel], Calls]) -> None:
    reference_model(FAMILIES["gemma2"], tmp_path)
    model = load(tmp_path, ("triton", "reference"))
    assert all(isinstance(block, spec.Block) and block.residual == "sandwich" for block in model.spec.blocks)
    each = Counter(linear=4, prepare_qkv=1, attention=1, gelu_tanh_mul=1, rms_norm_add_rms_norm=2)
    once = Counter(embed=2 + (len(model.tables) - 1), scale=1, rms_norm=1, linear=1, softcap=1)
    assert calls(model) == once + Counter({op: count * len(model.blocks) for op, count in each.items()})
