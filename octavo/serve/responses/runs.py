"""Runs: responses that are made in the background, whoever listens; bounded, and ended by their owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from octavo.errors import EngineDead, Overloaded
from octavo.serve.responses.store import RUNNING
from octavo.serve.responses.turn import Turn
from octavo.serve.service import Place, Service
from octavo.serve.tenants import Tenant


class Run:
    """One of them. Any number may follow its events."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.task: asyncio.Task[None] | None = None
        self.is_over = False
        self._changed: asyncio.Future[None] | None = None
        self._wanted_gone = False

    async def make(self) -> None:
        """Make the response to its end; never raises for what a response can cause."""
        turn = self.turn
        try:
            async with aclosing(turn.events()) as events:
                async for _ in events:
                    self._tell()
        except asyncio.CancelledError:
            await self._cut()
        except Exception as error:  # of the store; one response's failure must not end another's
            turn.fail(error)
        finally:
            self.is_over = True
            self._tell()

    async def cancel(self) -> None:
        """End it and wait until that is stored."""
        assert self.task is not None
        if not self._wanted_gone:
            self._wanted_gone = True
            self.task.cancel()
        await asyncio.wait((self.task,))
        if not self.is_over:  # it had not begun
            await self._cut()
            self.is_over = True
            self._tell()

    async def _cut(self) -> None:
        """End the response where it is, because its owner or the server wants that."""
        if self.turn.status in RUNNING:
            if self._wanted_gone:
                self.turn.cancel()
            else:
                self.turn.fail(EngineDead("the server was shut down"))
        await self.turn.save()

    def _tell(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
        self._changed = None

    async def follow(self, first: int) -> AsyncGenerator[bytes, None]:
        """The events from number `first` on, as they come; what a slow reader missed comes at once."""
        events = self.turn.writer.log
        assert events is not None
        while True:
            if first < len(events):
                some = b"".join(events[first:])
                first = len(events)
                yield some
            elif self.is_over:
                return
            else:
                if self._changed is None:
                    self._changed = asyncio.get_running_loop().create_future()
                await asyncio.wait((self._changed,))


class Runs:
    """Those of one server, at most `most` at once."""

    def __init__(self, service: Service, most: int) -> None:
        self._service = service
        self._most = most
        self._runs: dict[str, Run] = {}

    async def start(self, turn: Turn, tenant: Tenant | None) -> Run:
        """Make `turn` in the background, stored as queued; Overloaded when there are too many."""
        if len(self._runs) >= self._most:
            raise Overloaded(f"{self._most} responses are made in the background, which is the limit; try again later")
        run = Run(turn)
        self._runs[turn.id] = run
        try:
            turn.opening()
            await turn.save()
        except BaseException:
            del self._runs[turn.id]
            raise
        run.task = asyncio.create_task(self._make(run, tenant))
        run.task.add_done_callback(lambda _: self._runs.pop(turn.id, None))
        return run

    async def _make(self, run: Run, tenant: Tenant | None) -> None:
        """Let the run have the places of the request that began it, which leaves before it."""
        self._service.inside += 1
        if tenant is not None:
            tenant.usage.open += 1
        place = Place(self._service, tenant)
        try:
            await run.make()
        finally:
            place.leave()

    def get(self, owner: str, id: str) -> Run | None:
        """The owner's run of that response, while it is made."""
        run = self._runs.get(id)
        return run if run is not None and run.turn.owner == owner and run.task is not None else None
