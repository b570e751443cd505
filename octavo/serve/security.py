"""The gate in front of every route: hosts, origins, keys, header limits and request ids (R29-R31, R36).

It judges the path as it came, before any rewriting. Default deny: with a key set, only the paths in PUBLIC need none.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.config import ServerConfig
from octavo.errors import StartupError
from octavo.limits import Limits
from octavo.metrics import Metrics
from octavo.serve.errors import ANTHROPIC_PATHS, Refused, error_response
from octavo.serve.tenants import Ring

PUBLIC = frozenset(("/health", "/ping"))
NO_ROUTE = "none"  # what a request to no route is called in the metrics
LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
UNCLEAN = re.compile(r"[^A-Za-z0-9._:-]")
CORS_METHODS = b"GET, POST, DELETE, OPTIONS"
CORS_HEADERS = b"authorization, content-type, x-api-key, x-request-id, anthropic-version, anthropic-beta"


@dataclass(frozen=True)
class Door:
    """Who may come in at one listener: keys, pages of which origins, and under which host names (None: any)."""

    ring: Ring
    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] | None = LOOPBACK_NAMES
    public: frozenset[str] = PUBLIC

    @classmethod
    def of(cls, server: ServerConfig, ring: Ring) -> Door:
        """That of the public listener."""
        # A page that rebinds its DNS name to 127.0.0.1 still sends that name as Host.
        checks_host = (server.uds is not None or is_loopback(server.host)) and "*" not in server.allowed_hosts
        hosts = LOOPBACK_NAMES | {server.host.lower()} | set(server.allowed_hosts) if checks_host else None
        return cls(ring, frozenset(server.allowed_origins), hosts)


class Gate:
    """Outermost ASGI application. `limits` bound the headers."""

    def __init__(self, app: ASGIApp, door: Door, limits: Limits, metrics: Metrics) -> None:
        self.app = app
        self.door = door
        self.limits = limits
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through to the application, or answer it here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(reversed(scope["headers"]))  # the first of each name
        scope["octavo.request_id"] = secrets.token_hex(16)
        scope["octavo.send"] = send
        named = clean_id(headers.get(b"x-request-id"))
        scope["octavo.client_id"] = named.decode() if named else None
        extra = [(b"x-request-id", named or scope["octavo.request_id"].encode())]
        # Anthropic's clients look for the id under another name.
        is_anthropic = scope["path"].startswith(ANTHROPIC_PATHS)
        ids = [(b"request-id", scope["octavo.request_id"].encode())] if is_anthropic else []
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and self._is_allowed(origin):
            extra += [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]

        async def hear() -> Message:
            message = await receive()
            self.metrics.bytes_in += len(message.get("body", b""))
            return message

        def answer(message: Message) -> object:
            if message["type"] == "http.response.body":
                self.metrics.bytes_out += len(message.get("body", b""))
            elif message["type"] == "http.response.start":
                self.metrics.answered(message["status"])
                quotas = tenant.headers() if (tenant := scope.get("octavo.tenant")) is not None else ()
                message = {**message, "headers": [*message["headers"], *extra, *ids, *quotas]}
            return send(message)

        try:
            self._check(scope, headers, origin)
        except Refused as error:
            await error_response(error, scope)(scope, receive, answer)  # type: ignore[arg-type]
            return
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers and len(extra) > 1:
            allowed = {
                "access-control-allow-methods": CORS_METHODS.decode(),
                "access-control-allow-headers": CORS_HEADERS.decode(),
            }
            await Response(status_code=204, headers=allowed)(scope, receive, answer)  # type: ignore[arg-type]
            return
        began_s = time.monotonic()
        try:
            await self.app(scope, hear, answer)  # type: ignore[arg-type]
        finally:
            # The route as it was declared, and not the path: labels are from a closed set (R35).
            route: Route | None = scope.get("route")
            self.metrics.http_seconds.labels(route.path if route else NO_ROUTE).observe(time.monotonic() - began_s)

    def _check(self, scope: MutableMapping[str, object], headers: dict[bytes, bytes], origin: str) -> None:
        """Raise Refused unless the request may go on; note whose key it carries (`octavo.tenant`, `octavo.key`)."""
        fields: list[tuple[bytes, bytes]] = scope["headers"]  # type: ignore[assignment]
        if len(fields) > self.limits.headers or sum(len(k) + len(v) for k, v in fields) > self.limits.header_bytes:
            raise Refused(431, f"the headers are over {self.limits.headers} lines or {self.limits.header_bytes} bytes")
        host = headers.get(b"host", b"").decode("latin-1")
        if self.door.hosts is not None and host_name(host) not in self.door.hosts:
            raise Refused(
                421, "this server does not answer to that Host; start it with --allowed-hosts to change this", "host"
            )
        if origin and not self._may_come_from(origin, host):
            raise Refused(403, "web pages of that origin may not call this server; see --allowed-origins", "origin")
        preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if not len(self.door.ring) or scope["path"] in self.door.public or preflight:
            return
        tenant = self.door.ring.find(sent_key(headers))
        if tenant is None:
            raise Refused(401, "a valid API key is needed: send 'Authorization: Bearer KEY'", "authorization")
        scope["octavo.tenant"] = tenant
        scope["octavo.key"] = tenant.key.id

    def _is_allowed(self, origin: str) -> bool:
        return origin in self.door.origins or "*" in self.door.origins

    def _may_come_from(self, origin: str, host: str) -> bool:
        same = urlsplit(origin).netloc.lower() == host.lower() if origin.startswith(("http://", "https://")) else False
        return same or self._is_allowed(origin)


def sent_key(headers: Mapping[bytes, bytes]) -> bytes:
    """The key a request carries: OpenAI's clients send it as a bearer token, Anthropic's in a header of its own."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()


def clean_id(value: bytes | None) -> bytes | None:
    """A client's request id as it may be echoed: at most 128 harmless characters, or None (R36)."""
    text = UNCLEAN.sub("", (value or b"").decode("latin-1"))[:128]
    return text.encode() or None


def host_name(host: str) -> str:
    """The name in a Host header, without its port and brackets, in lower case."""
    name = host.rpartition(":")[0] if re.fullmatch(r".+:\d+", host) else host
    return name.strip("[]").lower().removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_exposure(server: ServerConfig) -> None:
    """StartupError for an empty key, or a public address without one unless the operator insists (R31)."""
    if not all(server.api_key):
        raise StartupError("an API key must not be empty", "api_key")
    has_keys = server.api_key or server.api_keys_file
    if server.uds is None and not is_loopback(server.host) and not has_keys and not server.insecure:
        raise StartupError(
            f"host {server.host} can be reached from other machines and no API key is set; "
            "set OCTAVO_API_KEY or --api-keys-file, or accept the risk with --insecure",
            "host",
        )
