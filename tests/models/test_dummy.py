"""Dummy weights: every family's model is whole without a file, and an engine runs on a config.json alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from octavo import LLM, SamplingParams
from octavo.attention import backend
from octavo.attention.bidirectional import BidirectionalAttention
from octavo.checkpoint import POCKET
from octavo.errors import StartupError
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.encoder import EncoderModel
from octavo.models.registry import spec_for
from octavo.spec import Encoder
from octavo.weights.dummy import NAMES, dummy_source

from .test_families import FAMILIES

CPU = torch.device("cpu")
ENCODER = {
    "architectures": ["BertForSequenceClassification"], "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "type_vocab_size": 2,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip


def config_of(name: str) -> dict[str, object]:
    if name == "bert":
        return ENCODER
    chosen = FAMILIES[name]
    config = getattr(transformers, f"{chosen.model}Config")(**chosen.options).to_dict()
    use = "LMHeadModel" if chosen.model == "GPT2" else "ForCausalLM"
    return {**config, "architectures": [chosen.model.removesuffix("Text") + use]}


@pytest.mark.parametrize("name", [*FAMILIES, "bert"])
def test_a_model_asks_for_exactly_the_tensors_there_are(name: str) -> None:
    model = replace(spec_for(HFConfig(config_of(name))), names=NAMES)
    source = dummy_source(model, torch.float32, CPU)
    if isinstance(model, Encoder):
        loaded = EncoderModel(model, torch.float32, CPU, BidirectionalAttention(), 64)
    else:
        loaded = DecoderModel(model, torch.float32, CPU, backend.create("sdpa"), 64)
    assert loaded.load(source) == []
    assert source.bytes_read == source.total_bytes == 4 * source.num_parameters


def test_the_same_seed_makes_the_same_values_and_another_makes_others() -> None:
    model = spec_for(HFConfig(config_of("gemma3")))
    name = "model.layers.0.mlp.up_proj.weight"
    first, again, other = (dummy_source(model, torch.bfloat16, CPU, seed).read(name) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == torch.bfloat16 and 0.015 < first.float().std() < 0.025


def folder(at: Path, **more: object) -> Path:
    (at / "config.json").write_text(json.dumps({**config_of("qwen3"), **more}))
    return at


def test_an_engine_runs_on_a_config_alone(tmp_path: Path) -> None:
    options = {"tokenizer": str(POCKET), "load_format": "dummy", "max_model_len": 64, "use_tqdm_on_load": False}
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    told = []
    for quantization in ("none", "none", "int8"):
        with LLM(str(folder(tmp_path)), quantization=quantization, **options) as llm:
            (output,) = llm.generate({"prompt_token_ids": [3, 1, 4]}, params, use_tqdm=False)
            told.append(output.outputs[0].token_ids)
    assert told[0] == told[1] and len(told[2]) == 5


def test_weights_that_a_config_says_are_quantized_are_refused(tmp_path: Path) -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}
    with pytest.raises(StartupError, match="load_format=dummy makes dense weights"):
        LLM(str(folder(tmp_path, quantization_config=awq)), tokenizer=str(POCKET), load_format="dummy")
