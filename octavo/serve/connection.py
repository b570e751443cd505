"""Connections: uvicorn's HTTP/1.1 with bounds on what clients send, hold open and leave unread (R17-R19, R23).

uvicorn bounds neither a head's size nor the time a client takes for it, resets connections whose body it has not read,
and does not tell a request of its client's end once another one has been pipelined behind it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from octavo.limits import Limits
from octavo.metrics import Metrics
from octavo.serve.errors import Refused, error_object

WATCH_S = 0.5
LINGER_S = 2.0  # what a client still sends after its answer is read and dropped for so long
GRACE_S = 5.0  # the application's own time limits come first: it answers in the client's dialect
SURPLUS = 256  # connections above the limit that are told so; more are closed without a word
LEAST_READ = 16 * 2**10  # bytes a reader has to take within `stall_s`


class Guard:
    """What the connections of one listener share: limits, counts, and a clock for those that are late."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.most_head_bytes = limits.header_bytes + limits.url_bytes
        self.headers_too_large = Refused(
            431, f"the headers are over {limits.headers} lines or {limits.header_bytes} bytes"
        )
        self.due: dict[Connection, float] = {}  # connections that owe us bytes, and until when
        self.stalled: dict[Connection, tuple[float, int]] = {}  # those that owe us reading: since when, bytes then

    async def watch(self) -> None:
        """End late connections, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            self.sweep(time.monotonic())

    def sweep(self, now: float) -> None:
        """End the connections that are late at `now`."""
        for connection in [one for one, until in self.due.items() if now >= until]:
            del self.due[connection]
            connection.give_up()
        for connection, (since, size) in list(self.stalled.items()):
            if now - since < self.limits.stall_s:
                continue
            left = connection.transport.get_write_buffer_size()
            if size - left < LEAST_READ:
                self.metrics.slow_readers.inc()
                connection.transport.abort()
            else:
                self.stalled[connection] = (now, left)


class HeadTooLarge(Exception):
    """Raised inside of the parser to stop it; `Connection.refusal` says why."""


class Exit:
    """The transport as requests see it: closing waits until what the client still sends has been read."""

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self._connection = connection

    def close(self) -> None:
        """Close after the client's last byte."""
        self._connection.leave()


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(
        self, guard: Guard, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.guard = guard
        self.exit: Exit
        self.answering: RequestResponseCycle | None = None
        self.refusal: Refused | None = None
        self.head_bytes = 0  # that were parsed
        self.raw_bytes = 0  # since the chunk that began the head
        self.num_headers = 0
        self.phase = "idle"  # or head, body; "gone" once nothing more is parsed
        self.is_surplus = False

    # What the transport tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; one too many is told so at its first byte."""
        super().connection_made(transport)
        self.exit = Exit(self, transport)
        surplus = len(self.connections) - self.guard.limits.connections
        self.is_surplus = surplus > 0
        if self.is_surplus:
            self.guard.metrics.refused_connections.inc()
        if surplus > SURPLUS:
            transport.abort()
        else:
            self._owe(self.guard.limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request of this connection, not only the last one."""
        self.guard.due.pop(self, None)
        self.guard.stalled.pop(self, None)
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        self._unset_keepalive_if_required()
        for cycle in (self.answering, *waiting):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; whatever is wrong with it ends the connection."""
        if self.phase == "gone" or self.parser is None:
            return
        if self.is_surplus:
            self._refuse(Refused(503, "too many connections are open; try again later"))
            return
        if self.phase == "head":
            # The parser keeps a header to itself until its end.
            self.raw_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if self.phase == "head" and self.raw_bytes > self.guard.most_head_bytes:
                self._refuse(self.guard.headers_too_large)
        except httptools.HttpParserUpgrade:
            pass  # the request is answered as if it had not asked
        except httptools.HttpParserError:
            self._refuse(self.refusal or Refused(400, "this is no valid HTTP/1.1 request"))

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        super().pause_writing()
        self.guard.stalled[self] = (time.monotonic(), self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self.guard.stalled.pop(self, None)

    # What the parser tells.

    def on_message_begin(self) -> None:
        """A request begins, perhaps behind one that is still being answered."""
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self.phase = "head"
        self.head_bytes = self.raw_bytes = self.num_headers = 0
        self._owe(self.guard.limits.header_s)

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self.head_bytes += len(url)
        if self.head_bytes > self.guard.limits.url_bytes:
            self._too_large(Refused(414, f"the URL is longer than {self.guard.limits.url_bytes} bytes"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body, which is dropped."""
        self.head_bytes += len(name) + len(value)
        self.num_headers += 1
        if self.num_headers > self.guard.limits.headers or self.head_bytes > self.guard.most_head_bytes:
            self._too_large(self.guard.headers_too_large)
        if self.phase == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind the one before."""
        if len(self.pipeline) >= max(1, self.guard.limits.pipelined):
            self._too_large(Refused(400, "too many requests are pipelined on this connection"))
        self.phase = "body"
        self._owe(self.guard.limits.body_s + GRACE_S)
        super().on_headers_complete()
        self.cycle.transport = self.exit  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """The request is here as a whole."""
        self.phase = "idle"
        self.guard.due.pop(self, None)
        super().on_message_complete()

    # What requests tell.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self.answering = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """An answer is out; what is left of its request is worth a moment only."""
        waited = self.answering
        super().on_response_complete()
        if self.answering is waited:
            self.answering = None
        if self.phase == "head":
            self._owe(self.guard.limits.header_s)  # if nothing else is being answered now
        elif self.phase == "body":
            seconds = LINGER_S if self.answering is None else self.guard.limits.body_s + GRACE_S
            self.guard.due[self] = time.monotonic() + seconds

    def leave(self) -> None:
        """Close, after the client's last byte or LINGER_S: closing earlier resets the connection, answer and all."""
        if self.phase == "idle":
            self.transport.close()
            return
        self.phase = "gone"
        self.flow.resume_reading()
        self.guard.due[self] = time.monotonic() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # Being late.

    def _owe(self, seconds: float) -> None:
        """Expect what comes next within so many seconds, unless it waits for an answer of ours."""
        if self.answering is None:
            self.guard.due[self] = time.monotonic() + seconds

    def give_up(self) -> None:
        """What was due did not come."""
        if self.phase in ("gone", "idle"):
            self.transport.close()
            return
        self.guard.metrics.slow_senders.inc()
        if self.phase == "head" and self.answering is None:
            self._refuse(Refused(408, f"the request's head did not come within {self.guard.limits.header_s} seconds"))
        else:
            self.transport.abort()

    def _too_large(self, refusal: Refused) -> None:
        self.refusal = refusal
        raise HeadTooLarge

    def _refuse(self, error: Refused) -> None:
        """Answer what never became a request, and leave."""
        if self.answering is not None:
            self.transport.abort()
            return
        self.guard.metrics.answered(error.status)
        body = error_object(error)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        retry = b"retry-after: 1\r\n" if error.status == 503 else b""
        self.transport.write(STATUS_LINE[error.status] + head + retry + b"\r\n" + body)
        self.phase = "body"
        self.leave()
