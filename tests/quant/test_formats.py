"""Quantized checkpoints: each method's tensors against their float64 values, and what is refused, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from octavo.errors import StartupError, UnsupportedModel
from octavo.models.config import HFConfig
from octavo.models.registry import spec_for
from octavo.quant.method import stored_format
from octavo.quant.online import Quantizing, Scheme
from octavo.weights.floats import ScaledFloat8
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.source import TensorSource
from octavo.weights.weight import Dense, Weight

from . import encoders
from .encoders import Encoded


def compressed(bits: int = 4, strategy: str = "group", **weights: object) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", "strategy": strategy, **weights}}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
MIXED = compressed()
MIXED["config_groups"]["group_1"] = compressed(8, "channel")["config_groups"]["group_0"]


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}


def read(config: Mapping[str, Any], encoded: Encoded, name: str = "q_proj") -> Weight:
    """The module as its format reads it, all of whose tensors it must have asked for."""
    source = TensorSource({f"model.{name}.{suffix}": tensor for suffix, tensor in encoded.tensors.items()})
    format = stored_format({"quantization_config": config})
    weight = format.read(source.at("model"), name)
    assert [left for left in source.unread() if not left.endswith(format.extras)] == []
    return weight


CASES = {
    "gptq": (GPTQ, encoders.gptq(16, 96, 32, symmetric=False), 32),
    "gptq symmetric": (GPTQ, encoders.gptq(8, 256, 128, symmetric=True), 128),
    "gptq version 2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, encoders.gptq(24, 64, 32, False, version=2), 32),
    "gptq one group": (GPTQ, encoders.gptq(8, 384, 384, symmetric=False), 128),
    "gptq wide groups": (GPTQ, encoders.gptq(8, 512, 256, symmetric=False), 128),
    "awq": (AWQ, encoders.awq(24, 96, 32), 32),
    "awq in groups of 64": (AWQ, encoders.awq(8, 128, 64), 64),
    "packed": (compressed(), encoders.pack_quantized(5, 96, 32, symmetric=True), 32),
    "packed with zero points": (compressed(), encoders.pack_quantized(13, 64, 32, symmetric=False), 32),
    "packed per channel": (compressed(4, "channel"), encoders.pack_quantized(3, 256, 256, symmetric=True), 128),
    "packed in mixed widths": (MIXED, encoders.pack_quantized(5, 96, 32, symmetric=True), 32),
}


@pytest.mark.parametrize("case", CASES)
def test_four_bits_are_read_as_their_values(case: str) -> None:
    config, encoded, group = CASES[case]
    weight = read(config, encoded)
    assert isinstance(weight, GroupInt) and weight.group == group
    assert weight.codes.max() <= 15 and (weight.zeros is None or weight.zeros.max() <= 15)
    assert torch.allclose(weight.dequantize(torch.float64), encoded.values, rtol=1e-6, atol=0)


def test_symmetric_four_bits_carry_no_zero_points() -> None:
    for case in ("gptq symmetric", "packed", "packed per channel"):
        config, encoded, _ = CASES[case]
        assert read(config, encoded).zeros is None


@pytest.mark.parametrize(
    ("config", "encoded"),
    [
        (compressed(8, "channel"), encoders.int_quantized(7, 33)),
        (compressed(8, "tensor"), encoders.int_quantized(7, 33, per="tensor")),
        (compressed(8, "channel"), encoders.pack_quantized(5, 64, 64, symmetric=True, bits=8)),
        (MIXED, encoders.pack_quantized(5, 64, 64, symmetric=True, bits=8)),
        ({**GPTQ, "bits": 8}, encoders.gptq(8, 64, 64, symmetric=True, bits=8)),
    ],
)
def test_eight_bits_are_read_as_their_values(config: Mapping[str, Any], encoded: Encoded) -> None:
    weight = read(config, encoded)
    assert isinstance(weight, ScaledInt8)
    assert torch.allclose(weight.dequantize(torch.float64), encoded.values, rtol=1e-6, atol=0)


def one_scale(rows: int, columns: int) -> Encoded:
    encoded = encoders.float8(rows, columns, (rows, columns), "weight_scale")
    return Encoded({**encoded.tensors, "weight_scale": encoded.tensors["weight_scale"].reshape(())}, encoded.values)


@pytest.mark.parametrize(
    ("config", "encoded"),
    [
        (FP8, encoders.float8(130, 300, (128, 128), "weight_scale_inv")),
        ({**FP8, "weight_block_size": [32, 64]}, encoders.float8(40, 64, (32, 64), "weight_scale_inv")),
        (FP8, encoders.float8(7, 33, (128, 128), "weight_scale_inv")),
        ({"quant_method": "fp8"}, encoders.float8(7, 33, None, "weight_scale")),
        ({"quant_method": "fp8", "activation_scheme": "static"}, one_scale(7, 33)),
        (compressed(8, "channel", type="float"), encoders.float8(7, 33, None, "weight_scale")),
        (compressed(8, "tensor", type="float"), one_scale(7, 33)),
        (
            compressed(8, "block", type="float", block_structure=[128, 128]),
            encoders.float8(130, 300, (128, 128), "weight_scale"),
        ),
        (
            compressed(8, "block", type="float", block_structure="64x32"),
            encoders.float8(100, 70, (64, 32), "weight_scale"),
        ),
    ],
)
def test_eight_bit_floats_are_read_as_their_values(config: Mapping[str, Any], encoded: Encoded) -> None:
    weight = read(config, encoded)
    assert isinstance(weight, ScaledFloat8)
    assert torch.equal(weight.dequantize(torch.float64), encoded.values.float().double())


@pytest.mark.parametrize("config", [GPTQ, AWQ, FP8, compressed(), compressed(8, "channel")])
def test_a_module_that_was_left_out_is_dense(config: Mapping[str, Any]) -> None:
    values = torch.randn(4, 8)
    weight = read(config, Encoded({"weight": values}, values.double()), "lm_head")
    assert isinstance(weight, Dense) and torch.equal(weight.values, values)


def test_static_ranges_of_activations_are_not_needed() -> None:
    encoded = encoders.int_quantized(4, 8)
    ranges = {"input_scale": torch.ones(1), "weight_zero_point": torch.zeros(4, 1, dtype=torch.int8)}
    assert isinstance(
        read(compressed(8, "channel"), Encoded({**encoded.tensors, **ranges}, encoded.values)), ScaledInt8
    )


def test_what_is_quantized_already_is_not_quantized_again() -> None:
    encoded = encoders.awq(8, 64, 32)
    tensors = {f"model.up_proj.{suffix}": tensor for suffix, tensor in encoded.tensors.items()}
    source = TensorSource({**tensors, "lm_head.weight": torch.randn(4, 64)})
    format = Quantizing(stored_format({"quantization_config": AWQ}), Scheme("int8"), False)
    assert isinstance(format.read(source.at("model"), "up_proj"), GroupInt)
    assert isinstance(format.read(source, "lm_head"), ScaledInt8)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "bitsandbytes.*it reads awq, compressed-tensors, fp8, gptq",
        ),
        ({"quant_method": "mxfp4"}, "'mxfp4'"),
        ({**FP8, "fmt": "e5m2"}, "'e5m2'"),
        ({**FP8, "weight_block_size": [128]}, r"\[128\]"),
        ({**FP8, "weight_block_size": "0x128"}, "'0x128'"),
        ({}, ""),
        ("gptq", "None"),
        ({"bits": 4}, "None"),
        ({**GPTQ, "bits": 3}, "3 bits"),
        ({**AWQ, "version": "gemv"}, "version gemv"),
        ({**AWQ, "bits": 8}, "8 bits"),
        (compressed(8, "group"), "8-bit int weights, one scale a group"),
        (compressed(4, "block"), "a block"),
        (compressed(4, "group", type="float"), "4-bit float"),
        (compressed(8, "group", type="float"), "8-bit float weights, one scale a group"),
        (compressed(actorder="group"), "actorder"),
    ],
)
def test_what_octavo_does_not_read_is_refused_by_name(config: object, words: str) -> None:
    llama = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    if not config:
        spec_for(HFConfig({**llama, "quantization_config": config}))
        return
    with pytest.raises(UnsupportedModel, match=words):
        spec_for(HFConfig({**llama, "quantization_config": config}))


def replaced(encoded: Encoded, **tensors: torch.Tensor) -> Encoded:
    return Encoded({**encoded.tensors, **tensors}, encoded.values)


@pytest.mark.parametrize(
    ("config", "encoded", "words"),
    [
        (GPTQ, replaced(encoders.gptq(8, 64, 32, True), g_idx=torch.arange(64) % 2), "desc_act"),
        ({**GPTQ, "bits": 8}, encoders.gptq(8, 64, 32, True, bits=8), "8-bit in groups"),
        ({**GPTQ, "bits": 8}, encoders.gptq(8, 64, 64, False, bits=8), "8-bit in groups or with zero points"),
        (
            compressed(8, "channel"),
            replaced(encoders.int_quantized(4, 8), weight_zero_point=torch.ones(4, 1)),
            "zero points",
        ),
        (compressed(8, "channel"), replaced(encoders.int_quantized(4, 8), weight=torch.ones(4, 8)), "float32"),
        (compressed(8, "channel"), replaced(encoders.int_quantized(4, 8), weight_scale=torch.ones(4, 2)), "one a row"),
        (FP8, replaced(encoders.float8(130, 8, (128, 128), "weight_scale_inv"), weight=torch.ones(130, 8)), "float32"),
        (
            FP8,
            replaced(encoders.float8(130, 8, (128, 128), "weight_scale_inv"), weight_scale_inv=torch.ones(3, 1)),
            r"scales \[3, 1\].*128 x 128",
        ),
        (
            FP8,
            replaced(
                encoders.float8(4, 8, (128, 128), "weight_scale_inv"), weight_scale_inv=torch.full((1, 1), torch.nan)
            ),
            "not finite",
        ),
    ],
)
def test_a_module_that_octavo_does_not_read_is_named(config: Mapping[str, Any], encoded: Encoded, words: str) -> None:
    with pytest.raises(StartupError, match=rf"model\.q_proj\.\w+ cannot be read: .*{words}"):
        read(config, encoded)
