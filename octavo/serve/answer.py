"""Answer: one generation request from its body to its last byte, cut short when the client goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.errors import InvalidRequest, OctavoError
from octavo.sampling import shown
from octavo.serve.body import read_body
from octavo.serve.errors import ClientGone, UnknownModel, error_event, error_response, public
from octavo.serve.records import Record
from octavo.serve.schema import parse
from octavo.serve.service import Place, Service
from octavo.serve.sse import DONE
from octavo.serve.tenants import Tenant

TRACE = (b"traceparent", b"tracestate")  # headers of a W3C trace context
LONG_BODY = 65_536  # bytes; longer ones are parsed off the event loop (R22)

# The connection's own send, in the scope: what stands between looks at the first message only, and costs every token.
STRAIGHT = "octavo.send"
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
    """Who asks: our id for the request, and whose API key came with it (`key` is `Key.id`)."""

    id: str
    key: str | None
    tenant: Tenant | None = None
    record: Record | None = None

    def named(self, name: str) -> str:
        """`name`, by which this request's owner can ask about it from now on."""
        if self.record is not None:
            self.record.name(name)
        return name

    def spend(self, prompt_tokens: int, generated_tokens: int = 0, cached_tokens: int = 0) -> None:
        """Count tokens against the key's quotas, as they become known."""
        if self.tenant is not None:
            self.tenant.spend(prompt_tokens, generated_tokens, cached_tokens)


@dataclass(frozen=True)
class Reply:
    """What an endpoint decided to send: one JSON body, or events with `done` after the last."""

    body: bytes = b""
    events: AsyncGenerator[bytes, None] | None = None
    done: bytes = DONE


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
        id, key = scope["octavo.request_id"], scope.get("octavo.key")
        try:
            if self.admitted:
                self.service.check_open()
            with self.service.hold() as hold, self._record(id, key, scope) as record:
                caller = Caller(id, key, scope.get("octavo.tenant"), record)
                body = await read_body(scope, receive, hold)
                if record is not None:
                    record.body_at = time.monotonic()
                # A place is taken when the body is there: those who send slowly take none.
                with self.service.admit(caller.tenant) if self.admitted else nullcontext() as wire.place:
                    await self._serve(wire, body, caller)
        except* ClientGone:
            self.service.metrics.disconnects.inc()
        except* OctavoError as group:
            await wire.fail(first(group))

    def _record(self, id: str, key: str | None, scope: Scope) -> AbstractContextManager[Record | None]:
        """The record of a generation request."""
        if not self.admitted:
            return nullcontext()
        trace = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in TRACE}
        record = Record(id, key, scope["path"], trace=trace)
        if scope.get("octavo.client_id"):
            record.name(scope["octavo.client_id"])
        return self.service.records.open(record)

    async def _serve(self, wire: Wire, body: bytes, caller: Caller) -> None:
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(wait_until_gone(wire.receive))
            try:
                request = await self._read(body)
                if caller.tenant is not None:
                    request = granted(request, caller.tenant, self.service)
                reply = await self.work(self.service, request, caller)
                if reply.events is None:
                    await wire.send_json(reply.body)
                else:
                    await wire.send_events(reply.events, reply.done)
            except Exception as error:
                if caller.record is not None:
                    caller.record.fail(error)
                await wire.fail(error)
            watch.cancel()

    async def _read(self, body: bytes) -> M:
        if len(body) < LONG_BODY:
            return parse(self.schema, body, self.service.limits)
        return await asyncio.to_thread(parse, self.schema, body, self.service.limits)


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
        self.place: Place | None = None

    def leave(self) -> None:
        """Give the place up before the last bytes go out: who has them may ask again at once."""
        if self.place is not None:
            self.place.leave()

    async def send_json(self, body: bytes) -> None:
        """Send a whole reply."""
        self.started = True
        self.leave()
        await Response(body, media_type="application/json")(self.scope, self.receive, self.send)

    async def send_events(self, events: AsyncGenerator[bytes, None], done: bytes = DONE) -> None:
        """Send each event as it comes, and `done` after the last.

        The status line waits for the first event, so that an early error still has a status of its own.
        """
        send = self.send
        straight: Send = self.scope.get(STRAIGHT, send)
        async with aclosing(events):
            async for event in events:
                if not self.started:
                    self.started = True
                    await send(STREAM_START)
                await straight({"type": "http.response.body", "body": event, "more_body": True})
        self.leave()
        await send({"type": "http.response.body", "body": done, "more_body": False})

    async def fail(self, error: Exception) -> None:
        """Tell the client: an error response, or the last event of a stream that began."""
        shown = public(error)
        self.leave()
        if not self.started:
            self.started = True
            await error_response(shown, self.scope)(self.scope, self.receive, self.send)
        else:
            await self.send({"type": "http.response.body", "body": error_event(shown, self.scope), "more_body": False})


def first(group: BaseExceptionGroup[OctavoError]) -> OctavoError:
    """The first error of a group."""
    error = group.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error


def granted(request: M, tenant: Tenant, service: Service) -> M:
    """The request as this key may make it; UnknownModel for a model that is not for it."""
    key, named = tenant.key, type(request).model_fields
    if key.models and "model" in named and (wanted := service.model(getattr(request, "model", None))) not in key.models:
        raise UnknownModel(f"model {shown(wanted)} is not for this key; use {', '.join(key.models)}", "model")
    if key.priority is not None and "priority" in named:
        wanted = getattr(request, "priority", None)
        priority = max(wanted, key.priority) if type(wanted) is int else key.priority
        return request.model_copy(update={"priority": priority})
    return request


async def wait_until_gone(receive: Receive) -> None:
    """Return never; raise ClientGone when the connection closes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientGone


def check_stream_options(stream: bool | None, options: object) -> None:
    """InvalidRequest when stream options come without a stream."""
    if options is not None and not stream:
        raise InvalidRequest("stream_options is only allowed with stream=true", "stream_options")
