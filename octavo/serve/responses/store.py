"""Store: responses that outlive their request, in SQLite on a thread of its own; in a file, also a restart."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from octavo.errors import StartupError
from octavo.serve.data import open_database

T = TypeVar("T")

RUNNING = ("queued", "in_progress")
TABLES = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, used REAL NOT NULL, status TEXT NOT NULL, previous TEXT,
    response BLOB NOT NULL, input BLOB NOT NULL, events BLOB, size INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS items (
    owner TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL,
    response TEXT NOT NULL REFERENCES responses ON DELETE CASCADE, PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_response ON items (response);
CREATE INDEX IF NOT EXISTS responses_by_owner ON responses (owner, used, size);
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used);
"""
PUT = """
INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET used = excluded.used, status = excluded.status, response = excluded.response,
    events = excluded.events, size = excluded.size
"""
# Of those that do not run: the least recently used one of the owner who has most.
EVICT = """
DELETE FROM responses WHERE id = (
    SELECT id FROM responses WHERE status NOT IN ('queued', 'in_progress') AND owner = (
        SELECT owner FROM responses WHERE status NOT IN ('queued', 'in_progress')
        GROUP BY owner ORDER BY {most} DESC LIMIT 1
    ) ORDER BY used LIMIT 1
) RETURNING size
"""
VERSION = 1
COLUMNS = "id, owner, status, previous, response, input, events"
HISTORY = "id, owner, status, previous, response, input, NULL"  # what the next response needs


@dataclass(frozen=True)
class Stored:
    """A response as it is kept. `response` and `input` are JSON, `events` its stream, one event a line."""

    id: str
    owner: str  # digest of the API key it was made with, or ""
    status: str
    previous: str | None
    response: bytes
    input: bytes
    events: bytes | None = None


@dataclass(frozen=True)
class Bounds:
    """How much is kept: the least recently used goes first, from the owner who has most. Running ones stay."""

    count: int
    size: int  # bytes
    ttl_s: float


class Store:
    """The responses of one server. `path`: its file, which must be no other server's; None keeps them in memory."""

    def __init__(self, path: Path | None, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self._bounds = bounds
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "responses")
        try:
            self._db = self._open(path)
        except (sqlite3.Error, OSError) as error:
            raise StartupError(f"{path} cannot be used for stored responses: {error}", "data_dir") from error

    def _open(self, path: Path | None) -> sqlite3.Connection:
        db = open_database(path, TABLES, VERSION)
        self._count, self._size = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM responses").fetchone()
        return db

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def put(self, one: Stored, items: Iterable[tuple[str, bytes]]) -> None:
        """Keep a response, in place of what its id had, and its items by their ids."""
        rows = list(items)
        await self._run(lambda: self._put(one, rows))

    async def get(self, owner: str, id: str) -> Stored | None:
        """The owner's response of that id."""
        return await self._run(lambda: self._get(owner, id))

    async def chain(self, owner: str, id: str, longest: int) -> list[Stored]:
        """The response and those before it, oldest first; all count as used now. Shorter where one is missing."""
        return await self._run(lambda: self._chain(owner, id, longest))

    async def items(self, owner: str, ids: Iterable[str]) -> dict[str, bytes]:
        """Those of the owner's items that there are."""
        wanted = list(ids)
        return await self._run(lambda: self._items(owner, wanted)) if wanted else {}

    async def delete(self, owner: str, id: str) -> bool:
        """Forget a response; whether there was one."""
        return await self._run(lambda: self._delete(owner, id))

    def interrupted(self) -> list[Stored]:
        """What was running when the last server ended. Call it before anything else runs."""
        found = self._db.execute(f"SELECT {COLUMNS} FROM responses WHERE status IN (?, ?)", RUNNING)
        return [stored(row) for row in found]

    def put_now(self, one: Stored) -> None:
        """`put` without items, while nothing else runs."""
        self._put(one, [])

    def close(self) -> None:
        """Wait for what is being written, then let go of the file."""
        self._thread.shutdown()
        self._db.close()

    def _put(self, one: Stored, items: list[tuple[str, bytes]]) -> None:
        events = zlib.compress(one.events, 1) if one.events is not None else None
        size = sum(map(len, (one.response, one.input, events or b"", *(body for _, body in items))))
        with Transaction(self._db):
            before = self._db.execute("SELECT size FROM responses WHERE id = ?", (one.id,)).fetchone()
            self._db.execute(
                PUT, (one.id, one.owner, self._clock(), one.status, one.previous, one.response, one.input, events, size)
            )
            # A client may send an item again that it got from an earlier response: the first is the one referred to.
            self._db.executemany(
                "INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?)", [(one.owner, id, body, one.id) for id, body in items]
            )
            self._count += before is None
            self._size += size - (before[0] if before else 0)
            self._shrink()

    def _shrink(self) -> None:
        """Delete what is too old, then what is too much."""
        old = self._db.execute(
            "DELETE FROM responses WHERE used < ? AND status NOT IN (?, ?) RETURNING size",
            (self._clock() - self._bounds.ttl_s, *RUNNING),
        ).fetchall()
        self._forgot(old)
        while self._count > self._bounds.count or self._size > self._bounds.size:
            most = "sum(size)" if self._size > self._bounds.size else "count(*)"
            gone = self._db.execute(EVICT.format(most=most)).fetchall()
            if not gone:
                return
            self._forgot(gone)

    def _forgot(self, sizes: list[tuple[int]]) -> None:
        self._count -= len(sizes)
        self._size -= sum(size for (size,) in sizes)

    def _get(self, owner: str, id: str, columns: str = COLUMNS) -> Stored | None:
        oldest = self._clock() - self._bounds.ttl_s
        row = self._db.execute(
            f"SELECT {columns} FROM responses WHERE id = ? AND owner = ? AND used >= ?", (id, owner, oldest)
        ).fetchone()
        return stored(row) if row else None

    def _chain(self, owner: str, id: str, longest: int) -> list[Stored]:
        found: list[Stored] = []
        at: str | None = id
        while at is not None and len(found) < longest:
            one = self._get(owner, at, HISTORY)
            if one is None:
                break
            found.append(one)
            at = one.previous
        now = self._clock()
        with Transaction(self._db):
            self._db.executemany("UPDATE responses SET used = ? WHERE id = ?", [(now, one.id) for one in found])
        return found[::-1]

    def _items(self, owner: str, ids: list[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for id in ids:
            row = self._db.execute("SELECT body FROM items WHERE owner = ? AND id = ?", (owner, id)).fetchone()
            if row:
                found[id] = row[0]
        return found

    def _delete(self, owner: str, id: str) -> bool:
        gone = self._db.execute(
            "DELETE FROM responses WHERE id = ? AND owner = ? RETURNING size", (id, owner)
        ).fetchall()
        self._forgot(gone)
        return bool(gone)


def stored(row: tuple[str, str, str, str | None, bytes, bytes, bytes | None]) -> Stored:
    """A row of COLUMNS as a response."""
    events = row[6]
    return Stored(*row[:6], events=zlib.decompress(events) if events is not None else None)


class Transaction:
    """All of a block's changes, or none."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *rest: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
