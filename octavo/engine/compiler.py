"""GrammarCompiler: what a request's output must match, tried out in a bounded process and remembered."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import OrderedDict
from copy import copy

from msgspec import msgpack

from octavo.bounded import Bounded, Bounds, CallFailed, Exceeded
from octavo.engine.trial import Setup, Verdict
from octavo.errors import InvalidRequest, StepFailed
from octavo.messages import Grammar
from octavo.structured import FIELD, StructuredOutputsParams

BOUNDS = Bounds(seconds=5.0, memory_bytes=512 << 20, reply_bytes=16 << 20, nice=5)
PROCESSES = 2
CACHE_BYTES = 32 << 20
ENTRY_BYTES = 512  # of a remembered verdict, besides its text
TOO_MUCH = {
    "time": f"takes more than {BOUNDS.seconds:g} seconds to build",
    "memory": f"takes more than {BOUNDS.memory_bytes >> 20} MiB to build",
    "size": "becomes too large",
    "death": "ended the process that was to build it",
}


class VerdictCache:
    """Verdicts by digest, bounded in bytes. When they are too many, who has most of them loses the oldest (R39)."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self._by_owner: dict[str, OrderedDict[bytes, Verdict]] = {}
        self._bytes_of: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_owner.values()))

    def get(self, owner: str, digest: bytes) -> Verdict | None:
        """The verdict, if it is remembered for this owner."""
        mine = self._by_owner.get(owner)
        if mine is None or digest not in mine:
            return None
        mine.move_to_end(digest)
        return mine[digest]

    def put(self, owner: str, digest: bytes, verdict: Verdict) -> None:
        """Remember a verdict, and forget others when there is no room."""
        mine = self._by_owner.setdefault(owner, OrderedDict())
        if digest not in mine:
            mine[digest] = verdict
            self._count(owner, size_of(verdict))
        while self.num_bytes > self.most_bytes:
            richest = max(self._bytes_of, key=lambda name: self._bytes_of[name])
            _, dropped = self._by_owner[richest].popitem(last=False)
            self._count(richest, -size_of(dropped))

    def _count(self, owner: str, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self._bytes_of[owner] = self._bytes_of.get(owner, 0) + num_bytes
        if not self._bytes_of[owner]:
            del self._bytes_of[owner], self._by_owner[owner]


def size_of(verdict: Verdict) -> int:
    """About the bytes that a remembered verdict takes."""
    return ENTRY_BYTES + len(verdict.text.encode()) + len((verdict.message or "").encode())


class GrammarCompiler:
    """Compiles for one model. Its processes start with the first call. Belongs to the running event loop."""

    def __init__(self, setup: Setup) -> None:
        self.limits = setup.limits
        self.cache = VerdictCache()
        self._trials = Bounded("octavo.engine.compiling", msgpack.encode(setup), BOUNDS, PROCESSES)
        self._running: dict[bytes, asyncio.Task[Verdict]] = {}

    def stop(self) -> None:
        """End the processes. Safe to call twice."""
        self._trials.stop()

    @property
    def pids(self) -> list[int]:
        """The processes there are."""
        return self._trials.pids

    async def compile(self, wanted: StructuredOutputsParams, owner: str = "") -> Grammar:
        """The grammar; InvalidRequest when it is refused, Overloaded when too many wait. `owner` shares the cache."""
        wanted.check(self.limits)
        matched = copy(wanted)
        matched.begin_after = matched.opening = None
        matched.source = FIELD
        # As text: the numbers of a schema may be too large for msgpack.
        if isinstance(matched.json, dict):
            matched.json = json.dumps(matched.json)
        if isinstance(matched.structural_tag, dict):
            matched.structural_tag = json.dumps(matched.structural_tag)
        request = msgpack.encode(matched)
        digest = hashlib.sha256(request).digest()
        verdict = self.cache.get(owner, digest)
        if verdict is None:
            if digest not in self._running:
                task = asyncio.create_task(self._try(request))
                self._running[digest] = task
                task.add_done_callback(lambda _: self._running.pop(digest, None))
            verdict = await asyncio.shield(self._running[digest])
            self.cache.put(owner, digest, verdict)
        if verdict.message is not None:
            raise InvalidRequest(f"{wanted.source}: {verdict.message}", wanted.source)
        name = hashlib.sha256(verdict.text.encode()).digest()[:16]
        return Grammar(name, verdict.text, verdict.num_bytes, tuple(wanted.begin_after or ()), wanted.opening)

    async def _try(self, request: bytes) -> Verdict:
        try:
            return msgpack.decode(await self._trials.call(request), type=Verdict)
        except Exceeded as error:
            return Verdict(message=f"it {TOO_MUCH[error.what]}; make it smaller")
        except CallFailed:
            raise StepFailed("the engine failed while building this request's grammar") from None


class BlockingCompiler:
    """The same for programs without an event loop, on a thread that has one."""

    def __init__(self, setup: Setup) -> None:
        self._loop = asyncio.new_event_loop()
        self._compiler = GrammarCompiler(setup)
        threading.Thread(target=self._loop.run_forever, name="octavo-compiler", daemon=True).start()

    def compile(self, wanted: StructuredOutputsParams) -> Grammar:
        """The grammar; InvalidRequest when it is refused."""
        return asyncio.run_coroutine_threadsafe(self._compiler.compile(wanted), self._loop).result()

    def stop(self) -> None:
        """End processes and thread."""

        async def end() -> None:
            self._compiler.stop()
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
