"""GET /health, /ping, /version, /metrics: what operators and their machines ask."""

from __future__ import annotations

import asyncio
import contextlib
import time

from fastapi import APIRouter
from starlette.responses import Response

import octavo
from octavo.errors import EngineDead
from octavo.messages import total
from octavo.serve.docs import describe
from octavo.serve.errors import error_response
from octavo.serve.service import RETRY_S, STATES, Service
from octavo.serve.sse import encode

SCRAPE_S = 0.02  # a scrape waits so long for the engine at most
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
    llm, metrics = service.llm, service.metrics
    with contextlib.suppress(EngineDead):  # in a long step; then those of its last tick have to do
        await llm.stats(SCRAPE_S)
    metrics.stats = total(llm.past_stats, llm.last_stats)
    metrics.stats_age_s = time.monotonic() - llm.stats_at
    metrics.info = llm.info
    metrics.healthy = llm.is_healthy
    metrics.inside = service.inside
    metrics.restarts = llm.supervisor.restarts
    metrics.frames_dropped = llm.frames_dropped
    metrics.late = llm.late
    return await asyncio.to_thread(metrics.render)


def report(service: Service) -> Response:
    """Whether the engine lives and its loop turns (R4)."""
    state = service.llm.state
    if state == "ready" and service.llm.is_healthy:
        return Response(b'{"status":"ready"}', media_type="application/json")
    why = STATES.get(state, "the engine does not answer")
    return error_response(EngineDead(why, retry_after_s=RETRY_S.get(state, 5.0)), {})
