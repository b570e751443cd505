"""The gate: default deny on every route, foreign pages and names kept out, ids only echoed, labels from closed sets."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from octavo.config import ServerConfig
from octavo.errors import StartupError
from octavo.serve.security import check_exposure, clean_id, host_name

from .inventory import PUBLIC as EVERYBODY
from .inventory import WITH_KEY, listed

KEY = "sk-first"
PUBLIC = ("/health", "/ping")  # written down again, so that a longer list is noticed


@pytest.fixture(scope="module")
def guarded(start):
    return start(
        "--api-key", KEY, "sk-second", "--allowed-origins", "https://app.example", "--served-model-name", "a", "b"
    )


@pytest.fixture(scope="module")
def routes() -> list[tuple[str, str]]:
    """Every method and path of a server, with something in the place of what varies."""
    return sorted((method, re.sub(r"\{.*?\}", "a", path)) for method, path in listed(EVERYBODY) | listed(WITH_KEY))


async def raw_status(url: str, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of a request whose path is sent exactly as given."""
    name, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    fields = {"host": f"{name}:{port}", "connection": "close", "content-length": "0"} | headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


def spellings(path: str) -> list[str]:
    """The path as attackers write it."""
    encoded = "/" + "".join(f"%{ord(c):02x}" for c in path[1:])
    return [
        *(path, "/" + path, path + "/", encoded, path.upper()),
        *(f"/x/..{path}", f"/health/..{path}", f"//health{path}", f"{path}?a=/health", f"http://a/health{path}"),
    ]


def test_every_route_needs_a_key_unless_it_is_public(guarded, routes):
    assert len(routes) >= 12
    wrong = [
        "",
        KEY,
        "Bearer",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer sk-first,sk-second",
        f"Basic {KEY}",
    ]

    async def run() -> None:
        for method, path in routes:
            for header in wrong:
                status = await raw_status(guarded.url, method, path, {"authorization": header})
                assert (status == 401) == (path not in PUBLIC), (method, path, header)
            for spelled in spellings(path):
                if spelled not in (path, f"{path}?a=/health") or path not in PUBLIC:
                    status = await raw_status(guarded.url, method, spelled, {})
                    assert status in (400, 401) or path in PUBLIC, (method, spelled, status)
            for key in (KEY, "sk-second"):
                status = await raw_status(guarded.url, method, path, {"authorization": f"Bearer {key}"})
                assert status != 401, (method, path)

    asyncio.run(run())


def test_unknown_paths_are_denied_before_they_are_unknown(guarded):
    assert guarded.http.get("/nothing").status_code == 401
    assert guarded.http.get("/nothing", headers={"authorization": f"Bearer {KEY}"}).status_code == 404


def test_keys_appear_nowhere(guarded):
    auth = {"authorization": f"Bearer {KEY}"}
    for path in ("/metrics", "/openapi.json", "/docs", "/v1/models", "/version"):
        assert "sk-" not in guarded.http.get(path, headers=auth).text


def test_tenants_share_no_cached_prefix(guarded):
    def cached(key: str) -> int:
        body = {"prompt": "a secret that is long enough to fill a page " * 4, "max_tokens": 1}
        reply = guarded.http.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"}).json()
        return reply["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached(KEY) == 0
    assert cached(KEY) > 0
    assert cached("sk-second") == 0


def test_every_served_name_works_and_is_listed(guarded):
    auth = {"authorization": f"Bearer {KEY}"}
    assert [model["id"] for model in guarded.http.get("/v1/models", headers=auth).json()["data"]] == ["a", "b"]
    for name in ("a", "b"):
        reply = guarded.http.post("/v1/completions", json={"model": name, "prompt": "x", "max_tokens": 1}, headers=auth)
        assert reply.json()["model"] == name


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil", "2130706433"]
)
def test_a_foreign_host_is_misdirected(server, host):
    assert asyncio.run(raw_status(server.url, "GET", "/health", {"host": host})) == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000", "localhost."])
def test_this_machines_names_are_answered(server, host):
    assert asyncio.run(raw_status(server.url, "GET", "/health", {"host": host})) == 200


def test_pages_of_other_origins_are_kept_out(http, server, guarded):
    body = {"prompt": "a", "max_tokens": 1}
    for origin in ("https://evil.example", "null", "http://localhost.evil.example", "http://localhost:1", "file://"):
        assert http.post("/v1/completions", json=body, headers={"origin": origin}).status_code == 403
    reply = http.post("/v1/completions", json=body, headers={"origin": server.url})
    assert reply.status_code == 200
    assert "access-control-allow-origin" not in reply.headers


def test_allowed_origins_get_cors_and_no_other(guarded):
    ask = {"origin": "https://app.example", "access-control-request-method": "POST"}
    reply = guarded.http.options("/v1/chat/completions", headers=ask)
    assert reply.status_code == 204
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in reply.headers["access-control-allow-headers"]
    assert (
        guarded.http.options("/v1/chat/completions", headers=ask | {"origin": "https://other.example"}).status_code
        == 403
    )
    # A preflight opens no door: the request itself still needs its key.
    assert guarded.http.post("/v1/chat/completions", headers={"origin": "https://app.example"}).status_code == 401


def test_request_ids_are_only_echoed_and_cleaned(http):
    assert http.get("/version", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert len(http.get("/version").headers["x-request-id"]) == 32
    assert clean_id(b"http://evil/\x00<" + b"a" * 500) == b"http:evil" + b"a" * 119
    assert clean_id(b"") is clean_id(b"\xff<>") is clean_id(None) is None

    async def twins() -> list[dict]:
        loop = asyncio.get_running_loop()
        body = {"prompt": "a", "max_tokens": 50, "temperature": 0}
        ask = lambda: http.post("/v1/completions", json=body, headers={"x-request-id": "same"}).json()
        return await asyncio.gather(*(loop.run_in_executor(None, ask) for _ in range(4)))

    replies = asyncio.run(twins())
    assert len({reply["choices"][0]["text"] for reply in replies}) == 1
    assert len({reply["id"] for reply in replies}) == 4


def test_no_request_adds_a_series_to_the_metrics(server, http):
    def series() -> int:
        return sum(not line.startswith("#") for line in http.get("/metrics").text.splitlines())

    before = series()
    for i in range(30):
        http.request(f"BREW{i}" if i % 2 else "GET", f"/{i}/x", headers={"user-agent": f"agent {i}"})
        http.post("/v1/completions", json={"model": f"model-{i}", "prompt": "x"})
    assert series() == before


def test_errors_show_nothing_of_the_machine(http):
    for body in ({"prompt": [5, 99999]}, {"prompt": "x", "n": -1}, {"prompt": {}}, {"chat_template": "{{ 1 }}"}):
        text = http.post("/v1/completions", content=json.dumps(body), headers={"content-type": "application/json"}).text
        assert not any(mark in text for mark in ("Traceback", "0x", ".py", "/home", "site-packages"))


def test_a_public_address_needs_a_key_or_an_explicit_word():
    for server in (
        ServerConfig(host="0.0.0.0"),
        ServerConfig(host="::"),
        ServerConfig(host="10.1.2.3"),
        ServerConfig(host="x.example"),
    ):
        with pytest.raises(StartupError, match="--insecure"):
            check_exposure(server)
    local = (ServerConfig(), ServerConfig(host="::1"), ServerConfig(host="localhost"), ServerConfig(uds="/tmp/x"))
    meant = (ServerConfig(host="0.0.0.0", api_key=("k",)), ServerConfig(host="0.0.0.0", insecure=True))
    for server in local + meant:
        check_exposure(server)
    with pytest.raises(StartupError, match="empty"):
        check_exposure(ServerConfig(host="0.0.0.0", api_key=("",)))


def test_host_names_are_read_from_every_spelling():
    names = [host_name(host) for host in ("a", "A:1", "[::1]:80", "[::1]", "a.", "", ":1")]
    assert names == ["a", "a", "::1", "::1", "a", "", ":1"]
