"""run_server: bind the ports, start the engine, serve until told to stop, then drain (R6, R7)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import signal
import socket
import ssl
from functools import partial
from pathlib import Path

from octavo import env, log
from octavo.config import EngineConfig, ServerConfig
from octavo.engine.async_llm import AsyncLLM
from octavo.errors import StartupError
from octavo.serve import listener
from octavo.serve.admin import Admin
from octavo.serve.app import build_app, build_service
from octavo.serve.connection import Guard
from octavo.serve.data import hold
from octavo.serve.keys import Key, read_keys, unnamed
from octavo.serve.lag import watch_lag
from octavo.serve.listener import Address, Server
from octavo.serve.reload import Reloader
from octavo.serve.security import Door, Gate, check_exposure
from octavo.serve.service import Service
from octavo.serve.tenants import Ring
from octavo.serve.tls import load_certificate, tls_context, tls_files

logger = log.get(__name__)

# A token makes and drops a dozen objects and no cycles: with the usual 700 there would be a search per step, and with a
# thousand requests open a full one takes longer than the step.
GC_THRESHOLDS = (50_000, 20, 100)
WATCH_S = 0.25


def run_server(config: EngineConfig, server: ServerConfig) -> int:
    """Serve until a signal; returns the exit code. StartupError when it cannot start: address, model or memory."""
    server = with_key(server)
    server.check()
    check_exposure(server)
    ring = Ring(read_ring(server))
    tls = tls_context(server)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(contextlib.closing(listener.listen(where))) for where in addresses(server)]
        most = listener.raise_file_limit()
        if config.limits.connections > most:
            logger.warning("at most %d connections are held: the system allows no more open files", most)
            config = dataclasses.replace(config, limits=dataclasses.replace(config.limits, connections=most))
        stack.enter_context(hold(server.data_dir))
        runner = stack.enter_context(asyncio.Runner(loop_factory=listener.loop_factory()))
        return runner.run(serve(config, server, ring, tls, sockets))


def addresses(server: ServerConfig) -> list[Address]:
    """Where to listen: for everybody, and for admins."""
    found = [Address(server.host, server.port, server.uds)]
    if server.has_admin:
        found.append(Address("127.0.0.1", server.admin_port or 0, server.admin_uds, "admin_"))
    return found


def read_ring(server: ServerConfig) -> list[Key]:
    """The server's keys, from the command line and from the file."""
    named = read_keys(Path(server.api_keys_file)) if server.api_keys_file else []
    return [*unnamed(server.api_key), *named]


async def serve(
    config: EngineConfig, server: ServerConfig, ring: Ring, tls: ssl.SSLContext | None, sockets: list[socket.socket]
) -> int:
    """Serve on the sockets, with 503 while the model loads. 0 after a signal, 1 when the engine is lost for good."""
    stop = Stop()
    stop.install()
    llm = AsyncLLM.launch(config, server.heartbeat_s)
    try:
        service = build_service(llm, server, ring)
        reloader = watched(server, ring, tls)
        servers = [Server(build_app(service), Guard(config.limits, service.metrics), tls)]
        if server.has_admin:
            servers.append(admin_server(service, reloader, stop))
    except BaseException:
        await llm.shutdown()
        raise
    if reloader.watched:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.now)
    serving = [asyncio.create_task(each.serve(sockets=[one])) for each, one in zip(servers, sockets, strict=True)]
    watching = [asyncio.create_task(each.guard.watch()) for each in servers]
    watching.append(asyncio.create_task(reloader.watch()))
    watching.append(asyncio.create_task(watch_lag(service.metrics)))
    for where, one in list(zip(addresses(server), sockets, strict=True))[1:]:
        logger.info("admin actions are taken at %s", listener.url(one, where, False, False))
    public = listener.url(sockets[0], addresses(server)[0], tls is not None, not len(ring))
    try:
        return await supervise(llm, server, stop, public)
    finally:
        await llm.shutdown()
        if service.tracing is not None:
            await service.tracing.flush()
        for each in servers:
            each.should_exit = True
            each.force_exit = stop.count > 1
        await asyncio.gather(*serving)
        for task in watching:
            task.cancel()
        for where in addresses(server):
            if where.uds:
                Path(where.uds).unlink(missing_ok=True)


def watched(server: ServerConfig, ring: Ring, tls: ssl.SSLContext | None) -> Reloader:
    """What is read again when its files change."""
    reloader = Reloader()
    if server.api_keys_file:
        reloader.add("keys", (Path(server.api_keys_file),), lambda: ring.load(read_ring(server)))
    if tls is not None:
        reloader.add("certificate", tls_files(server), partial(load_certificate, tls, server))
    return reloader


def admin_server(service: Service, reloader: Reloader, stop: Stop) -> Server:
    """The listener for admins: a Unix socket that only this user can open, or a port with a key of its own."""
    key = env.admin_key()
    if service.server.admin_uds is None and key is None:
        raise StartupError("the admin port needs a key; set OCTAVO_ADMIN_KEY, or use --admin-uds", "admin_port")
    door = Door(Ring(unnamed([key] if key else [])), public=frozenset())
    app = Admin(service, reloader, stop.drain).app()
    return Server(Gate(app, door, service.limits, service.metrics), Guard(service.limits, service.metrics))


async def supervise(llm: AsyncLLM, server: ServerConfig, stop: Stop, where: str) -> int:
    """Wait for the end: a signal (drain, then 0), an engine that is gone (1), or StartupError if it never was there."""
    ready = asyncio.create_task(llm.ready())
    asked = asyncio.create_task(stop.asked.wait())
    await asyncio.wait((ready, asked), return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        return 0
    ready.result()
    # What the start has made lives as long as the process: looking for garbage among it takes a tenth of a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    if llm.info is not None:
        for what, decided in llm.info.plan.items():
            logger.info("%-16s %s", what, decided)
    for what, decided in llm.answers.origin.items():
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
            loop.add_signal_handler(number, self.ask)

    def drain(self) -> None:
        """An admin asked; to ask twice is not to hurry."""
        if not self.count:
            self.ask()

    def ask(self) -> None:
        """One more signal came."""
        self.count += 1
        (self.asked if self.count == 1 else self.hurry).set()


def with_key(server: ServerConfig) -> ServerConfig:
    """The settings with the key of the environment, when none was given."""
    key = env.api_key()
    return dataclasses.replace(server, api_key=(key,)) if key and not server.api_key else server
