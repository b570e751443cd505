"""One part of the GPU check by itself: its rows as lines, and other tiles on request."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from gpu.rows import Row, Scene

Part = Callable[[Scene], Iterator[Row]]


def run_alone(module: str, about: str | None, measure: Part, sweep: Part | None = None) -> None:
    """The command `python -m <module>`; with --sweep, `sweep` follows."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if sweep is not None:
        parser.add_argument("--sweep", action="store_true", help="try other tiles too")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"{module} measures an NVIDIA GPU, and torch sees none here")
    scene = Scene(f"cuda:{torch.cuda.current_device()}", budget_s=3600)
    for part in (measure, sweep) if sweep is not None and args.sweep else (measure,):
        for row in part(scene):
            print(f"{row.work:90}", "-" if row.value is None else f"{row.value:8.1f}", row.unit, dict(row.details))
