"""/v1/responses: create, read, follow, cancel and delete responses, and list what they were asked."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.errors import InvalidRequest, NotFound
from octavo.sampling import shown
from octavo.serve.answer import Answer, Caller, Events, Reply
from octavo.serve.docs import Description, describe
from octavo.serve.offer import Offer
from octavo.serve.query import flag, json, json_bytes, number, order, owner
from octavo.serve.responses.context import conversation_of, decode_items, length, page
from octavo.serve.responses.events import Writer
from octavo.serve.responses.runs import Runs
from octavo.serve.responses.schema import CountRequest, ResponseRequest
from octavo.serve.responses.store import Bounds, Store, Stored
from octavo.serve.responses.turn import Turn
from octavo.serve.service import Service
from octavo.serve.sse import encode

Query = dict[str, dict[str, object]]  # JSON schemas by name

FILE = "responses.sqlite3"
FOLLOWING: Query = {
    "stream": {"type": "boolean", "description": "Send the events of a background response that was streamed."},
    "starting_after": {"type": "integer", "minimum": 0, "description": "With `stream`: those behind this number."},
}
PAGING: Query = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    "order": {"enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string", "description": "Id of the item that the page begins behind."},
    "before": {"type": "string", "description": "Id of the item that the page ends in front of."},
}


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()
    shelf = Shelf(service)

    @router.post("/v1/responses", **describe(ResponseRequest, "Answer, and keep the answer"))
    async def create() -> Response:
        return Answer(service, ResponseRequest, shelf.create)

    @router.post("/v1/responses/input_tokens", **describe(CountRequest, "Count the tokens of such a request"))
    async def count() -> Response:
        return Answer(service, CountRequest, shelf.count, admitted=False)

    @router.get("/v1/responses/{response_id}", **asked("Read a response, or follow its events", FOLLOWING))
    async def retrieve(response_id: str, request: Request) -> Response:
        return await shelf.retrieve(response_id, request)

    @router.delete("/v1/responses/{response_id}", **describe(None, "Forget a response"))
    async def delete(response_id: str, request: Request) -> Response:
        return await shelf.delete(response_id, request)

    @router.post("/v1/responses/{response_id}/cancel", **describe(None, "Cancel a background response"))
    async def cancel(response_id: str, request: Request) -> Response:
        return await shelf.cancel(response_id, request)

    @router.get("/v1/responses/{response_id}/input_items", **asked("List what a response was asked", PAGING))
    async def input_items(response_id: str, request: Request) -> Response:
        return await shelf.input_items(response_id, request)

    return router


async def answer_once(service: Service, body: ResponseRequest, caller: Caller) -> Reply:
    """Answer at once and keep nothing, as the line of a batch."""
    if body.background or body.stream:
        name = "background" if body.background else "stream"
        raise InvalidRequest(f"{name} means nothing here: the answer comes whole, when it is there", name)
    turn = await Turn.open(service, None, body, caller)
    return Reply(await turn.whole())


class Shelf:
    """The responses of one server: those that are made and those that are kept."""

    def __init__(self, service: Service) -> None:
        server = service.server
        path = Path(server.data_dir) / FILE if server.data_dir else None
        bounds = Bounds(server.max_stored_responses, server.max_stored_bytes, server.stored_ttl_s)
        self._service = service
        self._store = Store(path, bounds)
        self._runs = Runs(service, server.max_background_responses)
        for one in self._store.interrupted():
            self._store.put_now(ended_with_the_server(one))

    async def create(self, service: Service, body: ResponseRequest, caller: Caller) -> Reply:
        """Answer at once, as a stream, or in the background."""
        turn = await Turn.open(service, self._store, body, caller)
        if body.background:
            run = await self._runs.start(turn, caller.tenant)
            return Reply(events=run.follow(0), done=b"") if body.stream else Reply(encode(turn.response()))
        if body.stream:
            return Reply(events=turn.events(), done=b"")
        return Reply(await turn.whole())

    async def count(self, service: Service, body: CountRequest, caller: Caller) -> Reply:
        """How many tokens the prompt of such a request has."""
        service.model(body.model)
        _, chat = await conversation_of(service, self._store, body, caller.key or "")
        count = await length(service, chat, Offer.of(chat, service.limits).tools)
        return Reply(encode({"object": "response.input_tokens", "input_tokens": count}))

    async def retrieve(self, id: str, request: Request) -> Response:
        """The response as it is now, or its events behind `starting_after`."""
        follow = flag(request, "stream")
        first = number(request, "starting_after", 0, 2**31, -1) + 1
        if first and not follow:
            raise InvalidRequest("starting_after is only allowed with stream=true", "starting_after")
        run = self._runs.get(owner(request), id)
        if not follow:
            return json(run.turn.response()) if run else json_bytes((await self._stored(request, id)).response)
        if run is not None and run.turn.writer.log is not None:
            return Events(self._service, run.follow(first))
        one = None if run else await self._stored(request, id)
        if one is None or one.events is None:
            raise InvalidRequest(f"{shown(id)} was not made with background=true and stream=true", "stream")
        return Events(self._service, replay(one, first))

    async def delete(self, id: str, request: Request) -> Response:
        """Forget the response, and end it if it is being made."""
        run = self._runs.get(owner(request), id)
        if run is not None:
            await run.cancel()
        if not await self._store.delete(owner(request), id):
            raise missing(id)
        return json({"id": id, "object": "response", "deleted": True})

    async def cancel(self, id: str, request: Request) -> Response:
        """End a background response; one that has ended stays as it is."""
        run = self._runs.get(owner(request), id)
        if run is not None:
            await run.cancel()
            return json(run.turn.response())
        one = await self._stored(request, id)
        if not msgspec.json.decode(one.response, type=Kind).background:
            raise InvalidRequest(f"{shown(id)} was not made with background=true; only such can be cancelled", "id")
        return json_bytes(one.response)

    async def input_items(self, id: str, request: Request) -> Response:
        """A page of what the response was asked."""
        query = request.query_params
        limit, direction = number(request, "limit", 1, 100, 20), order(request)
        items = decode_items((await self._stored(request, id)).input)
        return json(page(items, query.get("after"), query.get("before"), limit, direction))

    async def _stored(self, request: Request, id: str) -> Stored:
        one = await self._store.get(owner(request), id)
        if one is None:
            raise missing(id)
        return one


class Kind(msgspec.Struct):
    """The part of a stored response that says how it was made."""

    background: bool


def ended_with_the_server(one: Stored) -> Stored:
    """A response that was being made when the server ended, as a failed one."""
    error = {"code": "server_error", "message": "the server ended before the response was finished"}
    response = msgspec.json.decode(one.response, type=dict[str, object]) | {"status": "failed", "error": error}
    return dataclasses.replace(one, status="failed", response=encode(response), events=one.events and b"")


async def replay(one: Stored, first: int) -> AsyncGenerator[bytes, None]:
    """Stored events from number `first` on."""
    assert one.events is not None
    if one.events:
        yield b"".join(event + b"\n\n" for event in one.events.split(b"\n\n")[first:-1])
    else:
        # They went with the server that made them: the last one is all that is known.
        writer = Writer(None, 0, first, keeps_log=False)
        yield writer.event("response.failed", response=msgspec.Raw(one.response))


def asked(summary: str, query: Query) -> Description:
    """A summary, and the parameters that a path's query may have."""
    names = [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in query.items()]
    return Description(summary=summary, response_class=Response, openapi_extra={"parameters": names})


def missing(id: str) -> NotFound:
    """The error for a response that is not there, or another's."""
    return NotFound(f"there is no response {shown(id)} here", "response_id")
