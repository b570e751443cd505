"""The environment variables octavo reads: all of them, here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from octavo.errors import StartupError

LOG_LEVEL = "OCTAVO_LOG_LEVEL"  # one of LEVELS; INFO is the default
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
API_KEY = "OCTAVO_API_KEY"  # the key of `octavo serve`, so that it does not stand in `ps`
ISA = "OCTAVO_ISA"  # force the native library to a lower instruction-set level, for tests


def log_level() -> str:
    """The name of the wanted log level."""
    level = os.environ.get(LOG_LEVEL, "INFO").upper()
    if level not in LEVELS:
        raise StartupError(f"{LOG_LEVEL} must be one of {', '.join(LEVELS)}; got {level[:40].lower()!r}", LOG_LEVEL)
    return level


def api_key() -> str | None:
    """The server's key when one is set and not empty."""
    return os.environ.get(API_KEY) or None


def isa() -> str | None:
    """The forced instruction-set level, if any."""
    return os.environ.get(ISA) or None


def offline() -> bool:
    """Whether the Hugging Face hub must not be contacted."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def child() -> dict[str, str]:
    """The environment for an engine process: this one's, with the folder octavo was imported from on its path.

    The working folder is not: a file of somebody's that is called like a module would be taken for it.
    """
    package = str(Path(__file__).resolve().parent.parent)
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    rest = {key: value for key, value in os.environ.items() if key != API_KEY}
    return rest | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONSAFEPATH": "1"}
