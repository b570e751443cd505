"""A real server on a real socket over the fake device, started as a user would start it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import octavo

from .openai_spec import OpenAISpec

READY_S = 60.0
SLOW = "fake:low=3,high=97,step_ms=3"
KEYS = ("sk-first", "sk-second", "sk-alone")
PRINTABLE = "fake:low=3,high=97"  # ids 3 to 96 of the embedded tokenizer are one printable character each


@dataclass
class Server:
    """`octavo serve` in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    http: httpx.Client

    def stats(self) -> dict[str, float]:
        """The metrics without labels, by name. A scrape waits for no engine: asked again until its figures are new."""
        end = time.monotonic() + 5
        while True:
            lines = self.http.get("/metrics").text.splitlines()
            pairs = [re.fullmatch(r"(\w+)(?:\{.*\})? (\S+)", line) for line in lines]
            stats = {pair[1]: float(pair[2]) for pair in pairs if pair}
            is_new = stats["octavo_engine_stats_age_seconds"] < 0.1 or not stats["octavo_engine_healthy"]
            if is_new or time.monotonic() > end:
                return stats

    def settle(self) -> dict[str, float]:
        """The metrics once nothing runs or waits any more."""
        end = time.monotonic() + 20
        while True:
            stats = self.stats()
            busy = (
                stats["octavo_requests_running"] + stats["octavo_requests_waiting"] + stats["octavo_http_requests_open"]
            )
            if not busy:
                return stats
            assert time.monotonic() < end, f"still busy: {stats}"
            time.sleep(0.05)

    def stop(self) -> str:
        """End it at once; what it still had to say."""
        self.process.kill()
        if self.process.stdout is None or self.process.stdout.closed:
            return ""
        return self.process.communicate()[0]


Start = Callable[..., Server]


def spawn(*flags: str, device: str = PRINTABLE, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`octavo serve` on a free port."""
    command = [sys.executable, "-m", "octavo", "serve", "--device", device, "--port", "0", *flags]
    paths = [str(Path(octavo.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | (env or {})
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_until_ready(process: subprocess.Popen[str]) -> str:
    """The URL that the server announces."""
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"served on (\S+)", line):
            return found[1]
    raise AssertionError(f"the server ended with code {process.wait()}: {''.join(said)}")


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Starts servers, with flags, and ends them all at the end."""
    with contextlib.ExitStack() as stack:

        def run(*flags: str, device: str = PRINTABLE, env: dict[str, str] | None = None) -> Server:
            process = spawn(*flags, device=device, env=env)
            url = wait_until_ready(process)
            server = Server(process, url, stack.enter_context(httpx.Client(base_url=url, timeout=30)))
            stack.callback(server.stop)
            return server

        yield run


@pytest.fixture(scope="session")
def server(start: Start) -> Server:
    """A server with default settings that answers at once."""
    return start()


@pytest.fixture(scope="session")
def client(server: Server) -> openai.OpenAI:
    """The official client, which is the judge."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def http(server: Server) -> httpx.Client:
    """A plain HTTP client of that server."""
    return server.http


@pytest.fixture(scope="session")
def real(start: Start) -> Server:
    """A server of the embedded model."""
    return start(device="cpu")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of `slow`."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def slow(start: Start, folder: Path) -> Server:
    """A server that takes 3 ms a token, makes at most four responses in the background, and keeps twelve."""
    bounds = ("--max-background-responses", "4", "--max-stored-responses", "12")
    return start("--data-dir", str(folder), *bounds, device=SLOW)


@pytest.fixture(scope="session")
def keyed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with the keys KEYS that takes 3 ms a token; the last one may have one request open at a time."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    entries = [{"name": key, "key": key} for key in KEYS]
    path.write_text(json.dumps({"keys": [*entries[:-1], entries[-1] | {"concurrent": 1}]}))
    path.chmod(0o600)
    return start("--api-keys-file", str(path), device=SLOW)


@pytest.fixture(scope="session")
def openai_spec(shared_data: Path) -> OpenAISpec:
    """OpenAI's specification; skips where the test data is absent."""
    return OpenAISpec(shared_data / "api" / "openai-openapi.yaml")


class Crowd:
    """A server of two rows and two owners, which are easily taken; requests to it run in threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pool = ThreadPoolExecutor(16)
        self.owners = [
            httpx.Client(base_url=server.url, timeout=30, headers={"authorization": f"Bearer {key}"})
            for key in ("first-key", "second-key")
        ]

    def ask(self, name: str, max_tokens: int = 40, owner: int = 0, **fields: object) -> Future[httpx.Response]:
        """A completion under a name of its client's."""
        body = {"prompt": [len(name) + 5] * 30, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
        headers = {"x-request-id": name}
        return self.pool.submit(self.owners[owner].post, "/v1/completions", json=body | fields, headers=headers)

    def about(self, name: str, what: str = "/timeline", owner: int = 0) -> httpx.Response:
        """What the server tells of a request."""
        return self.owners[owner].get(f"/v1/requests/{name}{what}")

    def until(self, name: str, state: str, owner: int = 0) -> dict[str, Any]:
        """The request once it is in this state."""
        end = time.monotonic() + 20
        while True:
            reply = self.about(name, "", owner)
            if reply.status_code == 200 and reply.json()["state"] == state:
                return reply.json()
            assert time.monotonic() < end, f"{name} is not {state}: {reply.text}"
            time.sleep(0.01)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """While both rows are taken, what is asked waits."""
        taken = [self.ask(f"taken-{i}", 1500) for i in range(2)]
        for i in range(2):
            self.until(f"taken-{i}", "running")
        yield
        for i, each in enumerate(taken):
            self.control(f"taken-{i}", cancel=True)
            each.result()

    def control(self, name: str, owner: int = 0, **change: object) -> httpx.Response:
        """Change a request."""
        return self.owners[owner].post(f"/v1/requests/{name}/control", json=change)


@pytest.fixture(scope="session")
def crowd(start: Start) -> Iterator[Crowd]:
    """See Crowd."""
    flags = ("--max-num-seqs", "2", "--max-num-batched-tokens", "16", "--api-key", "first-key", "second-key")
    found = Crowd(start(*flags, device="fake:low=3,high=97,step_ms=5"))
    yield found
    found.pool.shutdown(cancel_futures=True)
