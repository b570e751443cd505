"""The API described for people and machines: /openapi.json, and /docs as one page that needs nothing from elsewhere."""

from __future__ import annotations

import html
from typing import Any, TypedDict

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response

from octavo.serve.sse import encode

STYLE = (
    "body{font:15px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em}code{background:#8882;padding:0 .3em}"
    "td{vertical-align:top;padding:.1em .8em .1em 0}h2{margin-top:2em}:root{color-scheme:light dark}"
)


class Description(TypedDict, total=False):
    """What a route decorator is told about an endpoint."""

    summary: str
    response_class: type[Response]
    openapi_extra: dict[str, object]


def describe(body: type[BaseModel] | None, summary: str) -> Description:
    """An endpoint's summary and the schema of its body, which is read without FastAPI's help."""
    found = Description(summary=summary, response_class=Response)
    if body is not None:
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        found["openapi_extra"] = {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        }
    return found


def routes(app: FastAPI, schemas: tuple[type[BaseModel], ...]) -> APIRouter:
    """/docs and /openapi.json of `app`. `schemas` are the parts that bodies refer to."""
    router = APIRouter(include_in_schema=False)
    found: dict[str, object] = {}

    def openapi() -> dict[str, object]:
        if not found:
            found.update(app.openapi())
            parts = found.setdefault("components", {}).setdefault("schemas", {})  # type: ignore[attr-defined]
            parts |= {schema.__name__: schema.model_json_schema() for schema in schemas}
        return found

    @router.get("/openapi.json")
    async def schema() -> Response:
        return Response(encode(openapi()), media_type="application/json")

    @router.get("/docs")
    async def page() -> Response:
        return HTMLResponse(write_page(openapi()))

    return router


def write_page(api: dict[str, Any]) -> str:
    """The API as one HTML page."""
    version = html.escape(api["info"]["version"])
    parts = [f"<!doctype html><title>octavo</title><style>{STYLE}</style><h1>octavo {version}</h1>"]
    parts.append('<p>The same for machines: <a href="openapi.json">openapi.json</a></p>')
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}.</p>"
            )
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            rows = [
                row(name, field, name in schema.get("required", ()))
                for name, field in schema.get("properties", {}).items()
            ]
            parts.append(f"<table>{''.join(rows)}</table>" if rows else "")
    return "".join(parts)


def plain(bound: float | None) -> str:
    """A bound for people; empty for none, and for those that only say how wide an integer is."""
    return "" if bound is None or abs(bound) >= 2**31 - 1 else f"{bound:g}"


def row(name: str, field: dict[str, Any], required: bool) -> str:
    """One field of a body as a table row."""
    kinds = [part.get("type", "") for part in field.get("anyOf", [field])]
    kind = " or ".join(dict.fromkeys(kind for kind in kinds if kind and kind != "null"))
    low, high = (plain(field.get(end)) for end in ("minimum", "maximum"))
    above = plain(field.get("exclusiveMinimum"))
    span = "".join((f", above {above}" if above else "", f", from {low}" if low else "", f" to {high}" if high else ""))
    doc = field.get("description", "")
    mark = " <b>required</b>" if required else ""
    return f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(kind + span)}{mark}<td>{html.escape(doc)}</tr>"
