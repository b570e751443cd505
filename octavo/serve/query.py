"""What endpoints without a body read of a request, and how they answer it."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from octavo.errors import InvalidRequest
from octavo.sampling import shown
from octavo.serve.sse import encode


def owner(request: Request) -> str:
    """Whose things a request may see: the id of its API key, "" without one."""
    return request.scope.get("octavo.key") or ""


def json(value: object) -> Response:
    """A whole reply."""
    return json_bytes(encode(value))


def json_bytes(body: bytes) -> Response:
    """A whole reply that is JSON already."""
    return Response(body, media_type="application/json")


def flag(request: Request, name: str) -> bool:
    """A query parameter that is true or false, by default false."""
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise InvalidRequest(f"{name} must be true or false, got {shown(value)}", name)
    return value == "true"


def number(request: Request, name: str, low: int, high: int, default: int) -> int:
    """A query parameter that is an integer in [low, high]."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}", value) or not low <= int(value) <= high:
        raise InvalidRequest(f"{name} must be an integer in [{low}, {high}], got {shown(value)}", name)
    return int(value)


def order(request: Request) -> str:
    """The query parameter `order` of a list: asc, or by default desc."""
    value = request.query_params.get("order", "desc")
    if value not in ("asc", "desc"):
        raise InvalidRequest(f"order must be asc or desc, got {shown(value)}", "order")
    return value
