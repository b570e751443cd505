"""The wire between a frontend and its engine core: one ZeroMQ pair over a Unix socket in a private directory, typed msgpack.

Frames that do not decode to one of the declared structs are dropped and counted (R47): neither side trusts the other.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from octavo import log
from octavo.messages import ToCore, ToFrontend

logger = log.get(__name__)

MAX_FRAME = 256 * 2**20  # bytes; the largest honest message is a batch of long prompts


class Directory:
    """A private directory (mode 0700) for one frontend's sockets, removed with everything in it on `remove`."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="octavo-"))
        self._count = 0

    def address(self) -> str:
        """A fresh ipc:// address; each life of the engine gets its own, so that a late frame of the last one goes nowhere."""
        self._count += 1
        return f"ipc://{self.path}/core-{self._count}"

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.path, ignore_errors=True)


def options(socket: zmq.Socket[Any]) -> None:
    """No lingering at close, no dropped messages, no frame above MAX_FRAME."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)


class FrontendPipe:
    """The frontend's end: binds, sends `ToCore`, receives `ToFrontend`. Asynchronous."""

    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PAIR)
        options(self._socket)
        self._socket.bind(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToFrontend] = msgspec.msgpack.Decoder(ToFrontend)
        self.dropped = 0

    def send(self, message: ToCore) -> None:
        """Queue a message; never blocks (no high-water mark: what is queued is bounded by admission).

        What is sent to an engine that is gone is lost: the supervisor tells of its death.
        """
        self._socket.send(self._encoder.encode(message), zmq.NOBLOCK).add_done_callback(seen)

    async def receive(self) -> ToFrontend:
        """The next message that decodes."""
        while True:
            frame = await self._socket.recv()
            try:
                return self._decoder.decode(frame)
            except msgspec.MsgspecError as error:
                self.dropped += 1
                logger.warning("dropped a frame of %d bytes from the engine: %s", len(frame), error)

    def close(self) -> None:
        """Close the socket; what was queued is lost."""
        self._socket.close()
        self._context.term()


def seen(sent: asyncio.Future[Any]) -> None:
    """Look at a send's outcome, so that asyncio does not log it as an error nobody saw."""
    if not sent.cancelled():
        sent.exception()


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
