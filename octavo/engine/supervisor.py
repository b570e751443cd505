"""Keeps one engine process alive: starts it, watches its heartbeat, restarts it within a budget (R1, R2, R4)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from octavo import log
from octavo.checkpoint import Checkpoint
from octavo.config import EngineConfig
from octavo.engine.child import Child
from octavo.engine.ipc import Directory, FrontendPipe
from octavo.engine.launch import Launch, launch_frame
from octavo.errors import EngineDead, StartupError
from octavo.messages import EngineInfo, Failed, Loading, Ready, Stop, Tick, ToCore, ToFrontend

logger = log.get(__name__)

State = Literal["loading", "ready", "restarting", "dead"]

MAX_DEATHS = 5
DEATH_WINDOW_S = 600.0
BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 4.0)  # before the n-th restart in a window
BURST = 8  # messages taken in at most before the streams they belong to are served
LOADING_SILENCE_S = 600.0  # reading weights from a slow disk may say nothing for long


class Supervisor:
    """One engine process at a time, the first begun on construction, before anything that its parent has to do itself.

    `on_message` gets all it says once ready; `on_down` is called when it is lost.
    """

    def __init__(
        self,
        config: EngineConfig,
        checkpoint: Checkpoint,
        heartbeat_s: float,
        on_message: Callable[[ToFrontend], None],
        on_down: Callable[[EngineDead], None],
    ) -> None:
        self._config = dataclasses.replace(config, model=dataclasses.replace(config.model, model=str(checkpoint.path)))
        self._name = checkpoint.name
        self._heartbeat_s = heartbeat_s
        self._on_message = on_message
        self._on_down = on_down
        self._directory = Directory()
        self._pipe: FrontendPipe | None = None
        self._process: Child | None = None
        self._deaths: deque[float] = deque()
        self._quiet_until = 0.0  # the engine must have spoken by then
        self._stopping = False
        self._first = asyncio.get_running_loop().create_future()
        self.state: State = "loading"
        self.info: EngineInfo | None = None
        self.loading: Loading | None = None
        self.restarts = 0
        self._dropped = 0  # frames, by the pipes before this one
        with contextlib.suppress(Exception):  # tried again, and reported, by `_live`
            self._begin()
        self._task = asyncio.create_task(self._run(), name="octavo-supervisor")

    @property
    def is_healthy(self) -> bool:
        """Ready, and heard of within two heartbeats (longer if the engine announced a long step)."""
        return self.state == "ready" and time.monotonic() < self._quiet_until

    @property
    def pid(self) -> int | None:
        """The engine process, for tests and `ps`."""
        return self._process.pid if self._process else None

    @property
    def folder(self) -> Path:
        """A private folder for as long as this process or its engine lives; the next server removes what is left."""
        return self._directory.path

    @property
    def frames_dropped(self) -> int:
        """Frames that did not decode, over all lives of the engine."""
        return self._dropped + (self._pipe.dropped if self._pipe else 0)

    def send(self, message: ToCore) -> None:
        """Tell the engine; EngineDead when it is not there."""
        if self._pipe is None or self.state != "ready":
            raise EngineDead(f"the engine is {self.state}; try again soon")
        self._pipe.send(message)

    async def ready(self) -> None:
        """Wait until the engine was ready once; StartupError when it could not start."""
        await asyncio.shield(self._first)

    async def stop(self) -> None:
        """End the engine process and remove its sockets. Safe to call twice."""
        self._stopping = True
        if self._pipe is not None and self.state == "ready":
            self._pipe.send(Stop())
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._exited(), 1.0)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task
        await self._kill()
        self._directory.remove()
        self.state = "dead"
        if not self._first.done():
            self._first.set_exception(EngineDead("the engine was stopped"))
            self._first.exception()

    def abandon(self) -> None:
        """End the engine process at once and remove its sockets: whoever was about to use it failed to start."""
        self._task.cancel()
        if self._process is not None:
            self._process.kill()
        self._release()
        self._directory.remove()
        self.state = "dead"

    async def _exited(self) -> None:
        if self._process is not None:
            await self._process.wait()

    async def _run(self) -> None:
        while True:
            try:
                reason = await self._live()
            except Exception as error:
                # A process edge: no socket, no process, or a message that breaks us. Clients must not wait for ever.
                logger.error("the engine cannot be kept: %s", error, exc_info=not isinstance(error, OSError))
                reason = Failed(f"{type(error).__name__}: {error}")
            if self._stopping:
                break
            # Told first: a process that is stuck in a driver may take long to die.
            lives_on = self._mourn(reason)
            await self._kill()
            if not lives_on:
                break
            await asyncio.sleep(BACKOFF_S[len(self._deaths) - 1])

    def _mourn(self, reason: Failed) -> bool:
        """Tell everyone that the engine is lost; whether there is to be another. Clients are not told why (R34)."""
        if self.info is None:
            self._end(StartupError(reason.message, reason.field))
            return False
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - DEATH_WINDOW_S:
            self._deaths.popleft()
        if len(self._deaths) >= MAX_DEATHS:
            logger.error("the engine died %d times in %d s (%s); giving up", MAX_DEATHS, DEATH_WINDOW_S, reason.message)
            self._end(StartupError(f"the engine died {MAX_DEATHS} times in {DEATH_WINDOW_S:.0f} s: {reason.message}"))
            return False
        logger.error("the engine was lost (%s); restarting it", reason.message)
        self.state = "restarting"
        self.restarts += 1
        self._on_down(EngineDead("the engine was lost and is being restarted; try again soon"))
        return True

    def _end(self, error: StartupError) -> None:
        self.state = "dead"
        if not self._first.done():
            self._first.set_exception(error)
            self._first.exception()  # seen, even if nobody waits
        self._on_down(EngineDead("the engine is down; its log says why"))

    def _begin(self) -> None:
        self._release()
        address = self._directory.address()
        self._pipe = FrontendPipe(address)
        self._process = Child(launch_frame(Launch(self._config, self._name, address, logging_level())))

    def _release(self) -> None:
        if self._pipe is not None:
            self._dropped += self._pipe.dropped
            self._pipe.close()
            self._pipe = None

    async def _live(self) -> Failed:
        """One life of the engine process; returns why it ended."""
        if self._process is None:
            self._begin()
        assert self._pipe is not None
        self._quiet_until = time.monotonic() + LOADING_SILENCE_S
        tasks = [
            asyncio.create_task(self._listen(self._pipe)),
            asyncio.create_task(self._watch_exit()),
            asyncio.create_task(self._watch_silence()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0] not in done and tasks[1] in done:
                # Its last words may still be in the socket.
                await asyncio.wait(tasks[:1], timeout=0.2)
            finished = next(task for task in tasks if task.done())
            error = finished.exception()
            if error is not None:
                logger.error("listening to the engine failed: %s", error, exc_info=error)
                return Failed(f"listening to it failed ({type(error).__name__})")
            return finished.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, pipe: FrontendPipe) -> Failed:
        behind = 0
        while True:
            message = await pipe.receive()
            silence = LOADING_SILENCE_S if self.state != "ready" else 2 * self._heartbeat_s
            busy_s = message.busy_s if isinstance(message, Tick) else 0.0
            self._quiet_until = time.monotonic() + silence + busy_s
            if isinstance(message, Failed):
                return message
            if isinstance(message, Loading):
                self.loading = message
            elif isinstance(message, Ready):
                self.info, self.state = message.info, "ready"
                self._quiet_until = time.monotonic() + 2 * self._heartbeat_s
                if not self._first.done():
                    self._first.set_result(None)
            else:
                self._on_message(message)
                behind += 1
                # An engine that is faster than its clients must not keep the loop to itself, but what has come
                # meanwhile may go out in one piece.
                if behind == BURST or not pipe.has_more:
                    behind = 0
                    await asyncio.sleep(0)

    async def _watch_exit(self) -> Failed:
        assert self._process is not None
        code = await self._process.wait()
        return Failed(
            f"its process ended with code {code}" if code >= 0 else f"its process was killed by signal {-code}"
        )

    async def _watch_silence(self) -> Failed:
        while True:
            await asyncio.sleep(self._heartbeat_s / 5)
            if time.monotonic() > self._quiet_until + self._heartbeat_s:
                return Failed(f"it said nothing for over {3 * self._heartbeat_s:.0f} s")

    async def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None
        self._release()


def logging_level() -> str:
    """The level the engine process logs at: this process's."""
    return logging.getLevelName(logging.getLogger("octavo").getEffectiveLevel())
