"""`octavo collect-env`: what this machine and installation are, to put into a bug report."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from importlib import metadata

from rich.console import Console
from rich.table import Table

from octavo import __version__, env
from octavo.platforms import native

PACKAGES = (
    "torch", "triton", "numpy", "safetensors", "tokenizers", "huggingface_hub", "jinja2", "fastapi", "uvicorn",
    "msgspec", "pyzmq", "prometheus-client", "llguidance", "gguf", "transformers",
)  # fmt: skip

GPU_FACTS = {
    "name": "",
    "memory.total": "memory",
    "memory.used": "used",
    "compute_cap": "compute capability",
    "driver_version": "driver",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Output format."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    facts = collect()
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in facts.items():
        table.add_row(f"[bold]{key}[/bold]", value)
    Console().print(table, highlight=False)
    return 0


def collect() -> dict[str, str]:
    """Facts by name. Nothing secret: no key, no path, no host name."""
    facts = {
        "octavo": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    facts |= {name: str(value) for name, value in vars_of(native.report()).items()}
    facts |= gpus()
    facts["hub"] = "offline" if env.offline() else "online"
    for name in PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def gpus() -> dict[str, str]:
    """Each NVIDIA GPU as its driver's own tool tells of it; empty without one."""
    try:
        command = ["nvidia-smi", f"--query-gpu=index,{','.join(GPU_FACTS)}", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, str] = {}
    for line in filter(None, told.splitlines()):
        index, *values = line.split(", ")
        facts = (f"{what} {value}".strip() for what, value in zip(GPU_FACTS.values(), values, strict=False))
        found[f"gpu {index}"] = ", ".join(facts)
    return found


def vars_of(report: object) -> dict[str, object]:
    """A dataclass's fields, lists joined for people."""
    fields = getattr(report, "__dataclass_fields__", {})
    values = {name: getattr(report, name) for name in fields}
    return {
        f"cpu {name.replace('_', ' ')}": " ".join(map(str, v)) if isinstance(v, (list, tuple, set, frozenset)) else v
        for name, v in values.items()
    }
