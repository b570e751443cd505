"""A server as a real process, a client that keeps every byte with its time, and inventories of what a server holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import octavo
from octavo.engine.executors.fake import parse_options, reference
from octavo.messages import SequenceSpec, pack_ids
from octavo.sampling import SamplingParams

from ..embedded import VOCAB_SIZE

READY_S = 60.0
LIMIT_S = 60.0  # for any one exchange: past it a client counts as hanging
SLACK = float(os.environ.get("OCTAVO_CHAOS_SLACK", "8"))  # promises are for an idle machine; tests share busy ones
PRINTABLE = "low=3,high=97"  # ids 3 to 96 of the embedded tokenizer are one printable character each
MACHINE = re.compile(rb"Traceback|0x[0-9a-f]{6,}|File \"|/(?:tmp|home|root|usr|work|var)/|site-packages|\.py\b")


class Server:
    """`octavo serve` in a process group of its own, with a private folder for temporary files."""

    def __init__(self, *flags: str, device: str = f"fake:{PRINTABLE}", env: dict[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        paths = [str(Path(octavo.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(self.folder)} | (env or {})
        command = [sys.executable, "-m", "octavo", "serve", "--device", device, "--port", "0", *flags]
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self.device = device
        self.lines: list[str] = []
        self.port = 0
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.seen: dict[int, float] = {}  # every process of the tree ever found, and when each was started

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace"))
            if found := re.search(r"served on http://127\.0\.0\.1:(\d+)", self.lines[-1]):
                self.port = int(found[1])
                self._ready.set()
        self._ready.set()

    def wait_until_ready(self) -> Server:
        """This server once it said where it serves."""
        assert self._ready.wait(READY_S), self.log
        assert self.port, self.log
        self.tree()
        return self

    @property
    def log(self) -> str:
        """All it wrote."""
        return "".join(self.lines)

    @property
    def engine(self) -> int:
        """The pid of its engine process."""
        return self._child("octavo.engine.process")

    @property
    def renderer(self) -> int:
        """The pid of a process that renders chat templates."""
        return self._child("octavo.frontend.rendering")

    def _child(self, module: str) -> int:
        for child in psutil.Process(self.process.pid).children():
            self.seen[child.pid] = child.create_time()
            if module in child.cmdline():
                return child.pid
        raise AssertionError(f"no process runs {module}")

    def tree(self) -> list[psutil.Process]:
        """The server and its descendants that live now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            found = [top, *top.children(recursive=True)]
            for one in found:
                self.seen[one.pid] = one.create_time()
            return found
        return []

    def left(self) -> list[int]:
        """Processes ever seen in its tree that are still there, zombies of ours excepted."""
        alive = []
        for pid, born_s in self.seen.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                one = psutil.Process(pid)
                if one.create_time() == born_s and one.status() != psutil.STATUS_ZOMBIE:
                    alive.append(pid)
        return alive

    def files(self) -> list[str]:
        """What lies in its folder for temporary files."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, limit_s: float) -> int:
        """Its exit code, once all of its output is read."""
        code = self.process.wait(limit_s)
        self._reader.join(10)
        return code

    def end(self) -> None:
        """End all of it and remove its folder."""
        for one in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def expected(self, prompt: list[int], num_tokens: int, **params: object) -> list[int]:
        """The tokens a lone request must get, computed without an engine."""
        sampling = SamplingParams(**{"temperature": 0, "ignore_eos": True} | params)  # type: ignore[arg-type]
        spec = SequenceSpec(0, pack_ids(prompt), sampling, num_tokens, seed=sampling.seed or 0)
        return reference(spec, VOCAB_SIZE, options=parse_options(self.device))


@contextlib.contextmanager
def serving(*flags: str, device: str = f"fake:{PRINTABLE}", env: dict[str, str] | None = None) -> Iterator[Server]:
    """A ready server that is ended in any case."""
    server = Server(*flags, device=device, env=env)
    try:
        yield server.wait_until_ready()
    finally:
        server.end()


@dataclass
class Reply:
    """An exchange as its client saw it. `complete`: the response ended by HTTP's rules; times are monotonic."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # when, and how many bytes there were then
    complete: bool = False
    ended_s: float = 0.0

    @property
    def json(self) -> dict:
        """The body of an answer in one piece."""
        return json.loads(self.body)

    @property
    def events(self) -> list[dict | str]:
        """The events of a stream; raises for one that is not well-formed."""
        parts = self.body.split(b"\n\n")
        assert parts.pop() == b"", self.body[-200:]
        assert all(part.startswith(b"data: ") for part in parts), self.body[-500:]
        texts = [part.removeprefix(b"data: ").decode() for part in parts]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]

    @property
    def tokens(self) -> list[int]:
        """The token ids of all events' first choices, or of the answer in one piece."""
        events = self.events if self.body.startswith(b"data: ") else [self.json]
        choices = [event["choices"][0] for event in events if isinstance(event, dict) and event.get("choices")]
        return [id for choice in choices for id in choice.get("token_ids") or ()]

    def fate(self) -> str:
        """ "done", "error" or "cut"; AssertionError for an ending that looks like another (R1)."""
        if self.status == 0 or not self.complete:
            return "cut"
        assert not MACHINE.search(self.body), self.body[-500:]
        if self.status != 200:
            error = self.json["error"]
            assert error["message"] and error["type"], error
            return "error"
        if not self.body.startswith(b"data: "):
            assert all(choice["finish_reason"] for choice in self.json["choices"])
            return "done"
        *rest, last = self.events
        reasons = [choice["finish_reason"] for event in rest for choice in event.get("choices", ())]
        if last == "[DONE]":
            assert any(reasons), "a stream said [DONE] without a finish reason"
            return "done"
        assert last["error"]["message"] and not any(reasons), (last, reasons[-3:])
        return "error"


async def ask(
    port: int,
    body: dict | bytes,
    path: str = "/v1/completions",
    *,
    method: str = "POST",
    headers: Sequence[str] = (),
    begun: Callable[[], None] | None = None,
    limit_s: float = LIMIT_S,
) -> Reply:
    """One exchange over a connection of its own; `begun` is called at the first byte of the body."""
    reply = Reply()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(data)}", *headers]
    if not any(line.lower().startswith("content-type") for line in headers):
        head.append("content-type: application/json")
    writer = None
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write("\r\n".join([*head, "connection: close", "", ""]).encode() + data)
            await receive(reader, reply, begun)
    except TimeoutError:
        raise AssertionError(f"no end of {path} within {limit_s} s: {reply.status} {reply.body[-300:]!r}") from None
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        reply.ended_s = time.monotonic()
        if writer is not None:
            writer.transport.abort()
    return reply


async def receive(reader: asyncio.StreamReader, reply: Reply, begun: Callable[[], None] | None) -> None:
    """Read a response into `reply`: chunked, of known length, or up to the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    reply.status = int(head[0].split()[1])
    reply.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}

    def take(data: bytes) -> None:
        if begun is not None and not reply.body:
            begun()
        reply.body += data
        reply.arrivals.append((time.monotonic(), len(reply.body)))

    if reply.headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            take((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
    else:
        take(await reader.readexactly(int(reply.headers.get("content-length", "0"))))
    reply.complete = True


async def get(port: int, path: str) -> Reply:
    """GET, within a few seconds."""
    return await ask(port, b"", path, method="GET", limit_s=15)


def completion(prompt: object, num_tokens: int, **fields: object) -> dict:
    """A greedy streamed completion that tells its token ids."""
    body = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    return body | {"return_token_ids": True} | fields


async def stats(port: int) -> dict[str, float]:
    """The metrics without labels, by name. A scrape waits for no engine: asked again until its figures are new."""
    end_s = time.monotonic() + 5
    while True:
        text = (await get(port, "/metrics")).body.decode()
        pairs = [re.fullmatch(r"(octavo_\w+)(?:\{.*\})? (\S+)", line) for line in text.splitlines()]
        found = {pair[1]: float(pair[2]) for pair in pairs if pair}
        is_new = found["octavo_engine_stats_age_seconds"] < 0.1 or not found["octavo_engine_healthy"]
        if is_new or time.monotonic() > end_s:
            return found


async def series(port: int) -> set[str]:
    """The names and labels of all series in the metrics."""
    text = (await get(port, "/metrics")).body.decode()
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


async def settled(port: int) -> dict[str, float]:
    """The metrics once nothing runs, waits or is being answered; every page is free then, and the books are right."""
    end_s = time.monotonic() + 30
    while True:
        now = await stats(port)
        busy = [now[f"octavo_{name}"] for name in ("requests_running", "requests_waiting", "http_requests_open")]
        if not any(busy):
            break
        assert time.monotonic() < end_s, f"still busy: {now}"
        await asyncio.sleep(0.05)
    assert now["octavo_kv_pages_free"] == now["octavo_kv_pages"]
    assert now["octavo_books_wrong_total"] == 0
    return now


async def until(condition: Callable[[], Awaitable[bool] | bool], limit_s: float, what: str) -> float:
    """Wait for `condition`; the seconds it took."""
    began_s = time.monotonic()
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return time.monotonic() - began_s
        assert time.monotonic() - began_s < limit_s, f"{what}: not within {limit_s} s"
        await asyncio.sleep(0.01)


async def healthy(port: int) -> bool:
    """Whether /health says 200."""
    return (await get(port, "/health")).status == 200


def run(main: Awaitable[object], limit_s: float = 300.0) -> None:
    """Run a test's coroutine, bounded."""

    async def bounded() -> None:
        await asyncio.wait_for(main, limit_s)

    asyncio.run(bounded())
