"""The embedded default model, octavo-pocket: a Hugging Face folder inside the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
