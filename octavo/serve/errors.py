"""Errors as the path's dialect spells them, in a response or as a stream's last event; none shows the machine (R34)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from octavo import log
from octavo.errors import EngineDead, InvalidRequest, NotFound, OctavoError, Overloaded

logger = log.get(__name__)

INTERNAL = "the server failed while handling this request; its log says more"
CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "request_too_large",
    414: "url_too_long",
    415: "unsupported_media_type",
    421: "misdirected_request",
    429: "overloaded",
    431: "headers_too_large",
    500: "internal_error",
    503: "unavailable",
}


ANTHROPIC_PATHS = "/v1/messages"
ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}  # the others are invalid_request_error


class Refused(OctavoError):
    """The door refuses a request for a reason with an HTTP status of its own (401, 403, 408, 413, 415, 421, 431)."""

    kind = "invalid_request_error"

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message, field)
        self.status = status


class QuotaExceeded(Overloaded):
    """A key has used up a quota. HTTP 429."""


class ClientGone(Exception):
    """The client closed the connection."""


class UnknownModel(NotFound):
    """The request names a model that is not served."""


def public(error: Exception) -> OctavoError:
    """The error as a client may see it: ours below 500 and 503 as they are, any other logged and replaced."""
    if isinstance(error, (InvalidRequest, NotFound, Overloaded, EngineDead, Refused)):
        return error
    if isinstance(error, OctavoError):
        logger.warning("request failed: %s", error.message)
    else:
        logger.error("request failed", exc_info=error)
    return OctavoError(INTERNAL)


def error_object(error: OctavoError) -> bytes:
    """OpenAI's `{"error": …}` as JSON."""
    code = CODES.get(error.status, "error")
    if isinstance(error, (UnknownModel, QuotaExceeded)):
        code = "model_not_found" if isinstance(error, UnknownModel) else "rate_limit_exceeded"
    return msgspec.json.encode(
        {"error": {"message": printable(error.message), "type": error.kind, "param": error.field, "code": code}}
    )


def printable(text: str) -> str:
    """Text that any JSON reader takes: lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def anthropic_error(error: OctavoError, request_id: str) -> bytes:
    """Anthropic's error object as JSON."""
    kind = ANTHROPIC_KINDS.get(error.status, "invalid_request_error")
    what = {"type": kind, "message": printable(error.message)}
    return msgspec.json.encode({"type": "error", "error": what, "request_id": request_id})


def spelled(error: OctavoError, scope: Mapping[str, object]) -> tuple[bytes, bytes]:
    """What an event that carries the error begins with, and the error, in the dialect of the request's path."""
    if str(scope.get("path", "")).startswith(ANTHROPIC_PATHS):
        return b"event: error\ndata: ", anthropic_error(error, str(scope.get("octavo.request_id", "")))
    return b"data: ", error_object(error)


def error_event(error: OctavoError, scope: Mapping[str, object]) -> bytes:
    """The last event of a stream that failed: no `[DONE]` follows it, and no finish reason (R1)."""
    return b"".join(spelled(error, scope)) + b"\n\n"


def error_response(error: OctavoError, scope: Mapping[str, object]) -> Response:
    """The response for an error raised before any output."""
    headers = {}
    if isinstance(error, (Overloaded, EngineDead)):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (408, 413, 431):
        headers["connection"] = "close"
    return Response(spelled(error, scope)[1], error.status, headers, "application/json")
