"""Logging: one format, one switch, and no line a request can break in two."""

from __future__ import annotations

import logging
import sys

from octavo import env

FORMAT = "%(asctime)s %(levelname).1s %(name)s  %(message)s"


class OneLine(logging.Formatter):
    """Escapes control characters, so that text from a request cannot forge a log line (R34)."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.exc_info:
            return text
        return text.replace("\r", "\\r").replace("\n", "\\n").replace("\x1b", "\\x1b")


def configure(level: str | None = None) -> None:
    """Send octavo's log to stderr at `level` (default: OCTAVO_LOG_LEVEL, else INFO). Called by process edges only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(FORMAT, datefmt="%H:%M:%S"))
    root = logging.getLogger("octavo")
    root.handlers[:] = [handler]
    root.setLevel(level or env.log_level())
    root.propagate = False


def get(name: str) -> logging.Logger:
    """The logger of a module; pass `__name__`."""
    return logging.getLogger(name)
