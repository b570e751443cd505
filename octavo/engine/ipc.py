"""The wire between a frontend and its engine core: a ZeroMQ pair over a Unix socket in a private directory, msgpack.

Frames that do not decode to one of the declared structs are dropped and counted (R47): neither side trusts the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq

from octavo import log
from octavo.errors import StartupError
from octavo.messages import ToCore, ToFrontend

logger = log.get(__name__)

MAX_FRAME = 256 * 2**20  # bytes; the largest honest message is a batch of long prompts


YOUNG_S = 10.0
PREFIX = "octavo-"


class Directory:
    """A private directory (mode 0700) for one frontend's sockets, removed with everything in it on `remove`.

    Locked while its frontend lives, so that one whose processes were all killed is removed by the next one (R5).
    """

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise StartupError(
                f"no folder for temporary files: {error.strerror or error}; set TMPDIR to one", "TMPDIR"
            ) from None
        if len(bytes(self.path)) > zmq.IPC_PATH_MAX_LEN - 16:
            self.remove()
            raise StartupError(
                f"{self.path.parent} is too long a path for sockets in it; set TMPDIR to a shorter one", "TMPDIR"
            )
        self._count = 0
        sweep(self.path.parent)

    def address(self) -> str:
        """A fresh ipc:// address: each life of the engine has its own, so that late frames go nowhere."""
        self._count += 1
        return f"ipc://{self.path}/core-{self._count}"

    def remove(self) -> None:
        """Delete the directory. Safe to call twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sweep(parent: Path) -> None:
    """Delete those of our user's directories in `parent` that nobody locks: their frontends were killed."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            # A young one may be about to be locked.
            if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or time.time() - found.st_mtime < YOUNG_S:
                continue
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def remove_orphaned(address: str) -> None:
    """Delete the directory of an address whose frontend is gone."""
    shutil.rmtree(Path(address.removeprefix("ipc://")).parent, ignore_errors=True)


def options(socket: zmq.Socket[Any]) -> None:
    """No lingering at close, no dropped messages, no frame above MAX_FRAME."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)


class FrontendPipe:
    """The frontend's end: binds, sends `ToCore`, receives `ToFrontend`. Belongs to the running event loop.

    A plain socket watched by the loop: zmq.asyncio's futures cost more per message than all the rest of a request.
    """

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        options(self._socket)
        self._socket.bind(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToFrontend] = msgspec.msgpack.Decoder(ToFrontend)
        self._loop = asyncio.get_running_loop()
        self._readable = asyncio.Event()
        self._loop.add_reader(self._socket.FD, self._readable.set)
        self.dropped = 0

    def send(self, message: ToCore) -> None:
        """Queue a message; never blocks (no high-water mark: what is queued is bounded by admission).

        What is sent to an engine that is gone is lost: the supervisor tells of its death.
        """
        with contextlib.suppress(zmq.Again):
            self._socket.send(self._encoder.encode(message), zmq.NOBLOCK)
        # The descriptor tells of changes, not of states, and sending may have swallowed one.
        self._readable.set()

    @property
    def has_more(self) -> bool:
        """Whether a message waits to be received."""
        return bool(self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)  # type: ignore[operator]

    async def receive(self) -> ToFrontend:
        """The next message that decodes."""
        while True:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                await self._readable.wait()
                self._readable.clear()
                continue
            try:
                return self._decoder.decode(frame)
            except (msgspec.MsgspecError, ValueError) as error:
                self.dropped += 1
                logger.warning("dropped a frame of %d bytes from the engine: %s", len(frame), error)

    def close(self) -> None:
        """Close the socket; what was queued is lost."""
        self._loop.remove_reader(self._socket.FD)
        self._socket.close()
        self._context.term()


class CorePipe:
    """The core's end: connects, receives `ToCore` between steps, sends `ToFrontend`. Synchronous."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        options(self._socket)
        self._socket.connect(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToCore] = msgspec.msgpack.Decoder(ToCore)
        self.dropped = 0

    def send(self, message: ToFrontend) -> None:
        """Send a message."""
        self._socket.send(self._encoder.encode(message))

    def receive(self, timeout_s: float) -> ToCore | None:
        """The next message that decodes, or None when none came within `timeout_s`."""
        while self._socket.poll(int(timeout_s * 1000)):
            frame = self._socket.recv()
            try:
                return self._decoder.decode(frame)
            except (msgspec.MsgspecError, ValueError) as error:
                self.dropped += 1
                logger.warning("dropped a frame of %d bytes from the frontend: %s", len(frame), error)
        return None

    def close(self) -> None:
        """Deliver what was sent (for at most a second) and close."""
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.close()
        self._context.term()
