"""Shelves: uploaded files, and batches with their state, in a folder."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from octavo.errors import Overloaded, StartupError
from octavo.limits import Limits
from octavo.serve.data import open_database

T = TypeVar("T")
VERSION = 1
TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, purpose TEXT NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, status TEXT NOT NULL, body BLOB NOT NULL
) STRICT;
"""
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")


Found = dict[str, object]  # in a class that has a field `object`, the name means that field


class File(msgspec.Struct, kw_only=True):
    """OpenAI's file object."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"


class Counts(msgspec.Struct):
    """How many lines there are, and how many have an outcome."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, kw_only=True):
    """OpenAI's batch object."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    created_at: int
    expires_at: int
    object: str = "batch"
    errors: Found | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = msgspec.field(default_factory=Counts)
    metadata: dict[str, str] | None = None

    def now(self, status: str) -> None:
        """Enter a state, and note when."""
        self.status = status
        setattr(self, f"{status}_at", int(time.time()))


class Shelves:
    """Files and batches of one server. An owner is the id of an API key, or ""; one sees nothing of another."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.limits = limits
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, "batches")
        try:
            (self.folder / "files").mkdir(mode=0o700, exist_ok=True)
            for left in (self.folder / "files").glob("*.part"):
                left.unlink()
            self._db = open_database(self.folder / "batches.sqlite3", TABLES, VERSION)
        except (sqlite3.Error, OSError) as error:
            raise StartupError(f"{self.folder} cannot be used for files and batches: {error}", "data_dir") from error

    async def do(self, work: Callable[[], T]) -> T:
        """Run blocking work on the shelves' own thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def path(self, file_id: str) -> Path:
        """Where a file's content is."""
        return self.folder / "files" / file_id

    def check_room(self, num_bytes: int) -> None:
        """Overloaded when there is no place for one more file of this size."""
        count, total = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM files").fetchone()
        if count >= self.limits.files or total + num_bytes > self.limits.files_bytes:
            raise Overloaded(f"{count} files of {total} bytes are kept here, and no more fit; delete some")

    def put_file(self, owner: str, file: File) -> None:
        """Know a file whose content is in place."""
        row = (file.id, owner, file.purpose, file.bytes, msgspec.json.encode(file))
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", row)

    def get_file(self, owner: str, id: str) -> File | None:
        """The owner's file of that id."""
        row = self._db.execute("SELECT body FROM files WHERE id = ? AND owner = ?", (id, owner)).fetchone()
        return msgspec.json.decode(row[0], type=File) if row else None

    def list_files(self, owner: str) -> list[File]:
        """The owner's files, latest first."""
        rows = self._db.execute("SELECT body FROM files WHERE owner = ? ORDER BY rowid DESC", (owner,))
        return [msgspec.json.decode(body, type=File) for (body,) in rows]

    def delete_file(self, owner: str, id: str) -> bool:
        """Forget a file and its content; whether there was one."""
        gone = self._db.execute("DELETE FROM files WHERE id = ? AND owner = ? RETURNING id", (id, owner)).fetchall()
        if gone:
            self.path(id).unlink(missing_ok=True)
        return bool(gone)

    def put_batch(self, owner: str, batch: Batch) -> None:
        """Keep a batch as it is now; Overloaded when it is new and there are too many."""
        if not self._db.execute("SELECT 1 FROM batches WHERE id = ?", (batch.id,)).fetchone():
            count = self._db.execute("SELECT count(*) FROM batches").fetchone()[0]
            if count >= self.limits.batches:
                self._drop_oldest()
        row = (batch.id, owner, batch.status, msgspec.json.encode(batch))
        self._db.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET status = excluded.status, "
            "body = excluded.body",
            row,
        )

    def _drop_oldest(self) -> None:
        gone = self._db.execute(
            "DELETE FROM batches WHERE rowid = (SELECT min(rowid) FROM batches WHERE status NOT IN (?, ?, ?, ?)) "
            "RETURNING id",
            UNFINISHED,
        ).fetchall()
        if not gone:
            raise Overloaded(f"{self.limits.batches} batches are unfinished, which is the limit; try again later")

    def get_batch(self, owner: str, id: str) -> Batch | None:
        """The owner's batch of that id."""
        row = self._db.execute("SELECT body FROM batches WHERE id = ? AND owner = ?", (id, owner)).fetchone()
        return msgspec.json.decode(row[0], type=Batch) if row else None

    def list_batches(self, owner: str) -> list[Batch]:
        """The owner's batches, latest first."""
        rows = self._db.execute("SELECT body FROM batches WHERE owner = ? ORDER BY rowid DESC", (owner,))
        return [msgspec.json.decode(body, type=Batch) for (body,) in rows]

    def unfinished(self) -> list[tuple[str, Batch]]:
        """Batches that a server left, with their owners, oldest first."""
        rows = self._db.execute(
            "SELECT owner, body FROM batches WHERE status IN (?, ?, ?, ?) ORDER BY rowid", UNFINISHED
        )
        return [(owner, msgspec.json.decode(body, type=Batch)) for owner, body in rows]

    def uses(self, file_id: str) -> bool:
        """Whether an unfinished batch still reads this file."""
        return any(batch.input_file_id == file_id for _, batch in self.unfinished())
