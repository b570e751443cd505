"""Listeners: a bound socket, and uvicorn serving an application on it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from octavo.errors import StartupError
from octavo.serve.connection import Connection, Guard
from octavo.serve.security import is_loopback

BACKLOG = 4096  # connections the system may hold before they are accepted
KEEP_ALIVE_S = 75  # longer than the clients' own, so that they close first and never send into a closing connection
FLUSH_S = 1.0  # for the last events of streams that were cut off
HANDSHAKE_S = 10.0
SEND_BYTES = 256 * 2**10  # the system's buffer per connection: what a client that does not read may cost
MOST_FILES = 65_536
OWN_FILES = 512  # descriptors that are no clients' connections


@dataclass(frozen=True)
class Address:
    """Where to listen: a Unix socket, or host and port. `option` begins the names of the flags that say so."""

    host: str
    port: int
    uds: str | None
    option: str = ""

    @property
    def flag(self) -> str:
        """The flag that chooses the address."""
        return f"{self.option}{'uds' if self.uds else 'port'}"


class Server(uvicorn.Server):
    """uvicorn without its signal handlers (draining comes before closing), and with our connections."""

    def __init__(self, app: ASGIApp, guard: Guard, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(settings(app))
        self.guard = guard
        self.tls = tls

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to run_server."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections on `sockets`."""

        def accept() -> Connection:
            return Connection(self.guard, self.config, self.server_state, {})

        handshake_s = HANDSHAKE_S if self.tls else None
        await self.lifespan.startup()
        self.servers = [
            await asyncio.get_running_loop().create_server(
                accept, sock=each, ssl=self.tls, backlog=BACKLOG, ssl_handshake_timeout=handshake_s
            )
            for each in sockets or ()
        ]
        self.started = True


def settings(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn is to behave: no access log (requests are metrics), bounded shutdown, no name in replies."""
    return uvicorn.Config(
        app,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(FLUSH_S)),
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="off",
        ws="none",
        server_header=False,
    )


def listen(where: Address) -> socket.socket:
    """A bound socket; StartupError names the address when it is taken or not ours."""
    try:
        if where.uds:
            clear(Path(where.uds), where.flag)
            found = socket.socket(socket.AF_UNIX)
            mask = os.umask(0o177)  # nobody else may connect, not even before a chmod
            try:
                found.bind(where.uds)
            finally:
                os.umask(mask)
        else:
            family, _, _, _, target = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
            found = socket.socket(family)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(target)
            found.listen(BACKLOG)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # connections inherit it
        return found
    except OSError as error:
        raise unusable(where, error) from None


def unusable(where: Address, error: OSError) -> StartupError:
    """What to tell of an address that cannot be listened on."""
    shown = where.uds or f"{where.host}:{where.port}"
    flag = where.flag
    if error.errno == errno.EADDRINUSE:
        choice = f"--{flag.replace('_', '-')}"
        return StartupError(f"{shown} is in use by another program; choose another with {choice}", flag)
    return StartupError(
        f"cannot listen on {shown}: {error.strerror or error}", flag if where.uds or where.option else "host"
    )


def clear(path: Path, flag: str) -> None:
    """Remove the socket that a server left behind; StartupError when the path is another thing, or still answers."""
    if not path.exists():
        return
    choice = f"--{flag.replace('_', '-')}"
    if not path.is_socket():
        raise StartupError(f"{path} exists and is no socket; choose another path with {choice}", flag)
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
        probe.settimeout(1)
        probe.connect(str(path))
        raise StartupError(f"{path} is in use by another program; choose another path with {choice}", flag)
    path.unlink()


def url(listener: socket.socket, where: Address, is_encrypted: bool, is_open: bool) -> str:
    """The URL clients use. `is_open` says that nothing keeps strangers away."""
    if where.uds:
        return f"unix:{where.uds}"
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    warning = " (open to anyone: --insecure)" if is_open and not is_loopback(host) else ""
    return f"{'https' if is_encrypted else 'http'}://{shown}:{port}{warning}"


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed."""
    return uvicorn.Config(lambda: None, log_config=None).get_loop_factory()  # type: ignore[return-value]


def raise_file_limit() -> int:
    """Let this process open as many files as the system allows; returns how many of them may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, MOST_FILES) if hard > 0 else MOST_FILES
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(soft - OWN_FILES, soft // 2)
