"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from octavo.serve.docs import describe
from octavo.serve.service import Service
from octavo.serve.sse import encode


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()

    @router.get("/v1/models", **describe(None, "List the served models"))
    async def list_models() -> Response:
        data = [card(service, name) for name in service.names]
        return Response(encode({"object": "list", "data": data}), media_type="application/json")

    # Names of hub models hold slashes.
    @router.get("/v1/models/{model:path}", **describe(None, "Tell about a served model"))
    async def retrieve_model(model: str) -> Response:
        return Response(encode(card(service, service.model(model))), media_type="application/json")

    return router


def card(service: Service, name: str) -> dict[str, object]:
    """OpenAI's model object, with vLLM's `root` and `max_model_len`."""
    info = service.llm.info
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "octavo",
        "root": service.llm.model_name,
        "parent": None,
        "max_model_len": info.max_model_len if info else None,
    }
