"""The server is killed, drained, or told to stop at any moment: nothing outlives it, nobody waits (R5, R6, R7)."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import stat
import time
from pathlib import Path

import psutil
import pytest

from .harness import PRINTABLE, SLACK, Server, ask, completion, get, healthy, run, serving, until

SLOW = f"fake:{PRINTABLE},step_ms=10"


async def nothing_left(server: Server, limit_s: float) -> float:
    """Wait until no process of its tree is there; the seconds it took."""
    return await until(lambda: not server.left(), limit_s, f"processes of {server.seen} are gone")


def shared_memory(server: Server) -> list[str]:
    """What the server's processes have mapped or open in /dev/shm."""
    found = []
    for one in server.tree():
        lines = Path(f"/proc/{one.pid}/maps").read_text().splitlines()
        found += [line for line in lines if "/dev/shm" in line]
        found += [file.path for file in one.open_files() if file.path.startswith("/dev/shm")]
    return found


def test_an_open_server_has_one_port_and_one_private_socket_and_no_shared_memory():
    with serving() as server:
        listening = [
            (connection.laddr.ip, connection.laddr.port)
            for one in server.tree()
            for connection in one.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN or connection.type == 2
        ]
        assert listening == [("127.0.0.1", server.port)]
        (folder,) = server.folder.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()
        assert [path.name for path in folder.iterdir() if path.is_socket()] == ["core-1"]
        bound = [
            line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if str(server.folder) in line
        ]
        assert set(bound) == {f"{folder}/core-1"}
        assert not shared_memory(server)


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_server_takes_its_engine_and_its_folder_along(busy: bool):
    async def main() -> None:
        with serving(device=SLOW) as server:
            assert server.engine in server.left()
            asked = [asyncio.create_task(ask(server.port, completion([5 + i], 1500))) for i in range(8 * busy)]
            await asyncio.sleep(0.5 * busy)
            server.signal(signal.SIGKILL)
            took_s = await nothing_left(server, 5 * SLACK)
            assert {reply.fate() for reply in await asyncio.gather(*asked)} <= {"cut"}
            assert server.files() == []
            print(f"engine gone {took_s:.2f} s after its parent")

    run(main())


def test_a_server_killed_together_with_its_engine_is_swept_up_by_the_next_one():
    async def main() -> None:
        with serving() as server:
            for one in reversed(server.tree()):
                one.kill()
            await nothing_left(server, 5)
            (orphan,) = server.folder.iterdir()
            age(orphan)
            with serving(env={"TMPDIR": str(server.folder)}) as after:
                (folder,) = server.folder.iterdir()
                assert folder != orphan
                age(folder)
                with serving(env={"TMPDIR": str(server.folder)}):  # which leaves alone those that live
                    assert folder.exists()
                os.kill(after.engine, signal.SIGKILL)
                await until(lambda: healthy(after.port), 5 * SLACK, "its socket's folder is still there")

    run(main())


def age(folder: Path) -> None:
    """Let a folder look old."""
    os.utime(folder, (0, 0))


async def drain(server: Server, count: int, lengths: tuple[int, ...], limit_s: float) -> tuple[list[str], float]:
    """SIGTERM under `count` streams; the fate of each, and the seconds until readiness was false."""
    prompts = [[3 + i % 90, 3 + i // 90] for i in range(count)]
    sizes = [lengths[i % len(lengths)] for i in range(count)]
    begun = [0]

    def more() -> None:
        begun[0] += 1

    asked = [
        asyncio.create_task(ask(server.port, completion(p, n), begun=more)) for p, n in zip(prompts, sizes, strict=True)
    ]
    await until(lambda: begun[0] == count, 30, "streams begun")
    server.tree()
    server.signal(signal.SIGTERM)
    signaled_s = time.monotonic()

    async def closed() -> bool:
        return (await get(server.port, "/health")).status == 503

    false_s = await until(closed, 5, "readiness is false")
    late = await ask(server.port, completion([5], 4))
    assert late.status == 503 and int(late.headers["retry-after"]) >= 1
    replies = await asyncio.gather(*asked)
    for prompt, size, reply in zip(prompts, sizes, replies, strict=True):
        assert reply.tokens == server.expected(prompt, len(reply.tokens))
        assert reply.fate() == "error" or len(reply.tokens) == size
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, server.wait, limit_s + 2 * SLACK) == 0
    print(f"readiness false after {false_s:.3f} s, ended after {time.monotonic() - signaled_s:.2f} s")
    await nothing_left(server, 2)
    assert server.files() == []
    assert "Traceback" not in server.log, server.log
    return [reply.fate() for reply in replies], false_s


async def check_drain(count: int, limit_s: int, step_ms: int, lengths: tuple[int, ...]) -> list[str]:
    """The fates of streams of such lengths when their server drains."""
    flags = ("--drain-limit-s", str(limit_s), "--max-num-seqs", "256")
    with serving(*flags, device=f"fake:{PRINTABLE},step_ms={step_ms}") as server:
        fates, _ = await drain(server, count, lengths, limit_s)
        return fates


def test_streams_that_fit_the_drain_limit_are_unchanged_and_the_rest_gets_an_error():
    async def main() -> None:
        fit = check_drain(200, 30, 10, (40, 60, 90))
        mixed = check_drain(40, 3, 40, (10, 2000))
        assert await asyncio.gather(fit, mixed) == [["done"] * 200, ["done", "error"] * 20]

    run(main())


async def signaled(number: int, draw: random.Random, *, twice: bool, group: bool) -> float:
    """Signal a server at a random moment of its start or its service; the seconds until it ended."""
    server = Server("--drain-limit-s", "20", device=SLOW)
    try:
        early = draw.random() < 0.7
        if early:
            await asyncio.sleep(draw.uniform(0, 2))
            asked = []
        else:
            await asyncio.get_running_loop().run_in_executor(None, server.wait_until_ready)
            asked = [asyncio.create_task(ask(server.port, completion([5 + i], 1500))) for i in range(4)]
            await asyncio.sleep(draw.uniform(0, 0.3))
        server.tree()
        send = (lambda n: os.killpg(server.process.pid, n)) if group else server.signal
        send(number)
        signaled_s = time.monotonic()
        serves = bool(server.port)
        if twice or serves:
            await asyncio.sleep(draw.uniform(0, 0.2))
            if server.process.poll() is None:
                send(number)
        code = await asyncio.get_running_loop().run_in_executor(None, server.wait, 2 * SLACK)
        took_s = time.monotonic() - signaled_s
        await nothing_left(server, 2)
        # Before main() it is the interpreter's own start that is interrupted, and ends as it likes.
        if (
            early
            and "KeyboardInterrupt" in server.log
            and not re.search(r'cli/main\.py", line \d+, in main', server.log)
        ):
            return took_s
        assert code in (0, 130, -number), (code, server.log)
        assert "Traceback" not in server.log, server.log
        assert len(server.lines) < 20, server.log
        assert server.files() == []
        for reply in await asyncio.gather(*asked):
            assert reply.fate() in ("error", "cut")
        return took_s
    finally:
        server.end()


async def check_signals(seed: int, count: int) -> None:
    gate = asyncio.Semaphore(4)

    async def one(i: int) -> None:
        draw = random.Random(1000 * seed + i)
        async with gate:
            number = (signal.SIGINT, signal.SIGTERM)[i % 2]
            took_s = await signaled(number, draw, twice=draw.random() < 0.5, group=draw.random() < 0.5)
            print(f"signal {number}: ended after {took_s:.2f} s")

    await asyncio.gather(*(one(i) for i in range(count)))


def test_a_signal_at_any_moment_ends_it_soon_and_cleanly():
    run(check_signals(1, 8))


@pytest.mark.slow
def test_forty_signals_at_any_moment():
    run(check_signals(2, 40), 600)
