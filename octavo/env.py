"""The environment variables octavo reads: all of them, here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from octavo.errors import StartupError

LOG_LEVEL = "OCTAVO_LOG_LEVEL"  # one of LEVELS; INFO is the default
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
API_KEY = "OCTAVO_API_KEY"  # the key of `octavo serve`, so that it does not stand in `ps`
ADMIN_KEY = "OCTAVO_ADMIN_KEY"  # the key of its admin port
ISA = "OCTAVO_ISA"  # force the native library to a lower instruction-set level, for tests
RECORD_CHECK = "OCTAVO_RECORD_CHECK"  # 1: compare every native record of every step with torch; very slow
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # NVIDIA's own: how many buffers of which size its products may use
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"  # NVIDIA's own: which GPUs a process sees, and in which order
PROFILE = "OCTAVO_PROFILE"  # a file that gets a Chrome trace of the first steps, record by record


def log_level() -> str:
    """The name of the wanted log level."""
    level = os.environ.get(LOG_LEVEL, "INFO").upper()
    if level not in LEVELS:
        raise StartupError(f"{LOG_LEVEL} must be one of {', '.join(LEVELS)}; got {level[:40].lower()!r}", LOG_LEVEL)
    return level


def api_key() -> str | None:
    """The server's key when one is set and not empty."""
    return os.environ.get(API_KEY) or None


def admin_key() -> str | None:
    """The key of the admin port when one is set and not empty."""
    return os.environ.get(ADMIN_KEY) or None


def isa() -> str | None:
    """The forced instruction-set level, if any."""
    return os.environ.get(ISA) or None


def record_check() -> bool:
    """Whether every native record is compared with torch."""
    return os.environ.get(RECORD_CHECK, "").lower() in ("1", "true", "yes", "on")


def profile() -> Path | None:
    """Where to write the trace of the first steps, if anywhere."""
    return Path(os.environ[PROFILE]) if os.environ.get(PROFILE) else None


def threads() -> int | None:
    """The most threads that computations may use, as OMP_NUM_THREADS says; None when it does not."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(text) if text.isdigit() and int(text) > 0 else None


def use_threads(count: int) -> None:
    """Let computations of this process and of its children use `count` threads."""
    os.environ["OMP_NUM_THREADS"] = str(count)


def use_fixed_workspace() -> None:
    """Give cuBLAS a workspace that makes equal products equal from run to run, unless the user chose one."""
    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")


def visible_gpus() -> str | None:
    """The GPUs that this process is restricted to; None when it is not."""
    return os.environ.get(VISIBLE_GPUS)


def offline() -> bool:
    """Whether the Hugging Face hub must not be contacted."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def child() -> dict[str, str]:
    """The environment for an engine process: this one's, with the folder octavo was imported from on its path.

    The working folder is not: a file of somebody's that is called like a module would be taken for it.
    """
    package = str(Path(__file__).resolve().parent.parent)
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    rest = {key: value for key, value in os.environ.items() if key not in (API_KEY, ADMIN_KEY)}
    return rest | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONSAFEPATH": "1"}
