"""The data directory: what a server keeps over restarts, in a folder that is its own while it runs."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from octavo.errors import StartupError

LOCK = "lock"


@contextmanager
def hold(folder: str | None) -> Generator[None]:
    """Make `folder`, readable by its owner alone, and keep other servers out of it; None needs nothing.

    StartupError when it cannot be written to, or another server holds it.
    """
    if folder is None:
        yield
        return
    try:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(Path(folder) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(f"data_dir={folder} cannot be used: {error.strerror}", "data_dir") from None
    try:
        take(lock, folder)
        yield
    finally:
        os.close(lock)


def take(lock: int, folder: str) -> None:
    """Lock the open file; StartupError when another process has."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartupError(f"data_dir={folder} is in use by another server; give each its own", "data_dir") from None


def open_database(path: Path | None, tables: str, version: int) -> sqlite3.Connection:
    """The database in a file, readable by its owner alone, or in memory, with these tables, in autocommit mode.

    StartupError when the file is of another version; sqlite3.Error or OSError when it cannot be used.
    """
    if path is not None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # what people asked is private
    db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA journal_mode = WAL")
    # The system keeps what was written when this process dies; only a power cut may lose the last of it.
    db.execute("PRAGMA synchronous = NORMAL")
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, version):
        raise StartupError(f"{path} has version {found}, this octavo reads {version}; move it away", "data_dir")
    db.executescript(tables)
    db.execute(f"PRAGMA user_version = {version}")
    return db
