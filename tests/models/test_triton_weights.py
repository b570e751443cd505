"""Models of quantized weights and of experts through Triton's kernels, beside the references on the same values."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo.attention import backend
from octavo.checkpoint import Checkpoint
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import spec_for
from octavo.ops import registry
from octavo.quant.online import Bits, Quantizing, Scheme
from octavo.weights.source import open_source
from octavo.weights.weight import StoredFormat

from .test_families import FAMILIES, reference_model
from .test_triton import DEVICE, run


def load(folder: Path, backends: tuple[str, ...], bits: Bits | None) -> DecoderModel:
    registry.bind(backends, torch.float32)
    described = spec_for(HFConfig(Checkpoint.resolve(str(folder)).config))
    stored = StoredFormat()
    format = stored if bits is None else Quantizing(stored, Scheme(bits), described.tied)
    kinds = backend.create("reference")
    model = DecoderModel(described, torch.float32, DEVICE, kinds, 64, backends, format)
    assert model.load(open_source(Checkpoint.resolve(str(folder)))) == []
    return model


@pytest.mark.parametrize(
    ("name", "bits", "rounds"),
    [
        ("mixtral", None, False),
        ("qwen3_moe", "int4", True),  # its head has int8
        ("olmoe-renormalized", "fp8", True),
        ("llama", "int8", True),
    ],
)
def test_a_model_computes_with_the_values_of_its_weights(
    name: str, bits: Bits | None, rounds: bool, tmp_path: Path
) -> None:
    reference_model(FAMILIES[name], tmp_path)
    expected, _ = run(load(tmp_path, ("reference",), bits), padding=0)
    found, _ = run(load(tmp_path, ("triton", "reference"), bits), padding=2)
    if not rounds:
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
        return
    # Activations are rounded to eight bits on the way to eight-bit weights.
    off = (found - expected).square().mean().sqrt() / expected.std()
    assert 0 < off < (0.2 if bits == "fp8" else 0.05)
