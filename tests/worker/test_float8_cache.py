"""The real worker over a KV cache of float8_e4m3fn: what it answers beside float32, in batches, and with scales."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo.attention.triton import TritonAttention
from octavo.errors import StartupError
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import spec_for
from octavo.ops import registry
from octavo.weights.source import TensorSource
from octavo.worker.worker import Worker

from .toy import Driver, make_sizes, make_spec

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(
    DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 9), reason="needs float8_e4m3fn in hardware"
)
FLOAT8 = torch.float8_e4m3fn
HIDDEN, KV_HEADS, DIM, VOCAB = 64, 2, 16, 96
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": KV_HEADS, "head_dim": DIM, "vocab_size": VOCAB,
    "intermediate_size": 80, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 128,
    "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip
# The kernel that writes is held to the reference in tests/ops/triton/test_qkv.py, and takes long in the interpreter.
BACKENDS = ("triton", "reference") if DEVICE.type == "cuda" else ("reference",)
LAYER = "model.layers.0.self_attn"
TOLERANCE = 0.75  # of logits whose largest and smallest are 34 to 48 apart; found: 0.52


def weights() -> dict[str, Tensor]:
    """A model whose likeliest tokens are far ahead of the others."""
    generator = torch.Generator().manual_seed(5)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * columns**-0.5

    tensors = {
        f"{LAYER}.q_proj.weight": matrix(4 * DIM, HIDDEN),
        f"{LAYER}.k_proj.weight": matrix(KV_HEADS * DIM, HIDDEN),
        f"{LAYER}.v_proj.weight": matrix(KV_HEADS * DIM, HIDDEN),
        f"{LAYER}.o_proj.weight": matrix(HIDDEN, 4 * DIM),
        "model.layers.0.mlp.gate_proj.weight": matrix(80, HIDDEN),
        "model.layers.0.mlp.up_proj.weight": matrix(80, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": matrix(HIDDEN, 80),
        "model.embed_tokens.weight": matrix(VOCAB, HIDDEN) * 8,
        "lm_head.weight": matrix(VOCAB, HIDDEN) * 8,
    }
    norms = ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm")
    return tensors | {f"{norm}.weight": torch.ones(HIDDEN) for norm in norms}


class Watched:
    """A model whose logits are kept."""

    def __init__(self, model: DecoderModel) -> None:
        self.model = model
        self.groups = model.groups
        self.forward = model.forward
        self.seen: list[Tensor] = []

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.logits(hidden)
        self.seen.append(logits.cpu().clone())
        return logits


def load(tensors: dict[str, Tensor]) -> DecoderModel:
    registry.bind(BACKENDS, torch.float32)
    model = DecoderModel(spec_for(HFConfig(CONFIG)), torch.float32, DEVICE, TritonAttention(), 128, BACKENDS)
    assert model.load(TensorSource(tensors)) == []
    return model


def driver(kept: torch.dtype, tensors: dict[str, Tensor] | None = None) -> tuple[Driver, Watched]:
    model = Watched(load(weights() if tensors is None else tensors))
    worker = Worker(model, model.model.backend, kept, DEVICE)  # type: ignore[arg-type]
    return Driver(worker.allocate([12], make_sizes(length=128, page=16, vocab=VOCAB), poison=True)), model


def answer(driver: Driver, counts: tuple[int, ...], steps: int) -> list[list[int]]:
    """The greedy tokens of prompts of these lengths, computed side by side."""
    for id, count in enumerate(counts, 1):
        driver.add(make_spec(id, [(7 * count + 3 * i * i + i) % VOCAB for i in range(count)], temperature=0.0))
    ids = range(1, len(counts) + 1)
    driver.step(dict(zip(ids, counts, strict=True)))
    for _ in range(steps - 1):
        driver.step(dict.fromkeys(ids, 1))
    return [driver.tokens[id][count:] for id, count in zip(ids, counts, strict=True)]


def test_greedy_tokens_are_those_of_float32_and_the_same_in_any_batch() -> None:
    counts, steps = (37, 5, 18), 3
    (exact, exact_model), (rounded, rounded_model) = driver(torch.float32), driver(FLOAT8)
    expected = answer(exact, counts, steps)
    found = answer(rounded, counts, steps)
    assert found == expected
    for mine, theirs in zip(rounded_model.seen, exact_model.seen, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE)
        assert not torch.equal(mine, theirs)
    assert [answer(driver(FLOAT8)[0], (count,), steps)[0] for count in counts] == found


def test_scales_of_a_checkpoint_keep_what_would_not_fit() -> None:
    """Values of up to some thousands are beyond float8, until they are divided by their scale."""
    tensors = weights()
    tensors[f"{LAYER}.v_proj.weight"] *= 2000
    tensors[f"{LAYER}.o_proj.weight"] /= 2000
    expected, scaled, cut = (
        driver(kept, tensors | more)
        for kept, more in (
            (torch.float32, {}),
            (FLOAT8, {f"{LAYER}.k_scale": torch.tensor(0.25), f"{LAYER}.v_scale": torch.tensor([20.0, 50.0])}),
            (FLOAT8, {}),
        )
    )
    tokens = [answer(each, (20,), 2) for each, _ in (expected, scaled, cut)]
    assert tokens[0] == tokens[1]
    torch.testing.assert_close(scaled[1].seen[-1], expected[1].seen[-1], rtol=0, atol=TOLERANCE)
    assert (cut[1].seen[-1] - expected[1].seen[-1]).abs().max() > 2 * TOLERANCE


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"k_scale": [0.5], "v_scale": [2.0]}, [[0.5, 0.5], [2.0, 2.0]]),
        ({"k_proj.k_scale": 0.5, "v_proj.v_scale": 2.0}, [[0.5, 0.5], [2.0, 2.0]]),
        ({"k_scale": [[[0.5]], [[4.0]]], "v_scale": [[[2.0]], [[3.0]]]}, [[0.5, 4.0], [2.0, 3.0]]),
        ({"k_proj.output_scale": 0.5}, [[0.5, 0.5], [1.0, 1.0]]),
        ({"kv_scale": 0.5}, [[0.5, 0.5], [0.5, 0.5]]),
    ],
)
def test_scales_are_found_however_a_checkpoint_names_them(
    stored: dict[str, object], expected: list[list[float]]
) -> None:
    model = load(weights() | {f"{LAYER}.{name}": torch.tensor(value) for name, value in stored.items()})
    assert model.blocks[0].mixer.scales is not None
    assert model.blocks[0].mixer.scales.tolist() == expected


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), [1.0, 2.0, 3.0]])
def test_scales_that_make_no_sense_are_refused_by_name(value: object) -> None:
    with pytest.raises(StartupError, match=r"self_attn\.v_scale holds .* one for each of 2 KV heads"):
        load(weights() | {f"{LAYER}.v_scale": torch.tensor(value)})
