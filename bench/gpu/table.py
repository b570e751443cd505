"""The report as text: with rich where it is installed, plain otherwise."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from gpu.rows import Row

COLUMNS = ("part", "work", "measured", "figure", "met")


def progress(name: str, result: Mapping[str, Any]) -> str:
    """One line about a part that has ended."""
    told = f"{len(result['rows'])} rows" if "rows" in result else ""
    if "tests" in result:
        told = ", ".join(f"{count} {what}" for what, count in result["tests"].items())
    why = f": {result['why']}" if result.get("why") else ""
    return f"{name}: {result['state']}{why}, {result['seconds']:.0f} s{', ' * bool(told)}{told}"


def show(report: Mapping[str, Any], order: Sequence[str]) -> None:
    """Print the machine, the table, and what went wrong."""
    packages = ", ".join(f"{name} {version}" for name, version in report["packages"].items() if version)
    what = "; ".join(report["gpus"]) or f"no GPU, {report['cpu']}"
    print(f"\n{what}\n{packages}, Python {report['python']}")
    print(f"commit {report['commit'][:12]}{' with changes' * report['is_changed']}, {report['date']}")
    if report["is_rehearsal"]:
        print("a rehearsal: the figures mean nothing")
    parts = {name: report["parts"][name] for name in order if name in report["parts"]}
    lines = [(name, *cells(Row.of(row))) for name, result in parts.items() for row in result.get("rows", ())]
    if importlib.util.find_spec("rich") is not None:
        show_rich(lines)
    else:
        print(plain(lines))
    for name, result in parts.items():
        if result["state"] != "ok" or "tests" in result:
            print(progress(name, result))
        for failure in result.get("failures", ())[:10]:
            last = failure["why"].strip().splitlines()[-1:] or ["?"]
            print(f"    {failure['test']}: {last[0][:160]}")


def cells(row: Row) -> tuple[str, str, str, str]:
    """What a row shows in each column but the first."""
    value = "not measured" if row.value is None else f"{row.value:,.4g} {row.unit}"
    figure = "" if row.figure is None else f"{'<=' if row.at_most else '>='} {row.figure:g}"
    met = {None: "", True: "yes", False: "no"}[row.meets]
    if row.value is None and "why" in row.details:
        value = f"{value}: {row.details['why']}"
    return row.work, value, figure, met


def show_rich(lines: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shown = Table(*COLUMNS)
    for line in lines:
        shown.add_row(*line)
    Console(width=max(console.width, 150)).print(shown)


def plain(lines: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell."""
    table = [COLUMNS, *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )
