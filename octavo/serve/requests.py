"""GET /v1/requests, …/{id}/timeline, POST …/{id}/control, GET /load: one's own requests, and how busy the server is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from octavo.errors import EngineDead, InvalidRequest, NotFound
from octavo.frontend.journal import Entry, family
from octavo.messages import Timeline
from octavo.sampling import RULES, shown
from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.docs import describe
from octavo.serve.query import json
from octavo.serve.records import Record
from octavo.serve.schema import Body
from octavo.serve.service import Service
from octavo.serve.sse import encode
from octavo.serve.timeline import Story
from octavo.serve.timeline_page import write_timeline

PAGE_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "no-store"}


class ControlRequest(Body):
    """POST /v1/requests/{id}/control: one change of a running request."""

    cancel: bool | None = Field(None, description="true ends it with what it has; its finish reason is `abort`.")
    max_tokens: Annotated[object, WithJsonSchema({"type": "integer", "minimum": 1})] = Field(
        None, description="Its new bound. One that is reached already ends it with finish reason `length`."
    )
    end_thinking: bool | None = Field(None, description="true ends its reasoning with the next tokens, if it goes on.")


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()

    @router.get("/v1/requests", **describe(None, "List your requests that are being answered"))
    async def list_requests(request: Request) -> Response:
        return json(await running(service, key_of(request)))

    @router.get("/v1/requests/{id}", **describe(None, "Tell about a request of yours"))
    async def retrieve_request(id: str, request: Request) -> Response:
        story = await tell(service, find(service, id, key_of(request)))
        return json(story.row())

    @router.get("/v1/requests/{id}/timeline", **describe(None, "Tell what happened to a request, and why it waited"))
    async def timeline(id: str, request: Request) -> Response:
        told = (await tell(service, find(service, id, key_of(request)))).whole()
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(write_timeline(told), headers=PAGE_HEADERS)
        return json(told)

    @router.post("/v1/requests/{id}/control", **describe(ControlRequest, "Change or cancel a running request"))
    async def control(id: str) -> Response:
        async def work(service: Service, body: ControlRequest, caller: Caller) -> Reply:
            return Reply(encode(await change(service, find(service, id, caller.key), body)))

        return Answer(service, ControlRequest, work, admitted=False)

    @router.get("/load", **describe(None, "Say how busy the server is"))
    async def load() -> Response:
        stats = service.llm.last_stats
        busy = {"server_load": service.inside, "running": stats.running, "waiting": stats.waiting}
        used = 1 - stats.pages_free / stats.pages_total if stats.pages_total else 0.0
        return json(busy | {"kv_cache_usage": round(used, 4)})

    return router


def key_of(request: Request) -> str | None:
    """Whose key came with a request."""
    return request.scope.get("octavo.key")


def find(service: Service, id: str, key: str | None) -> Record:
    """The record of a request; NotFound when there is none, or it is another's."""
    record = service.records.find(id, key)
    if record is None:
        kept = service.records.kept
        raise NotFound(f"there is no request {shown(id)} of yours; the last {kept} that ended are kept", "id")
    return record


async def timelines(service: Service, entries: Sequence[Entry]) -> dict[int, Timeline]:
    """What the core remembers of them, by sequence; nothing when it does not answer."""
    ids = [id for entry in entries for id in entry.ids]
    if not ids:
        return {}
    try:
        return {timeline.id: timeline for timeline in await service.llm.timelines(ids)}
    except EngineDead:
        return {}


async def tell(service: Service, record: Record) -> Story:
    """All that is known of a request now."""
    entries = service.llm.journal.find(record.id)
    cores = await timelines(service, entries)
    return Story(record, entries, cores, service.llm.info, time.monotonic())


async def running(service: Service, key: str | None) -> dict[str, object]:
    """The requests of a key that are not answered yet, those in the background among them."""
    journal = service.llm.journal
    # A background response was answered long ago.
    names = dict.fromkeys((*service.records.running, *map(family, journal.running)))
    found = [record for name in names if (record := service.records.find(name, key)) is not None]
    open = [(record, journal.find(record.id)) for record in found]
    cores = await timelines(service, [entry for _, entries in open for entry in entries])
    now = time.monotonic()
    rows = [
        Story(
            record,
            entries,
            {id: cores[id] for entry in entries for id in entry.ids if id in cores},
            service.llm.info,
            now,
        ).row()
        for record, entries in open
    ]
    return {"object": "list", "data": rows}


async def change(service: Service, record: Record, body: ControlRequest) -> dict[str, object]:
    """Make the change that `body` asks for; what became of the request."""
    if bool(body.cancel) + bool(body.end_thinking) + (body.max_tokens is not None) != 1:
        raise InvalidRequest("send one change: cancel=true, end_thinking=true, or max_tokens", "cancel")
    if body.max_tokens is not None:
        RULES["max_tokens"].check("max_tokens", body.max_tokens)
    entries = service.llm.journal.find(record.id)
    running = [entry for entry in entries if entry.ended is None]
    ids = [id for entry in running for id in entry.ids]
    if not ids:
        state = "has ended" if record.ended is not None or entries else "is still being prepared; try again"
        raise InvalidRequest(f"the request {state}", "id")
    thinking = None
    if body.end_thinking:
        if running[0].request is None:
            raise InvalidRequest("end_thinking is for requests that generate", "end_thinking")
        thinking = service.llm.no_thinking(running[0].request)
    changed = await service.llm.control(ids, bool(body.cancel), body.max_tokens, thinking)  # type: ignore[arg-type]
    told = [
        {
            "index": ids.index(timeline.id),
            "state": timeline.state,
            "generated_tokens": timeline.generated_tokens,
            "max_tokens": timeline.max_tokens,
        }
        for timeline in changed
    ]
    return {"id": record.id, "object": "request.control", "sequences": told}
