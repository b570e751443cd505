"""Answer: one generation request from its body to its last byte, cut short when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.errors import InvalidRequest, OctavoError
from octavo.limits import Limits
from octavo.serve.errors import Refused, error_event, error_response, public
from octavo.serve.schema import parse
from octavo.serve.service import Service
from octavo.serve.sse import DONE

BODY_IDLE_S = 30.0  # a body that drips slower than this is given up (R19)

STREAM_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # nginx would hold events back
    ],
}

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Caller:
    """Who asks: our id for the request, and the digest of the API key that came with it."""

    id: str
    key: str | None


@dataclass(frozen=True)
class Reply:
    """What an endpoint decided to send: one JSON body, or events with `done` after the last."""

    body: bytes = b""
    events: AsyncGenerator[bytes, None] | None = None
    done: bytes = DONE


class ClientGone(Exception):
    """The client closed the connection."""


class Answer(Response, Generic[M]):
    """Reads the body as `schema`, lets `work` answer it, sends that. `admitted` ones count against the queue limit."""

    def __init__(
        self,
        service: Service,
        schema: type[M],
        work: Callable[[Service, M, Caller], Awaitable[Reply]],
        admitted: bool = True,
    ) -> None:
        super().__init__()
        self.service = service
        self.schema = schema
        self.work = work
        self.admitted = admitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call: never raises for what a request can cause."""
        wire = Wire(scope, receive, send)
        try:
            if self.admitted:
                with self.service.admit():
                    await self._serve(wire)
            else:
                await self._serve(wire)
        except* ClientGone:
            self.service.metrics.disconnects.inc()
        except* OctavoError as group:
            await wire.fail(first(group))

    async def _serve(self, wire: Wire) -> None:
        body = await read_body(wire, self.service.limits)
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(wait_until_gone(wire.receive))
            try:
                request = parse(self.schema, body, self.service.limits)
                caller = Caller(wire.scope["octavo.request_id"], wire.scope.get("octavo.key"))
                reply = await self.work(self.service, request, caller)
                if reply.events is None:
                    await wire.send_json(reply.body)
                else:
                    await wire.send_events(reply.events, reply.done)
            except Exception as error:
                await wire.fail(error)
            watch.cancel()


class Events(Response):
    """Sends the events of what goes on anyway, until they end or the client goes away."""

    def __init__(self, service: Service, events: AsyncGenerator[bytes, None], done: bytes = b"") -> None:
        super().__init__()
        self.service = service
        self.events = events
        self.done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        wire = Wire(scope, receive, send)
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(wait_until_gone(receive))
                await wire.send_events(self.events, self.done)
                watch.cancel()
        except* ClientGone:
            self.service.metrics.disconnects.inc()


class Wire:
    """One HTTP exchange. `started` is whether its status line is out, after which errors become events."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.started = False

    async def send_json(self, body: bytes) -> None:
        """Send a whole reply."""
        self.started = True
        await Response(body, media_type="application/json")(self.scope, self.receive, self.send)

    async def send_events(self, events: AsyncGenerator[bytes, None], done: bytes = DONE) -> None:
        """Send each event as it comes, and `done` after the last.

        The status line waits for the first event, so that an early error still has a status of its own.
        """
        send = self.send
        async with aclosing(events):
            async for event in events:
                if not self.started:
                    self.started = True
                    await send(STREAM_START)
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": done, "more_body": False})

    async def fail(self, error: Exception) -> None:
        """Tell the client: an error response, or the last event of a stream that began."""
        shown = public(error)
        if not self.started:
            self.started = True
            await error_response(shown, self.scope)(self.scope, self.receive, self.send)
        else:
            await self.send({"type": "http.response.body", "body": error_event(shown, self.scope), "more_body": False})


def first(group: BaseExceptionGroup[OctavoError]) -> OctavoError:
    """The first error of a group."""
    error = group.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error


async def read_body(wire: Wire, limits: Limits) -> bytes:
    """The whole body, counted while it is read (R23). Refused when it is too long, too slow or not JSON by its type."""
    headers = dict(wire.scope["headers"])
    kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Refused(415, "the body must be JSON, sent with content-type: application/json", "content-type")
    if int(headers.get(b"content-length", b"0") or 0) > limits.body_bytes:
        raise too_long(limits)
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            message = await asyncio.wait_for(wire.receive(), BODY_IDLE_S)
        except TimeoutError:
            raise Refused(408, f"no more of the body came for {BODY_IDLE_S:.0f} seconds") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limits.body_bytes:
            raise too_long(limits)
        if not message.get("more_body"):
            return b"".join(parts)


def too_long(limits: Limits) -> Refused:
    """The refusal of a body over the limit."""
    return Refused(413, f"the body is longer than {limits.body_bytes} bytes")


async def wait_until_gone(receive: Receive) -> None:
    """Return never; raise ClientGone when the connection closes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientGone


def check_stream_options(stream: bool | None, options: object) -> None:
    """InvalidRequest when stream options come without a stream."""
    if options is not None and not stream:
        raise InvalidRequest("stream_options is only allowed with stream=true", "stream_options")
