"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from octavo.sampling import shown
from octavo.serve.docs import describe
from octavo.serve.errors import UnknownModel
from octavo.serve.service import Service
from octavo.serve.sse import encode
from octavo.serve.tenants import Tenant


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()

    @router.get("/v1/models", **describe(None, "List the served models"))
    async def list_models(request: Request) -> Response:
        names = granted(service, request)
        data = [card(service, name) for name in names]
        ends = {"first_id": names[0], "last_id": names[-1]} if names else {}
        page = {"object": "list", "data": data, "has_more": False, **ends}
        return Response(encode(page), media_type="application/json")

    # Names of hub models hold slashes.
    @router.get("/v1/models/{model:path}", **describe(None, "Tell about a served model"))
    async def retrieve_model(model: str, request: Request) -> Response:
        if model not in granted(service, request):
            raise UnknownModel(f"model {shown(model)} is not served here", "model")
        return Response(encode(card(service, model)), media_type="application/json")

    return router


def granted(service: Service, request: Request) -> list[str]:
    """The served names that the request's key may use."""
    tenant: Tenant | None = request.scope.get("octavo.tenant")
    return [name for name in service.names if tenant is None or not tenant.key.models or name in tenant.key.models]


def card(service: Service, name: str) -> dict[str, object]:
    """OpenAI's model object, with vLLM's `root` and `max_model_len`, and what Anthropic's has besides."""
    info = service.llm.info
    longest = info.max_model_len if info else None
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "octavo",
        "root": service.llm.model_name,
        "parent": None,
        "max_model_len": longest,
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(service.created, UTC),
        "lifecycle": "active",
        "max_input_tokens": longest,
        "max_tokens": longest,
    }
