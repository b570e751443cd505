"""Where these tests compute: on the GPU, or in Triton's interpreter when they are run without one."""

from __future__ import annotations

import pytest
import torch

from octavo.ops import registry


@pytest.fixture
def device() -> torch.device:
    """The GPU, or the CPU that stands in for it."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def references() -> None:
    """Each test finds the references bound, whatever an engine before it bound."""
    registry.bind(("reference",))
