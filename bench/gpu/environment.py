"""What the check runs on, and what it would need that is not there; without importing torch."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

DRIVER = Path("/dev/nvidiactl")
ROOT = Path(__file__).resolve().parents[2]
# Module, and the distribution that brings it.
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "msgspec": "msgspec",
    "jinja2": "jinja2",
    "rich": "rich",
    "tokenizers": "tokenizers",
}
FOR_SOME = {
    "triton": "triton",
    "transformers": "transformers",
    "pytest": "pytest",
    "llguidance": "llguidance",
    "gguf": "gguf",
    "zmq": "pyzmq",
}
CARRIED = ("msgspec", "llguidance", "gguf", "pyzmq")
CARRY = (
    "python -m pip install --target .gpu-packages --no-deps --only-binary=:all: --implementation cp "
    "--python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 "
    "--platform manylinux2014_x86_64 " + " ".join(CARRIED)
)


def lacking(modules: Mapping[str, str]) -> list[str]:
    """Distributions of those modules that cannot be imported here."""
    return [name for module, name in modules.items() if importlib.util.find_spec(module) is None]


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU, as far as its driver says."""
    return DRIVER.exists() or bool(gpus())


def gpus() -> list[str]:
    """A line for each GPU: name, driver, memory."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def describe() -> dict[str, object]:
    """The machine, the versions and the commit, for the report."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpus": gpus(),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {
            name: version(name) for name in ("torch", "triton", "transformers", "numpy", "tokenizers", "msgspec")
        },
        "commit": git("rev-parse", "HEAD") or "unknown",
        "is_changed": bool(git("status", "--porcelain", "--untracked-files=no")),
    }


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def git(*arguments: str) -> str:
    """What git says in the repository; "" where it says nothing or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
