"""Percentiles, tables and JSON files of measurements."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

PERCENTILES = (50, 90, 99)


def percentile(values: Sequence[float], p: float) -> float:
    """The p-th percentile by linear interpolation."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * p / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(name: str, values_s: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles of some durations, in milliseconds, under vLLM's key names."""
    ms = [value * 1000 for value in values_s] or [math.nan]
    result = {f"mean_{name}_ms": sum(ms) / len(ms)}
    return result | {("median" if p == 50 else f"p{p}") + f"_{name}_ms": percentile(ms, p) for p in PERCENTILES}


def show(title: str, numbers: Mapping[str, float], spreads: Mapping[str, Sequence[float]] = {}) -> None:
    """Print a table: single numbers first, then a row of percentiles for each kind of duration."""
    console = Console()
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in numbers.items():
        table.add_row(name, f"{value:,.0f}" if value == value and value == int(value) else f"{value:,.2f}")
    console.print(table)
    if spreads:
        table = Table("milliseconds", "mean", *(f"p{p}" for p in PERCENTILES))
        for name, values in spreads.items():
            figures = spread(name, values).values()
            table.add_row(name, *(f"{figure:,.2f}" for figure in figures))
        console.print(table)


def write(path: Path | None, result: Mapping[str, object]) -> None:
    """Write the result as JSON when a path is given; what was not measured (NaN) is left out."""
    if path is not None:
        known = {name: value for name, value in result.items() if value == value}
        path.write_text(json.dumps(known, indent=2) + "\n")
