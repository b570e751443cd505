"""Records: the generation requests of this server, those being answered and the last ones that were, and whose."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from octavo.errors import OctavoError
from octavo.serve.errors import ClientGone

KEPT = 1024
MOST_NAMES = 8  # of one request


@dataclass(slots=True)
class Record:
    """One HTTP request. `id` is ours; `names` are what its owner may call it: the reply's id, a header of theirs.

    `key` is whose API key came with it. Times are of this process's monotonic clock; `created` is the wall's.
    """

    id: str
    key: str | None
    path: str
    names: list[str] = field(default_factory=list)
    trace: dict[str, str] = field(default_factory=dict)  # the headers of a W3C trace context
    created: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    body_at: float | None = None
    ended: float | None = None
    error: str | None = None  # what ended it: OpenAI's type of error, or that the client went away

    def name(self, name: str) -> None:
        """Give it one more name."""
        if len(self.names) < MOST_NAMES:
            self.names.append(name)

    def fail(self, error: BaseException) -> None:
        """Note what ended it; the machine shows in no word (R34)."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, OctavoError):
            self.error = error.kind
        elif isinstance(error, (ClientGone, asyncio.CancelledError)):
            self.error = "client_gone"
        else:
            self.error = OctavoError.kind


class Records:
    """Finds records for their owner and for nobody else."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.running: dict[str, Record] = {}
        self.ended: dict[str, Record] = {}
        self.on_end: Callable[[Record], None] | None = None

    @contextmanager
    def open(self, record: Record) -> Generator[Record]:
        """A record while the request is answered; kept for a while afterwards."""
        id = record.id
        self.running[id] = record
        try:
            yield record
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            record.ended = time.monotonic()
            self.ended[id] = self.running.pop(id)
            if len(self.ended) > self.kept:
                del self.ended[next(iter(self.ended))]
            if self.on_end is not None:
                self.on_end(record)

    def of(self, key: str | None) -> Iterator[Record]:
        """All records of a key, the latest first."""
        for records in (self.running, self.ended):
            yield from (record for record in reversed(records.values()) if record.key == key)

    def find(self, name: str, key: str | None) -> Record | None:
        """The record of this id or name, if it is the key's; of several with one name, the latest."""
        exact = self.running.get(name) or self.ended.get(name)
        if exact is not None:
            return exact if exact.key == key else None
        return next((record for record in self.of(key) if name in record.names), None)
