"""Admin actions, on a listener of their own (R32): usage, reading keys again, the prefix cache, logs, draining."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from octavo.env import LEVELS
from octavo.errors import InvalidRequest, OctavoError
from octavo.sampling import shown
from octavo.serve.app import on_error, on_http_error
from octavo.serve.health import METRICS_TYPE, report, scrape
from octavo.serve.query import json
from octavo.serve.reload import Reloader
from octavo.serve.service import Service


class Admin:
    """What an operator may do to a running server. `drain` begins its end, as SIGTERM does."""

    def __init__(self, service: Service, reloader: Reloader, drain: Callable[[], None]) -> None:
        self._service = service
        self._reloader = reloader
        self._drain = drain

    def app(self) -> Starlette:
        """The routes of the admin listener."""
        routes = [
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/admin/usage", self.usage, methods=["GET"]),
            Route("/admin/reload", self.reload, methods=["POST"]),
            Route("/admin/cache/reset", self.reset_cache, methods=["POST"]),
            Route("/admin/log-level", self.log_level, methods=["GET", "PUT"]),
            Route("/admin/drain", self.drain, methods=["POST"]),
        ]
        handlers = {HTTPException: on_http_error, OctavoError: on_error, Exception: on_error}
        app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
        app.router.redirect_slashes = False
        return app

    async def health(self, request: Request) -> Response:
        """As on the public listener."""
        return report(self._service)

    async def metrics(self, request: Request) -> Response:
        """As on the public listener, and usage per key."""
        return Response(await scrape(self._service) + self._service.ring.render(), media_type=METRICS_TYPE)

    async def usage(self, request: Request) -> Response:
        """What each key's owner did since the start, and which quotas they have."""
        data = [
            {
                "name": tenant.key.name,
                **asdict(tenant.usage),
                "quotas": {
                    "requests_per_minute": tenant.key.requests_per_minute,
                    "tokens_per_minute": tenant.key.tokens_per_minute,
                    "concurrent": tenant.key.concurrent,
                },
                "priority": tenant.key.priority,
                "models": list(tenant.key.models),
            }
            for tenant in self._service.ring.tenants.values()
        ]
        return json({"keys": data})

    async def reload(self, request: Request) -> Response:
        """Read keys and certificate again; what became of each."""
        return json(self._reloader.now())

    async def reset_cache(self, request: Request) -> Response:
        """Forget all cached prefixes that no running request holds."""
        return json({"pages": await self._service.llm.reset_prefix_cache()})

    async def log_level(self, request: Request) -> Response:
        """How much the server logs; PUT ?level=debug changes it."""
        logger = logging.getLogger("octavo")
        if request.method == "PUT":
            level = request.query_params.get("level", "").upper()
            if level not in LEVELS:
                known = ", ".join(LEVELS).lower()
                raise InvalidRequest(f"level must be one of {known}; got {shown(level.lower())}", "level")
            logger.setLevel(level)
        return json({"level": logging.getLevelName(logger.getEffectiveLevel()).lower()})

    async def drain(self, request: Request) -> Response:
        """Take no new requests, let the running ones finish, then end the server."""
        self._drain()
        return json({"draining": self._service.llm.num_open})
