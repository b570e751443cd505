"""Angles of every kind of RoPE against Transformers, at positions inside and beyond the original context (R72)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import transformers
from torch import Tensor

from octavo import spec
from octavo.layers.layer import Placement
from octavo.layers.rope import RotaryTable, frequencies
from octavo.models import config as models_config
from octavo.models.config import HFConfig

HEAD_DIM = 64
ORIGINAL = 64
PLACE = Placement(torch.float32, torch.device("cpu"))
SHORT, LONG = [1.0 + i / 32 for i in range(32)], [1.0 + i / 4 for i in range(32)]
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": ORIGINAL}

KINDS: dict[str, Mapping[str, object]] = {
    "default": {"rope_type": "default"},
    "partial": {"rope_type": "default", "partial_rotary_factor": 0.5},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "yarn": YARN,
    "yarn attention_factor": {**YARN, "attention_factor": 0.5},
    "yarn mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn untruncated betas": {**YARN, "truncate": False, "beta_fast": 20.0, "beta_slow": 2.0},
    "yarn half rotated": {**YARN, "partial_rotary_factor": 0.5},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "factor": 8.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "longrope attention_factor": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "attention_factor": 1.7,
        "original_max_position_embeddings": ORIGINAL,
    },
}


def hugging_face(
    parameters: Mapping[str, object], length: int, theta: float
) -> tuple[transformers.PreTrainedConfig, Tensor]:
    """Transformers' config, and its angles [length, R] (cosines, then sines) for a sequence of `length` tokens."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # here, as every worker finds all tests
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=ORIGINAL,
        rope_parameters={**parameters, "rope_theta": theta},
    )
    embedding = LlamaRotaryEmbedding(config)
    if parameters["rope_type"] == "default":
        dim = int(HEAD_DIM * float(str(parameters.get("partial_rotary_factor", 1.0))))
        inverse, factor = 1.0 / theta ** (torch.arange(0, dim, 2).float() / dim), 1.0
    else:
        seq_len = length if parameters["rope_type"] in ("dynamic", "longrope") else None
        inverse, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, None, seq_len=seq_len)
    embedding.inv_freq, embedding.original_inv_freq = inverse, inverse
    embedding.attention_scaling = factor
    angle = torch.arange(length).float()[:, None] * inverse
    return config, torch.cat((angle.cos(), angle.sin()), -1) * factor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [ORIGINAL // 2, ORIGINAL, 8 * ORIGINAL])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_angles_equal_those_of_transformers(kind: str, length: int, theta: float) -> None:
    saved, expected = hugging_face(KINDS[kind], length, theta)
    rope = models_config.rope(HFConfig(saved.to_dict()), HEAD_DIM)
    angles = RotaryTable(rope, length, PLACE)(torch.arange(length, dtype=torch.int32))
    assert angles.shape == expected.shape
    assert (angles - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_older_spelling_means_the_same_rope(kind: str) -> None:
    parameters = dict(KINDS[kind])
    new = {"rope_parameters": {**parameters, "rope_theta": 5e5}, "max_position_embeddings": ORIGINAL}
    partial = parameters.pop("partial_rotary_factor", 1.0)
    parameters["type"] = parameters.pop("rope_type")
    old = {"rope_scaling": parameters, "rope_theta": 5e5, "max_position_embeddings": ORIGINAL}
    expected = models_config.rope(HFConfig(new), HEAD_DIM)
    assert models_config.rope(HFConfig({**old, "partial_rotary_factor": partial}), HEAD_DIM) == expected
    assert expected.theta == 5e5


def test_phi3_longrope_takes_its_factor_from_the_two_lengths() -> None:
    parameters = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "rope_theta": 10000.0}
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    saved = transformers.Phi3Config(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=32 * ORIGINAL,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters=dict(parameters),
        pad_token_id=None,
    )
    for length in (ORIGINAL, ORIGINAL + 1):
        expected, factor = ROPE_INIT_FUNCTIONS["longrope"](saved, None, seq_len=length)
        rope = models_config.rope(HFConfig(saved.to_dict()), HEAD_DIM)
        inverse, attention_factor = frequencies(rope, length)
        assert (inverse - expected).abs().max() <= 1e-6
        assert attention_factor == pytest.approx(factor, abs=1e-9)


def test_dynamic_scaling_starts_only_beyond_the_original_context() -> None:
    rope = spec.Rope(10000.0, 8, spec.Dynamic(factor=2.0, original=100))
    plain, _ = frequencies(spec.Rope(10000.0, 8), 100)
    assert torch.equal(frequencies(rope, 100)[0], plain)
    assert frequencies(rope, 101)[0][-1] < plain[-1]
