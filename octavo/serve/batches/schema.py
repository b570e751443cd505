"""Bodies and query parameters of /v1/batches and /v1/files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import Field, WithJsonSchema
from starlette.requests import Request

from octavo.errors import InvalidRequest
from octavo.limits import Limits
from octavo.sampling import shown
from octavo.serve.batches.lines import ENDPOINTS
from octavo.serve.batches.store import Batch, File
from octavo.serve.query import number, order
from octavo.serve.schema import Body

HOURS = 7 * 24
METADATA = (16, 64, 512)  # OpenAI's: entries, characters of a name, characters of a value

T = TypeVar("T", File, Batch)

Metadata = Annotated[object, WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}})]


class BatchRequest(Body):
    """POST /v1/batches."""

    input_file_id: str = Field(description="A file that was uploaded with purpose `batch`: one request a line.")
    endpoint: str = Field(description=f"Where its lines go: {', '.join(ENDPOINTS)}.")
    completion_window: str = Field("24h", description="Hours, such as 24h, after which no more lines are started.")
    metadata: Metadata = Field(None, description="Up to 16 texts, kept with the batch.")

    def hours(self) -> int:
        """The completion window; InvalidRequest for another spelling."""
        found = re.fullmatch(r"([1-9][0-9]{0,2})h", self.completion_window)
        if found is None or int(found[1]) > HOURS:
            raise InvalidRequest(
                f"completion_window must be hours from 1h to {HOURS}h, got {shown(self.completion_window)}",
                "completion_window",
            )
        return int(found[1])

    def texts(self) -> dict[str, str] | None:
        """The metadata; InvalidRequest when it is not a few short texts."""
        given = self.metadata
        if given is None:
            return None
        entries, name_chars, value_chars = METADATA
        if not isinstance(given, dict) or len(given) > entries:
            raise InvalidRequest(
                f"metadata must be an object of at most {entries} texts, got {shown(given)}", "metadata"
            )
        for name, value in given.items():
            if not isinstance(value, str) or len(name) > name_chars or len(value) > value_chars:
                raise InvalidRequest(
                    f"metadata allows names of {name_chars} and texts of {value_chars} characters; "
                    f"{shown(name)} has {shown(value)}",
                    "metadata",
                )
        return given


def check_endpoint(endpoint: str) -> None:
    """InvalidRequest unless lines can go there."""
    if endpoint not in ENDPOINTS:
        raise InvalidRequest(f"endpoint must be one of {', '.join(ENDPOINTS)}, got {shown(endpoint)}", "endpoint")


def page(found: Sequence[T], request: Request, most: int, default: int) -> dict[str, object]:
    """The list object of those behind `after`, at most `limit` of them, as the query asks."""
    limit = number(request, "limit", 1, most, default)
    listed = list(found) if order(request) == "desc" else list(found)[::-1]
    ids = [one.id for one in listed]
    after = request.query_params.get("after")
    if after is not None and after not in ids:
        raise InvalidRequest(f"after names none of them: {shown(after)}", "after")
    first = ids.index(after) + 1 if after is not None else 0
    some = listed[first : first + limit]
    return {
        "object": "list",
        "data": some,
        "first_id": some[0].id if some else None,
        "last_id": some[-1].id if some else None,
        "has_more": first + len(some) < len(listed),
    }


def check_upload(name: str | None, purpose: object, limits: Limits) -> str:
    """The file's name as it is kept; InvalidRequest names the form field that is wrong."""
    if purpose != "batch":
        raise InvalidRequest(f"purpose must be batch, got {shown(purpose)}", "purpose")
    if name is None:
        raise InvalidRequest("file is required: a form field with a file of JSON lines", "file")
    return re.sub(r"[^\w .()-]", "_", name.replace("\\", "/").rpartition("/")[2])[: limits.id_chars] or "file"
