"""Whole models on the GPU's attention beside the reference's: windows, caps, chunks behind chunks, decodes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from octavo.attention import backend
from octavo.checkpoint import Checkpoint
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import spec_for
from octavo.weights.source import open_source

from ..models.test_families import FAMILIES, reference_model
from ..models.test_triton import DEVICE, make_caches, step


def run(folder: Path, attention: str) -> Tensor:
    """Logits of two prompts, of the rest of one beside a decode of the other, and of two decodes."""
    checkpoint = Checkpoint.resolve(str(folder))
    described = spec_for(HFConfig(checkpoint.config))
    model = DecoderModel(described, torch.float32, DEVICE, backend.create(attention), 64)
    model.load(open_source(checkpoint))
    caches = make_caches(model)
    first = step(model, caches, [(0, [5, 9, 2, 8]), (0, [11])])
    second = step(model, caches, [(4, [7, 3, 1]), (1, [13])])
    third = step(model, caches, [(7, [6]), (2, [4])], padding=2)[:2]
    return torch.cat((first, second, third))


@pytest.mark.slow
def test_a_model_of_windows_and_caps_computes_what_it_computes_with_the_reference(tmp_path: Path) -> None:
    reference_model(FAMILIES["gemma2"], tmp_path)
    torch.testing.assert_close(run(tmp_path, "triton"), run(tmp_path, "reference"), rtol=2e-5, atol=2e-5)
