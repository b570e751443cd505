"""With --batch-invariant a row's logits have the same bits alone, in any batch, and however its prompt is cut."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo.attention.invariant import create
from octavo.attention.triton import TritonAttention
from octavo.engine.executors.device import choose_backends
from octavo.errors import StartupError
from octavo.forward import ForwardBatch
from octavo.messages import SequenceSpec
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import spec_for
from octavo.ops import registry
from octavo.platforms import native
from octavo.weights.dummy import dummy_source
from octavo.worker.worker import Worker

from .toy import Driver, make_sizes, make_spec

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
COMMON = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 96, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 128, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip
DENSE = COMMON | {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 24, "intermediate_size": 80,
}  # fmt: skip
EXPERTS = COMMON | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "intermediate_size": 80,
    "moe_intermediate_size": 48, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
LONG, STEPS = 37, 3
ALL = ("invariant", "triton", "reference")
# What is by row in any case takes long in the interpreter: a program for each token.
QUICK = ALL if DEVICE.type == "cuda" else ("invariant", "reference")


class Watched:
    """A model whose logits are kept, each row as bits."""

    def __init__(self, model: DecoderModel) -> None:
        self.model = model
        self.groups = model.groups
        self.rows: list[Tensor] = []

    def forward(self, batch: ForwardBatch) -> Tensor:
        return self.model.forward(batch)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.logits(hidden)
        self.rows = list(logits.clone().cpu())
        return logits


def driver(config: dict, backends: tuple[str, ...], attention: TritonAttention) -> Driver:
    """The real worker over a model of seeded random weights."""
    registry.bind(backends, DTYPE)
    spec = spec_for(HFConfig(config))
    model = DecoderModel(spec, DTYPE, DEVICE, attention, 128, backends)
    model.load(dummy_source(spec, DTYPE, DEVICE))
    worker = Worker(Watched(model), attention, DTYPE, DEVICE)  # type: ignore[arg-type]
    sizes = make_sizes(rows=8, tokens=128, length=128, page=16, vocab=96)
    return Driver(worker.allocate([40] * len(model.groups), sizes))


def prompt(id: int, length: int) -> SequenceSpec:
    return make_spec(id, [(7 * id + 3 * i * i + i) % 96 for i in range(length)], temperature=0.0)


def watched(driver: Driver, id: int, schedule: list[dict[int, int]]) -> list[Tensor]:
    """The logits of each token of sequence `id` in these steps, of which every row but its unfinished ones emits."""
    found = []
    for shares in schedule:
        result = driver.step(shares)
        emitted = [row.id for row in result.rows if row.tokens]
        if id in emitted:
            model = driver.runner.model
            assert isinstance(model, Watched)
            found.append(model.rows[emitted.index(id)])
    return found


def alone(config: dict, backends: tuple[str, ...], attention: TritonAttention) -> list[Tensor]:
    one = driver(config, backends, attention)
    one.add(prompt(1, LONG))
    return watched(one, 1, [{1: LONG}, *[{1: 1}] * STEPS])


def together(config: dict, backends: tuple[str, ...], attention: TritonAttention) -> list[Tensor]:
    """In chunks of odd sizes, beside others that are prefilled and decoded; then among them."""
    several = driver(config, backends, attention)
    for id, length in ((1, LONG), (2, 3), (3, 11)):
        several.add(prompt(id, length))
    schedule: list[dict[int, int]] = [
        {2: 3, 1: 7}, {1: 1, 2: 1, 3: 9}, {3: 2, 1: 28, 2: 1}, {1: 1, 3: 1}, {1: 1}, {2: 1, 3: 1, 1: 1}, {1: 1, 2: 1},
    ]  # fmt: skip
    return watched(several, 1, schedule)


def same_bits(config: dict, backends: tuple[str, ...]) -> bool:
    first = alone(config, backends, create())
    second = together(config, backends, create())
    assert len(first) == len(second) == STEPS + 1
    assert all(each.std() > 0 for each in first)
    return all(torch.equal(mine, theirs) for mine, theirs in zip(first, second, strict=True))


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_a_rows_logits_have_the_same_bits_alone_and_in_any_batch(config: dict) -> None:
    assert same_bits(config, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_so_they_have_with_every_kernel(config: dict) -> None:
    assert same_bits(config, ALL)


def test_without_it_the_batch_shows() -> None:
    backends = ("triton", "reference") if DEVICE.type == "cuda" else ("reference",)
    first = torch.stack(alone(DENSE, backends, TritonAttention()))
    second = torch.stack(together(DENSE, backends, TritonAttention()))
    torch.testing.assert_close(first, second, rtol=2e-2, atol=2e-2)
    assert not torch.equal(first, second)


class Machine:
    """What choosing kernels asks of a platform."""

    def __init__(self, ops: tuple[str, ...], graphs: str | None) -> None:
        self.ops = ops
        self.graphs = graphs
        self.attention = ("cpu", "reference") if graphs == "tape" else ("reference",)


def test_the_flag_chooses_kernels_that_know_no_batch_or_is_refused() -> None:
    spec = spec_for(HFConfig(DENSE))
    gpu, slow, cpu = Machine(("triton", "reference"), "cuda"), Machine(("reference",), None), Machine(("cpu",), "tape")
    backend, graphs, backends = choose_backends(gpu, spec, DTYPE, batch_invariant=True)  # type: ignore[arg-type]
    assert isinstance(backend, TritonAttention) and backend.whole_contexts
    assert (graphs, backends) == ("cuda", ALL)
    with pytest.raises(StartupError, match="leave it out"):
        choose_backends(slow, spec, DTYPE, batch_invariant=True)  # type: ignore[arg-type]
    if native.library is not None:
        mine, theirs = (choose_backends(cpu, spec, DTYPE, flag)[1:] for flag in (True, False))  # type: ignore[arg-type]
        assert mine == theirs
