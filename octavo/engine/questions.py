"""Questions: what a client asked its core and waits to hear, by number."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from octavo.errors import EngineDead
from octavo.messages import CacheReset, StatsReply, Timelines, ToCore

Reply = StatsReply | Timelines | CacheReset


class Questions:
    """Sends questions with numbers of their own and hands each reply to who asked. Belongs to one event loop."""

    def __init__(self, send: Callable[[ToCore], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}

    async def ask(self, question: Callable[[int], ToCore], limit_s: float) -> Reply:
        """The reply to the message that `question` makes of a number; EngineDead when none comes within `limit_s`."""
        number = next(self._numbers)
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiter
        try:
            self._send(question(number))
            return await asyncio.wait_for(waiter, limit_s)
        except TimeoutError as error:
            raise EngineDead("the engine does not answer; it may be in a long step, so try again") from error
        finally:
            del self._waiting[number]

    def answer(self, reply: Reply) -> None:
        """Wake who asked; replies that nobody waits for any more are ignored."""
        waiter = self._waiting.get(reply.number)
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def fail(self, error: EngineDead) -> None:
        """Tell everyone that the core is gone."""
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(error)
