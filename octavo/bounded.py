"""Work that data from outside could make endless, in processes that may be killed: templates, grammars.

A module that does such work ends with `serve(open)` under `if __name__ == "__main__"`; its user holds a `Bounded`:

    # octavo/frontend/rendering.py, which runs in the process
    def open(setup: bytes) -> Callable[[bytes], bytes]:
        template = ChatTemplate(...)            # once per process
        return lambda request: ...              # once per call; what a request got wrong is part of the reply

    # octavo/frontend/conversing.py, which runs in the server
    work = Bounded("octavo.frontend.rendering", setup, Bounds(seconds=2, memory_bytes=256 << 20))
    work.start()                                # optional: begin the first process now
    try:
        reply = await work.call(request)
    except Exceeded as error:                   # .what is "time", "memory", "size" or "death"
        raise InvalidRequest(f"the chat template takes too much {error.what}", "messages") from None

A process has one call at a time. It is ended when a call passes a bound, and another takes its place; more than one
are started only when calls come while all are busy. `setup` and requests are bytes: msgspec's msgpack on both sides.
Frames are a length (4 bytes, little-endian), a status byte and the payload, over a socket that is the process's
standard input. The process dies with its parent (R5): by a signal where the system has one for that, else because the
socket closes or, while it is busy, by an alarm soon after the time that its call may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from octavo import env, log
from octavo.errors import Overloaded

logger = log.get(__name__)

HEAD = struct.Struct("<IB")
DONE, FAILED = 0, 1
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIMITS = struct.Struct("<dQi")
NO_MEMORY = 77  # the exit code of a process that ran into its memory bound
START_S = 60.0  # importing may be slow on a busy machine; no request's fault
GRACE_S = 0.5  # between the parent's deadline and the alarm that ends a process without a parent
IDLE_S = 30.0  # a process beyond the first ends after so long without a call
REAP_S = 0.05  # between two looks whether a killed process is gone
QUEUE = 4096  # calls that may wait for a process; a server admits fewer
WAIT_S = 30.0  # and how long
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}

What = Literal["time", "memory", "size", "death"]


@dataclass(frozen=True)
class Bounds:
    """What one call may take. Memory counts beyond what the process holds when it is ready; size is the reply's.

    nice: how far the processes stand back where cores are scarce, as in nice(1).
    """

    seconds: float
    memory_bytes: int
    reply_bytes: int = 64 << 20
    nice: int = 0


class Exceeded(Exception):
    """A call passed a bound, or its process died of it; the process is gone."""

    def __init__(self, what: What) -> None:
        super().__init__(f"too much {what}" if what != "death" else "the process died")
        self.what: What = what


class CallFailed(Exception):
    """The process's own code failed, which no request may cause; its log has the trace."""


class NotStarted(CallFailed):
    """The process did not come to be ready."""


class _Worker:
    """One process. `begun` is done once it is ready for calls."""

    def __init__(self, module: str, setup: bytes, bounds: Bounds) -> None:
        self._bounds = bounds
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            self._socket = ours
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=theirs.fileno(),
                stdout=2,  # what a library prints must not end among replies, nor on a user's output
                env=env.child() | ONE_THREAD,
                start_new_session=True,  # Ctrl-C in a terminal is the server's to answer
            )
        self._begin = asyncio.create_task(self._open(setup))
        self._begin.add_done_callback(_seen)

    async def _open(self, setup: bytes) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=1 << 20)
        limits = LIMITS.pack(self._bounds.seconds + GRACE_S, self._bounds.memory_bytes, self._bounds.nice)
        async with asyncio.timeout(START_S):
            await self._exchange(limits + setup)

    @property
    def is_gone(self) -> bool:
        """Whether it has ended by itself."""
        return self.process.poll() is not None

    async def call(self, request: bytes) -> bytes:
        """Its reply; Exceeded or CallFailed."""
        try:
            await self._begin
        except (TimeoutError, OSError, asyncio.IncompleteReadError, CallFailed) as error:
            logger.error("a process for bounded work did not start: %s", type(error).__name__)
            raise NotStarted from None
        try:
            async with asyncio.timeout(self._bounds.seconds):
                return await self._exchange(request)
        except TimeoutError:
            raise Exceeded("time") from None
        except (OSError, asyncio.IncompleteReadError):
            code = await self._exit_code()
            raise Exceeded("memory" if code == NO_MEMORY else "time" if code == -signal.SIGALRM else "death") from None

    async def _exchange(self, payload: bytes) -> bytes:
        self._writer.writelines((HEAD.pack(len(payload), DONE), payload))
        await self._writer.drain()
        length, status = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        if length > self._bounds.reply_bytes:
            raise Exceeded("size")
        reply = await self._reader.readexactly(length)
        if status != DONE:
            raise CallFailed
        return reply

    async def _exit_code(self) -> int | None:
        for _ in range(100):
            if (code := self.process.poll()) is not None:
                return code
            await asyncio.sleep(0.01)
        return None

    def kill(self) -> None:
        """End it now. Safe to call twice."""
        self._begin.cancel()
        with contextlib.suppress(AttributeError, RuntimeError):  # not connected yet, or the loop is closed
            self._writer.close()
        self._socket.close()
        if self.process.poll() is None:
            self.process.kill()


class Bounded:
    """Processes that run `module` and take one call each; at most `most` of them. Belongs to the running event loop."""

    def __init__(self, module: str, setup: bytes, bounds: Bounds, most: int = 4) -> None:
        self._module = module
        self._setup = setup
        self._bounds = bounds
        self._most = most
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._dying: list[_Worker] = []
        self._waiting: deque[asyncio.Future[_Worker]] = deque()
        self._calls: set[asyncio.Task[bytes]] = set()
        self._trim: asyncio.TimerHandle | None = None
        self._stopped = False
        self.killed = 0  # processes that were ended because a call passed a bound

    @property
    def pids(self) -> list[int]:
        """The processes there are."""
        return [worker.process.pid for worker in (*self._idle, *self._busy)]

    def start(self) -> None:
        """Begin the first process, so that the first call need not wait for it."""
        if not self._idle and not self._busy:
            self._idle.append(_Worker(self._module, self._setup, self._bounds))

    def stop(self) -> None:
        """End all processes; calls that run fail. Safe to call twice."""
        self._stopped = True
        if self._trim is not None:
            self._trim.cancel()
        for worker in (*self._idle, *self._busy, *self._dying):
            worker.kill()
            worker.process.wait()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(Overloaded("the server is shutting down"))
        self._idle = []

    async def call(self, request: bytes) -> bytes:
        """The reply to `request`. Exceeded when it passes a bound, Overloaded when too many wait, CallFailed for a bug.

        Who is cancelled leaves the call running to its end, which is bounded: ending a process costs more.
        """
        worker = await self._acquire()
        call = asyncio.create_task(self._run(worker, request))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(_seen)
        return await asyncio.shield(call)

    async def _run(self, worker: _Worker, request: bytes) -> bytes:
        healthy = False
        try:
            reply = await worker.call(request)
            healthy = True
            return reply
        except Exceeded:
            self.killed += 1
            raise
        except CallFailed as error:
            healthy = not isinstance(error, NotStarted)
            raise
        finally:
            self._release(worker, healthy)

    async def _acquire(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if not worker.is_gone:
                self._busy.add(worker)
                return worker
            self._end(worker)  # somebody else ended it: nothing to do with this call
        return self._begin() if len(self._busy) < self._most else await self._wait()

    def _begin(self) -> _Worker:
        worker = _Worker(self._module, self._setup, self._bounds)
        self._busy.add(worker)
        return worker

    async def _wait(self) -> _Worker:
        if len(self._waiting) >= QUEUE:
            raise Overloaded("too many requests wait to be prepared; try again later")
        waiter: asyncio.Future[_Worker] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(WAIT_S):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(waiter.result(), True)  # it was this one's turn
            if isinstance(error, TimeoutError):
                raise Overloaded("the request waited too long to be prepared; try again later") from None
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)

    def _release(self, worker: _Worker, healthy: bool) -> None:
        """Hand a process, or another in its place, to the call that has waited longest."""
        self._busy.discard(worker)
        if not healthy:
            self._end(worker)
        while self._waiting and not self._stopped:
            waiter = self._waiting.popleft()
            if not waiter.done():
                if healthy:
                    self._busy.add(worker)
                waiter.set_result(worker if healthy else self._begin())
                return
        if healthy:
            self._idle.append(worker)
            self._schedule_trim()

    def _end(self, worker: _Worker) -> None:
        worker.kill()
        self._dying.append(worker)
        self._reap()

    def _reap(self) -> None:
        self._dying = [worker for worker in self._dying if not worker.is_gone]
        if self._dying:
            asyncio.get_running_loop().call_later(REAP_S, self._reap)

    def _schedule_trim(self) -> None:
        if len(self._idle) > 1 and self._trim is None:
            self._trim = asyncio.get_running_loop().call_later(IDLE_S, self._end_extra)

    def _end_extra(self) -> None:
        self._trim = None
        extra, self._idle = self._idle[:-1], self._idle[-1:]
        for worker in extra:
            self._end(worker)


def _seen(task: asyncio.Task[bytes] | asyncio.Task[None]) -> None:
    """Look at what a task ended in, even if nobody waits for it any more: asyncio complains otherwise."""
    if not task.cancelled():
        task.exception()


Handler = Callable[[bytes], bytes]


def serve(open_handler: Callable[[bytes], Handler]) -> None:
    """Be such a process: build the handler from the setup, then answer calls until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # service managers signal every process of a service
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    link = socket.socket(fileno=0)
    frame = _receive(link)
    seconds, memory_bytes, nice = LIMITS.unpack_from(frame)
    os.nice(nice)
    handler = open_handler(frame[LIMITS.size :])
    _limit_memory(memory_bytes)
    _send(link, DONE, b"")
    while True:
        request = _receive(link)
        signal.setitimer(signal.ITIMER_REAL, seconds)  # its default action, death, needs no interpreter
        status, reply = _answer(handler, request)
        del request
        _send(link, status, reply)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(handler: Handler, request: bytes) -> tuple[int, bytes]:
    try:
        return DONE, handler(request)
    except MemoryError:
        os._exit(NO_MEMORY)
    # A process edge: whatever it was, the caller must hear of it and the log must have the trace.
    except Exception:
        traceback.print_exc()
        return FAILED, b""


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _limit_memory(more_bytes: int) -> None:
    """Let this process map `more_bytes` more than it has mapped now, where the system says what that is."""
    with contextlib.suppress(OSError):
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[0])
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash that was provoked need not fill a disk


def _send(link: socket.socket, status: int, payload: bytes) -> None:
    try:
        link.sendall(HEAD.pack(len(payload), status) + payload)
    except OSError:
        os._exit(0)


def _receive(link: socket.socket) -> bytes:
    length, _ = HEAD.unpack(_read(link, HEAD.size))
    return _read(link, length)


def _read(link: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        try:
            part = link.recv(min(size, 1 << 20))
        except OSError:
            part = b""
        if not part:
            os._exit(0)  # the parent closed its end
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
