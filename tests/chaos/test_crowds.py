"""Crowds: bursts, idle and slow connections, leaks, and what the time of an answer tells (R15-R19, R28, R34, R50)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import statistics
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from .harness import MACHINE, PRINTABLE, SLACK, Reply, Server, ask, completion, get, run, serving, settled, stats

MIB = 2**20


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Let this process open as many sockets as it may."""
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (old[1], old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, old)


def memory(server: Server) -> int:
    """What the frontend's process holds, in bytes."""
    return psutil.Process(server.process.pid).memory_info().rss


def at_percent(values: list[float], percent: float) -> float:
    """The value that so many percent of the others do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


# R15: a burst.


async def check_burst(count: int) -> None:
    flags = ("--max-queued-requests", "64", "--max-num-seqs", "64")
    with serving(*flags, device=f"fake:{PRINTABLE},step_ms=2") as server:
        await ask(server.port, completion("a", 2))
        before = memory(server)
        began_s = time.monotonic()
        body = {"prompt": "a", "max_tokens": 50, "ignore_eos": True, "temperature": 0}
        tasks = [asyncio.create_task(ask(server.port, body, limit_s=120)) for _ in range(count)]
        health: list[float] = []
        while not all(task.done() for task in tasks):
            asked_s = time.monotonic()
            assert (await get(server.port, "/health")).status == 200
            health.append(time.monotonic() - asked_s)
            await asyncio.sleep(0.05)
        replies: list[Reply] = [task.result() for task in tasks]
        took_s = time.monotonic() - began_s
        statuses = Counter(reply.status for reply in replies)
        assert set(statuses) == {200, 429}, statuses
        for reply in replies:
            assert reply.complete
            assert reply.status == 200 or int(reply.headers["retry-after"]) >= 1
        await settled(server.port)
        grown = (memory(server) - before) / MIB
        print(
            f"{count} at once: {took_s:.1f} s, {statuses}, /health within {max(health) * 1e3:.0f} ms, {grown:+.0f} MiB"
        )
        assert grown < 128
        assert (await ask(server.port, completion("a", 2))).fate() == "done"


def test_a_burst_of_a_thousand_is_answered_or_refused():
    run(check_burst(1000))


@pytest.mark.slow
def test_a_burst_of_ten_thousand_is_answered_or_refused():
    run(check_burst(10_000))


# R17: idle connections.


async def latencies(port: int, count: int = 40) -> list[float]:
    """Seconds that small requests take, one after the other."""
    found = []
    for _ in range(count):
        began_s = time.monotonic()
        assert (await ask(port, completion("a", 1))).fate() == "done"
        found.append(time.monotonic() - began_s)
    return found


async def check_idle(count: int) -> None:
    with serving("--limits", "header_s=600") as server:
        await latencies(server.port)
        quiet, before = await latencies(server.port), memory(server)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(count):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                stack.callback(writer.transport.abort)
                writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await asyncio.sleep(0.5)
            each = (memory(server) - before) / count
            busy = await latencies(server.port)
        print(f"{count} idle: {each / 1024:.0f} KiB each; {statistics.median(quiet) * 1e3:.1f} ms alone, "
              f"{statistics.median(busy) * 1e3:.1f} ms beside them")  # fmt: skip
        assert each < 64 * 1024
        assert statistics.median(busy) < 2 * SLACK * statistics.median(quiet) + 0.01


def test_a_thousand_idle_connections_cost_little_and_slow_nobody():
    run(check_idle(1000))


@pytest.mark.slow
def test_ten_thousand_idle_connections_cost_little_and_slow_nobody():
    run(check_idle(10_000))


# R19: slow senders.

SLOW = (
    b"",
    b"POST /v1/completions HTTP/1.1\r\nhost: local",
    b'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{"prompt": "',
    b'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"pro\r\n',
)


async def crawl(port: int, number: int) -> float:
    """Send slowly until the server has had enough; the seconds that took."""
    began_s = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(SLOW[number % len(SLOW)])
        drip = b"2\r\nab\r\n" if number % len(SLOW) == 3 else b"a"
        while time.monotonic() - began_s < 30:
            with contextlib.suppress(TimeoutError):
                if not await asyncio.wait_for(reader.read(4096), 0.5):
                    break
            if number % len(SLOW):
                writer.write(drip)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic() - began_s


async def check_slow_senders(count: int) -> None:
    with serving("--limits", "header_s=2,body_idle_s=1,body_s=2", "--max-queued-requests", "16") as server:
        await latencies(server.port)
        quiet = await latencies(server.port)
        slow = [asyncio.create_task(crawl(server.port, i)) for i in range(count)]
        await asyncio.sleep(0.5)
        busy = await latencies(server.port)
        assert not all(task.done() for task in slow)
        took = await asyncio.gather(*slow)
        print(f"{count} slow senders, ended after {min(took):.1f} to {max(took):.1f} s")
        print(f"{statistics.median(quiet) * 1e3:.1f} ms alone, {statistics.median(busy) * 1e3:.1f} ms beside them")
        assert max(took) < 3 + 2 * SLACK
        assert statistics.median(busy) < 2 * SLACK * statistics.median(quiet) + 0.01
        assert (await stats(server.port))["octavo_slow_senders_total"] > 0
        await settled(server.port)


def test_two_hundred_slow_senders_take_no_place_and_are_ended():
    run(check_slow_senders(200))


@pytest.mark.slow
def test_a_thousand_slow_senders_take_no_place_and_are_ended():
    run(check_slow_senders(1000))


# R18: slow readers.


async def read_slowly(port: int, body: bytes) -> bool:
    """Read a byte now and then; whether the server gave up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        async with asyncio.timeout(90):
            while await reader.read(1):
                await asyncio.sleep(0.5)
        return True
    except (ConnectionError, TimeoutError):
        return True
    finally:
        writer.transport.abort()


@pytest.mark.slow
def test_a_hundred_slow_readers_are_dropped_and_a_hundred_others_do_not_notice():
    async def main() -> None:
        flags = ("--max-num-seqs", "1024", "--limits", "stall_s=3")
        with serving(*flags, device=f"fake:{PRINTABLE},step_ms=4") as server:
            alone = await asyncio.gather(*(ask(server.port, completion([5 + i], 300)) for i in range(100)))
            before = memory(server)
            body = completion("a", 1900, n=8, temperature=1, logprobs=5)
            data = json.dumps(body).encode()
            slow = [asyncio.create_task(read_slowly(server.port, data)) for _ in range(100)]
            await asyncio.sleep(2)
            beside = await asyncio.gather(*(ask(server.port, completion([5 + i], 300)) for i in range(100)))
            for i, reply in enumerate(beside):
                assert reply.tokens == server.expected([5 + i], 300)
            end_s = time.monotonic() + 60
            while (await stats(server.port))["octavo_slow_readers_total"] < 100:
                assert time.monotonic() < end_s
                await asyncio.sleep(0.5)
            grown = (memory(server) - before) / MIB
            for task in slow:
                task.cancel()
            gaps = [at_percent([b - a for (a, _), (b, _) in zip(r.arrivals, r.arrivals[1:], strict=False)], 99)
                    for group in (alone, beside) for r in group]  # fmt: skip
            halves = [statistics.median(half) * 1e3 for half in (gaps[:100], gaps[100:])]
            print(f"{grown:+.0f} MiB; gaps of {halves[0]:.0f} ms alone, {halves[1]:.0f} ms beside them")
            assert grown < 300
            await settled(server.port)

    run(main())


# R28: leaks.

POOL = 6  # threads for long bodies and replies that are made when they are needed


async def one_of_many(port: int, draw: random.Random) -> None:
    """A request of some kind: served, streamed, left, refused."""
    kind = draw.randrange(7)
    if kind == 0:
        await ask(port, {"prompt": "a", "max_tokens": 5, "n": 2, "temperature": 1, "logprobs": 2})
    elif kind == 1:
        await ask(port, completion("tell me", 5))
    elif kind == 2:
        with contextlib.suppress(AssertionError):
            await ask(port, completion("leave", 1500), limit_s=draw.uniform(0.001, 0.05))
    elif kind == 3:
        await ask(port, draw.choice(({"prompt": "a", "n": -1}, b"{", {"prompt": [10**9]}, {"x": 1})))
    elif kind == 4:
        await ask(port, b"", draw.choice(("/nothing", "/metrics", "/health", "/v1/models")), method="GET")
    elif kind == 5:
        messages = [{"role": "user", "content": "hello " * draw.randrange(9)}]
        await ask(port, {"messages": messages, "max_tokens": 5}, "/v1/chat/completions")
    else:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le")
        writer.transport.abort()


async def check_leaks(count: int) -> None:
    with serving("--max-num-seqs", "64") as server:
        processes = [psutil.Process(server.process.pid), psutil.Process(server.engine)]
        draw = random.Random(count)

        async def some(number: int) -> None:
            gate = asyncio.Semaphore(16)

            async def one() -> None:
                async with gate:
                    await one_of_many(server.port, draw)

            await asyncio.gather(*(one() for _ in range(number)))
            await settled(server.port)
            await asyncio.sleep(0.5)

        def holdings() -> list[tuple[int, int]]:
            return [(process.num_fds(), process.num_threads()) for process in processes]

        await some(300)
        warm, before = holdings(), [process.memory_info().rss for process in processes]
        await some(count)
        grown = [(process.memory_info().rss - old) / MIB for process, old in zip(processes, before, strict=True)]
        print(f"{count} requests: {warm} -> {holdings()} files and threads, {grown[0]:+.1f} and {grown[1]:+.1f} MiB")
        for (files, threads), (warm_files, warm_threads) in zip(holdings(), warm, strict=True):
            assert files == warm_files
            assert threads <= warm_threads + POOL
        assert max(grown) < 50


def test_eight_hundred_requests_of_every_kind_leave_nothing_behind():
    run(check_leaks(800))


@pytest.mark.slow
def test_twenty_thousand_requests_of_every_kind_leave_nothing_behind():
    run(check_leaks(20_000), 900)


# R50: time.


def auc(hits: list[float], misses: list[float]) -> float:
    """How well shorter times tell hits from misses: 0.5 is guessing, 1 is knowing."""
    wins = sum((hit < miss) + (hit == miss) / 2 for hit in hits for miss in misses)
    return wins / (len(hits) * len(misses))


async def timed(port: int, key: str, prompt: list[int]) -> tuple[float, int]:
    """Seconds to an answer of one token, and the cached tokens it tells of."""
    body = {"prompt": prompt, "max_tokens": 1}
    began_s = time.monotonic()
    reply = await ask(port, body, headers=[f"authorization: Bearer {key}"])
    assert reply.status == 200, reply.body
    return time.monotonic() - began_s, reply.json["usage"]["prompt_tokens_details"]["cached_tokens"]


async def check_timing(trials: int, most: float) -> None:
    with serving("--api-key", "sk-victim", "sk-spy", device=f"fake:{PRINTABLE},token_us=40") as server:
        draw = random.Random(trials)

        async def told(who: str, count: int) -> float:
            """The AUC with which `who` tells what the victim has asked from what nobody has."""
            found: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(count):
                for is_known in draw.sample((True, False), 2):
                    prompt, other = ([draw.randrange(3, 90) for _ in range(512)] for _ in range(2))
                    await timed(server.port, "sk-victim", prompt if is_known else other)
                    took_s, cached = await timed(server.port, who, prompt)
                    assert bool(cached) == (is_known and who == "sk-victim")
                    found[is_known].append(took_s)
            return auc(found[True], found[False])

        own, across = await told("sk-victim", 15), await told("sk-spy", trials)
        print(f"a hit is told from a miss with AUC {across:.3f} by another key ({trials} trials), {own:.3f} by its own")
        assert own > 0.75, "the test cannot tell a hit from a miss"
        assert abs(across - 0.5) <= most


def test_another_keys_cached_prompts_do_not_show_in_time():
    run(check_timing(50, 0.2))  # over three standard deviations of guessing with so few trials


@pytest.mark.slow
def test_another_keys_cached_prompts_do_not_show_in_time_however_often_one_asks():
    run(check_timing(1000, 0.05), 900)


# R34: what errors show.


def test_errors_of_every_kind_show_nothing_of_the_machine():
    async def main() -> None:
        with serving("--limits", "header_s=1") as server:
            draw = random.Random(4)
            bodies = [b"{", b"[]", b"\xff", b'{"prompt": "\\ud800", "model": 5}', b'{"prompt": {}}', b'{"messages": 5}']
            paths = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/%00", "/v1/models/%2e%2e"]
            for _ in range(150):
                headers = draw.choice(((), ("content-type: text/plain",), ("content-type: \x01",), ("expect: 5",)))
                method = draw.choice(("POST", "GET", "DELETE", "BREW"))
                reply = await ask(server.port, draw.choice(bodies), draw.choice(paths), method=method, headers=headers)
                assert reply.complete and reply.status not in (0, 500), reply
                assert not MACHINE.search(reply.body), reply.body

    run(main())
