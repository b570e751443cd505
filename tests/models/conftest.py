"""Models are built by hand here: each test finds the torch references bound, whatever an engine before it bound."""

from __future__ import annotations

import pytest

from octavo.ops import registry


@pytest.fixture(autouse=True)
def references() -> None:
    registry.bind(("reference",))
