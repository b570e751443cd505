"""GET /health, /ping, /version, /metrics: what operators and their machines ask."""

from __future__ import annotations

import contextlib

from fastapi import APIRouter
from starlette.responses import Response

import octavo
from octavo.errors import EngineDead
from octavo.serve.docs import describe
from octavo.serve.errors import error_response
from octavo.serve.service import RETRY_S, STATES, Service
from octavo.serve.sse import encode

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()

    @router.get("/health", **describe(None, "200 when requests are taken, else 503 and why"))
    async def health() -> Response:
        return report(service)

    @router.get("/ping", **describe(None, "The same as /health"))
    @router.post("/ping", **describe(None, "The same as /health"), operation_id="ping_post")
    async def ping() -> Response:
        return report(service)

    @router.get("/version", **describe(None, "The version of octavo"))
    async def version() -> Response:
        return Response(encode({"version": octavo.__version__}), media_type="application/json")

    @router.get("/metrics", **describe(None, "Counters and gauges for Prometheus"))
    async def metrics() -> Response:
        # Who uses how much is for the admin listener, where there is one.
        per_key = b"" if service.server.has_admin else service.ring.render()
        return Response(await scrape(service) + per_key, media_type=METRICS_TYPE)

    return router


async def scrape(service: Service) -> bytes:
    """The metrics as they are now."""
    with contextlib.suppress(EngineDead):  # then the last known ones; octavo_engine_healthy tells
        service.metrics.stats = await service.llm.stats()
    service.metrics.healthy = service.llm.is_healthy
    service.metrics.inside = service.inside
    return service.metrics.render()


def report(service: Service) -> Response:
    """Whether the engine lives and its loop turns (R4)."""
    state = service.llm.state
    if state == "ready" and service.llm.is_healthy:
        return Response(b'{"status":"ready"}', media_type="application/json")
    why = STATES.get(state, "the engine does not answer")
    return error_response(EngineDead(why, retry_after_s=RETRY_S.get(state, 5.0)), {})
