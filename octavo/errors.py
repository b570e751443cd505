"""Every error octavo raises on purpose: what was wrong, the value, what would be right, and which field."""

from __future__ import annotations


class OctavoError(Exception):
    """An error with one clear line for a person; `field` names the parameter, flag or file it belongs to."""

    status = 500
    kind = "internal_error"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidRequest(OctavoError, ValueError):
    """The request cannot be served as written. HTTP 400; a ValueError for Python callers."""

    status = 400
    kind = "invalid_request_error"


class NotFound(OctavoError):
    """The request names something that does not exist here. HTTP 404."""

    status = 404
    kind = "not_found_error"


class Overloaded(OctavoError):
    """A bounded queue is full. HTTP 429; `retry_after_s` says when to come back."""

    status = 429
    kind = "rate_limit_error"

    def __init__(self, message: str, field: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, field)
        self.retry_after_s = retry_after_s


class EngineDead(OctavoError):
    """The engine is starting, restarting, draining or gone. HTTP 503; `retry_after_s` says when to come back."""

    status = 503
    kind = "service_unavailable_error"

    def __init__(self, message: str, field: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, field)
        self.retry_after_s = retry_after_s


class StepFailed(OctavoError):
    """The engine failed while computing this request; others go on. HTTP 500."""


class StartupError(OctavoError):
    """The engine cannot start as configured; the command prints the line and exits with code 1."""


class UnsupportedModel(StartupError):
    """The checkpoint needs something octavo does not have; the message names it."""
