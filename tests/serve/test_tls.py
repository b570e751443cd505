"""HTTPS: certificates from files, read again when they change, and asked of clients when the operator wants them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from octavo.config import ServerConfig
from octavo.errors import StartupError
from octavo.serve.tls import tls_context

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl to make certificates with")


def openssl(*arguments: str | Path) -> None:
    subprocess.run([OPENSSL, *map(str, arguments)], check=True, capture_output=True)


def make(folder: Path, name: str, authority: str | None = None) -> None:
    """NAME.pem and NAME.key, for localhost, signed by themselves or by another."""
    key, request, out = folder / f"{name}.key", folder / f"{name}.csr", folder / f"{name}.pem"
    extra = folder / "extra"
    extra.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key)
    if authority is None:
        openssl("req", "-x509", *curve, "-out", out, "-days", "2", "-subj", f"/CN={name}", "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1")  # fmt: skip
        return
    openssl("req", "-new", *curve, "-out", request, "-subj", f"/CN={name}")
    openssl("x509", "-req", "-in", request, "-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key",
            "-out", out, "-days", "2", "-CAcreateserial", "-extfile", extra)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls")
    for name in ("authority", "stranger"):
        make(path, name)
    for name in ("server", "client"):
        make(path, name, "authority")
    make(path, "intruder", "stranger")
    return path


@pytest.fixture(scope="module")
def secure(start, folder):
    flags = ("--ssl-certfile", f"{folder}/server.pem", "--ssl-keyfile", f"{folder}/server.key")
    return start(*flags, "--ssl-ca-certs", f"{folder}/authority.pem")


def client(folder: Path, name: str | None) -> httpx.Client:
    context = ssl.create_default_context(cafile=f"{folder}/authority.pem")
    if name is not None:
        context.load_cert_chain(f"{folder}/{name}.pem", f"{folder}/{name}.key")
    return httpx.Client(verify=context, timeout=10)


def served_certificate(server) -> bytes:
    """What the server shows now, whoever asks."""
    host, port = server.url.removeprefix("https://").split(":")
    return ssl.get_server_certificate((host, int(port))).encode()


def test_a_client_with_a_certificate_is_answered_and_others_are_not(secure, folder):
    assert secure.url.startswith("https://")
    body = {"prompt": "a", "max_tokens": 40, "ignore_eos": True, "stream": True}
    with client(folder, "client") as known:
        text = known.post(f"{secure.url}/v1/completions", json=body).text
        assert text.endswith("data: [DONE]\n\n")
    for name in (None, "intruder"):
        with client(folder, name) as unknown, pytest.raises(httpx.TransportError):
            unknown.get(f"{secure.url}/health")


def test_old_versions_and_plain_http_are_not_spoken(secure, folder):
    host, port = secure.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 200" not in plain.recv(4096)
    with client(folder, "client") as known:
        assert known.get(f"{secure.url}/health").status_code == 200


def test_a_renewed_certificate_is_shown_without_a_restart(start, folder):
    shutil.copy(folder / "server.key", folder / "own.key")
    shutil.copy(folder / "server.pem", folder / "own.pem")
    server = start("--ssl-certfile", f"{folder}/own.pem", "--ssl-keyfile", f"{folder}/own.key")
    old = served_certificate(server)
    (folder / "own.pem").write_text("half")  # an unusable one is not used
    time.sleep(1.5)
    assert served_certificate(server) == old
    shutil.copy(folder / "client.key", folder / "own.key")
    shutil.copy(folder / "client.pem", folder / "own.pem")
    end_s = time.monotonic() + 10
    while served_certificate(server) == old:
        assert time.monotonic() < end_s
        time.sleep(0.1)


def test_what_cannot_be_used_is_one_line(folder):
    key = f"{folder}/server.key"
    openssl("ec", "-in", key, "-aes256", "-passout", "pass:x", "-out", folder / "locked.key")
    pem = f"{folder}/server.pem"
    for names, word in (
        ({"ssl_certfile": "/nope.pem"}, "No such file"),
        ({"ssl_certfile": pem, "ssl_keyfile": f"{folder}/client.key"}, "does not belong"),
        ({"ssl_certfile": pem, "ssl_keyfile": f"{folder}/locked.key"}, "cannot use"),
        ({"ssl_certfile": key, "ssl_keyfile": key}, "cannot use"),
        ({"ssl_certfile": pem, "ssl_keyfile": key, "ssl_ca_certs": "/nope"}, "/nope"),
        ({"ssl_keyfile": key}, "--ssl-certfile"),
        ({"ssl_ca_certs": pem}, "--ssl-certfile"),
    ):
        with pytest.raises(StartupError, match=word) as error:
            tls_context(ServerConfig(**names))
        assert "\n" not in error.value.message
    assert tls_context(ServerConfig()) is None
