"""build_app: every endpoint behind one gate."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

import octavo
from octavo.config import ServerConfig
from octavo.engine.async_llm import AsyncLLM
from octavo.errors import OctavoError
from octavo.metrics import Metrics
from octavo.serve import chat, chat_batch, completions, docs, embeddings, health, models, requests, score, tokenize
from octavo.serve.anthropic import routes as anthropic
from octavo.serve.anthropic.schema import OutputConfig
from octavo.serve.batches import routes as batches
from octavo.serve.errors import Refused, error_response, public
from octavo.serve.responses import routes as responses
from octavo.serve.responses.schema import ReasoningConfig, TextConfig
from octavo.serve.schema import StreamOptions
from octavo.serve.security import NO_ROUTE, Door, Gate
from octavo.serve.service import Service
from octavo.serve.tenants import Ring
from octavo.serve.tracing import Tracing

ENDPOINTS = (
    completions,
    chat,
    chat_batch,
    responses,
    anthropic,
    batches,
    embeddings,
    score,
    models,
    tokenize,
    requests,
    health,
)
HTTP_WORDS = {404: "there is nothing at this path", 405: "this path does not take that method"}


def build_service(llm: AsyncLLM, server: ServerConfig, ring: Ring) -> Service:
    """What the endpoints of a server share."""
    model = (server.served_model_name or (llm.model_name,))[0]
    tracing = Tracing.launch(server.otlp_traces_endpoint, model) if server.otlp_traces_endpoint else None
    service = Service(llm, server, Metrics(model), llm.config.limits, ring=ring, tracing=tracing)
    llm.journal.on_first_token, llm.journal.on_end = service.metrics.began, service.entry_ended
    service.records.on_end = service.trace
    return service


def build_app(service: Service) -> ASGIApp:
    """The whole server as one ASGI application. Routes: `build_routes`."""
    door = Door.of(service.server, service.ring)
    routes = build_routes(service)
    service.metrics.expect(route.path for route in routes.routes if isinstance(route, Route))
    service.metrics.expect([NO_ROUTE])
    return Gate(routes, door, service.limits, service.metrics)


def build_routes(service: Service) -> FastAPI:
    """The routes of a server, without the gate."""
    app = FastAPI(
        title="octavo",
        version=octavo.__version__,
        root_path=service.server.root_path,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # Newer FastAPIs can export spans and logs when the environment says so; older ones ignore the argument.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.router.redirect_slashes = False  # a redirect would be built from the Host header
    routers = [module.routes(service) for module in ENDPOINTS]
    if not service.server.disable_docs:
        routers.append(docs.routes(app, (StreamOptions, ReasoningConfig, TextConfig, OutputConfig)))
    # One flat list, in which matching is cheapest and which tests can walk.
    app.router.routes.extend(route for router in routers for route in router.routes)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(OctavoError, on_error)
    app.add_exception_handler(Exception, on_error)
    return app


async def on_http_error(request: Request, error: Exception) -> Response:
    """The framework's own errors (no such path, wrong method) in our shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    response = error_response(Refused(status, HTTP_WORDS.get(status, "the request cannot be served")), request.scope)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def on_error(request: Request, error: Exception) -> Response:
    """Errors of endpoints that are not generation requests."""
    return error_response(public(error), request.scope)
