"""Logging: one format, one switch, and no line a request can break in two."""

from __future__ import annotations

import logging
import sys

from octavo import env

FORMAT = "%(asctime)s %(levelname).1s %(name)s  %(message)s"


class OneLine(logging.Formatter):
    """Escapes control characters of a message, so that text from a request cannot forge a log line (R34)."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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
