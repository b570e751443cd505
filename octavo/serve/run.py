"""run_server: bind the port, start the engine, serve until told to stop, then drain (R6, R7)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import resource
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import uvicorn

from octavo import env, log
from octavo.config import EngineConfig, ServerConfig
from octavo.engine.async_llm import AsyncLLM
from octavo.errors import StartupError
from octavo.serve.app import build_app
from octavo.serve.data import hold
from octavo.serve.security import check_exposure, is_loopback

logger = log.get(__name__)

BACKLOG = 4096  # connections the system may hold before they are accepted
KEEP_ALIVE_S = 75  # longer than the clients' own, so that they close first and never send into a closing connection
FLUSH_S = 1.0  # for the last events of streams that were cut off
WATCH_S = 0.25


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: draining comes before closing."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to run_server."""
        yield


def run_server(config: EngineConfig, server: ServerConfig) -> int:
    """Serve until a signal; returns the exit code. StartupError when it cannot start: address, model or memory."""
    server = with_key(server)
    server.check()
    check_exposure(server)
    listener = listen(server)
    raise_file_limit()
    runner = asyncio.Runner(loop_factory=loop_factory())
    with contextlib.closing(listener), hold(server.data_dir), runner:
        return runner.run(serve(config, server, listener))


async def serve(config: EngineConfig, server: ServerConfig, listener: socket.socket) -> int:
    """Serve on `listener`, with 503 while the model loads. 0 after a signal, 1 when the engine is lost for good."""
    stop = Stop()
    stop.install()
    llm = AsyncLLM.launch(config, server.heartbeat_s)
    try:
        http = Server(uvicorn_config(llm, server))
    except BaseException:
        await llm.shutdown()
        raise
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    try:
        return await supervise(llm, server, stop, address(listener, server))
    finally:
        await llm.shutdown()
        http.should_exit = True
        if stop.count > 1:
            http.force_exit = True
        await serving
        if server.uds:
            Path(server.uds).unlink(missing_ok=True)


async def supervise(llm: AsyncLLM, server: ServerConfig, stop: Stop, where: str) -> int:
    """Wait for the end: a signal (drain, then 0), an engine that is gone (1), or StartupError if it never was there."""
    ready = asyncio.create_task(llm.ready())
    asked = asyncio.create_task(stop.asked.wait())
    await asyncio.wait((ready, asked), return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        return 0
    ready.result()
    if llm.info is not None:
        for what, decided in llm.info.plan.items():
            logger.info("%-16s %s", what, decided)
    logger.info("%s is served on %s", ", ".join(server.served_model_name or (llm.model_name,)), where)
    while not asked.done():
        await asyncio.wait((asked,), timeout=WATCH_S)
        if llm.state == "dead":
            asked.cancel()
            return 1
    llm.start_draining()
    logger.info("draining: running requests have %g s to finish (a second signal ends them now)", server.drain_limit_s)
    drained = asyncio.create_task(llm.drained(server.drain_limit_s))
    now = asyncio.create_task(stop.hurry.wait())
    await asyncio.wait((drained, now), return_when=asyncio.FIRST_COMPLETED)
    for task in (drained, now):
        task.cancel()
    return 0


class Stop:
    """Signals: the first asks for an end, the second for a quick one."""

    def __init__(self) -> None:
        self.count = 0
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()

    def install(self) -> None:
        """Listen to SIGINT and SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.on_signal)

    def on_signal(self) -> None:
        """One more signal came."""
        self.count += 1
        (self.asked if self.count == 1 else self.hurry).set()


def uvicorn_config(llm: AsyncLLM, server: ServerConfig) -> uvicorn.Config:
    """How uvicorn is to behave: no access log (requests are metrics), bounded shutdown, no name in replies."""
    return uvicorn.Config(
        build_app(llm, server),
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(FLUSH_S)),
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="off",
        ws="none",
        server_header=False,
        h11_max_incomplete_event_size=64 * 2**10,
    )


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed."""
    return uvicorn.Config(lambda: None, log_config=None).get_loop_factory()  # type: ignore[return-value]


def with_key(server: ServerConfig) -> ServerConfig:
    """The settings with the key of the environment, when none was given."""
    key = env.api_key()
    return dataclasses.replace(server, api_key=(key,)) if key and not server.api_key else server


def listen(server: ServerConfig) -> socket.socket:
    """A bound socket; StartupError names the address when it is taken or not ours."""
    try:
        if server.uds:
            clear(Path(server.uds))
            found = socket.socket(socket.AF_UNIX)
            found.bind(server.uds)
            os.chmod(server.uds, 0o600)
            return found
        family, _, _, _, target = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(target)
        found.listen(BACKLOG)
        return found
    except OSError as error:
        where, field = (server.uds, "uds") if server.uds else (f"{server.host}:{server.port}", "port")
        if error.errno == errno.EADDRINUSE:
            raise StartupError(f"{where} is in use by another program; choose another with --{field}", field) from None
        raise StartupError(
            f"cannot listen on {where}: {error.strerror or error}", "host" if field == "port" else field
        ) from None


def clear(path: Path) -> None:
    """Remove the socket that a server left behind; StartupError when the path is another thing, or still answers."""
    if not path.exists():
        return
    if not path.is_socket():
        raise StartupError(f"{path} exists and is no socket; choose another path with --uds", "uds")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
        probe.settimeout(1)
        probe.connect(str(path))
        raise StartupError(f"{path} is in use by another program; choose another path with --uds", "uds")
    path.unlink()


def address(listener: socket.socket, server: ServerConfig) -> str:
    """The URL clients use."""
    if server.uds:
        return f"unix:{server.uds}"
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    warning = "" if is_loopback(host) or server.api_key else " (open to anyone: --insecure)"
    return f"http://{shown}:{port}{warning}"


def raise_file_limit() -> None:
    """Let this process open as many connections as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536) if hard > 0 else 65_536, hard))
