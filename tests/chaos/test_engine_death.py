"""The engine is killed, stopped or hangs: every client is told, the server lives on, and it comes back (R1, R2, R4)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time

import pytest

from .harness import PRINTABLE, SLACK, Server, ask, completion, get, healthy, run, serving, stats, until

SLOW = f"fake:{PRINTABLE},step_ms=2"
TOLD_S, SICK_S, BACK_S = 2.0, 1.0, 5.0  # the promises: clients told, /health 503, a good answer again
GOLDEN = [5, 9, 31, 7]


async def golden(server: Server) -> None:
    """A request whose answer is known gets it."""
    reply = await ask(server.port, completion(GOLDEN, 12))
    assert reply.fate() == "done"
    assert reply.tokens == server.expected(GOLDEN, 12)


async def kill_while_streaming(server: Server, draw: random.Random) -> tuple[float, float]:
    """Kill the engine under 64 streams; the seconds until the last of them was told, and until /health said 503."""
    begun = [0]

    def count() -> None:
        begun[0] += 1

    prompts = [[3 + draw.randrange(90) for _ in range(draw.randrange(1, 300))] for _ in range(64)]
    asked = [asyncio.create_task(ask(server.port, completion(prompt, 1500), begun=count)) for prompt in prompts]
    wanted = draw.choice((0, 1, 20, 64))  # some kills fall into queues and prompts, others into answers
    await until(lambda: begun[0] >= wanted, 30, "streams begun")
    await asyncio.sleep(draw.random() * 0.3)
    engine = server.engine
    os.kill(engine, signal.SIGKILL)
    killed_s = time.monotonic()
    closed = asyncio.create_task(until(lambda: refuses(server), SICK_S * SLACK, "/health says 503"))
    replies = await asyncio.gather(*asked)
    assert {reply.fate() for reply in replies} == {"error"}
    assert {reply.status for reply in replies} <= {200, 503}
    for prompt, reply in zip(prompts, replies, strict=True):
        if reply.status == 200:
            assert reply.tokens == server.expected(prompt, len(reply.tokens))
    return max(reply.ended_s for reply in replies) - killed_s, await closed


async def sick(server: Server) -> bool:
    """Whether /health says 503."""
    return (await get(server.port, "/health")).status == 503


async def refuses(server: Server) -> bool:
    """Whether /health says 503, and a new request is told when to come back."""
    if not await sick(server):
        return False
    late = await ask(server.port, completion(GOLDEN, 4))
    if late.status == 503:
        assert int(late.headers["retry-after"]) >= 1
    return True


async def check_kills(server: Server, draw: random.Random, kills: int) -> None:
    """Kill the engine so often, each time after it came back; prints how long everything took."""
    for number in range(kills):
        told_s, sick_s = await kill_while_streaming(server, draw)
        began_s = time.monotonic()
        await until(lambda: healthy(server.port), BACK_S * SLACK, "healthy again")
        await golden(server)
        back_s = told_s + time.monotonic() - began_s
        print(f"kill {number + 1}: told {told_s:.2f} s, sick {sick_s:.2f} s, back {back_s:.2f} s")
        assert told_s <= TOLD_S * SLACK
        assert back_s <= BACK_S * SLACK


def test_a_killed_engine_is_told_to_all_comes_back_and_is_given_up_at_the_fifth_death():
    async def main() -> None:
        with serving(device=SLOW) as server:
            draw = random.Random(0)
            await golden(server)
            await check_kills(server, draw, 4)
            assert (await stats(server.port))["octavo_engine_healthy"] == 1
            await kill_while_streaming(server, draw)
            assert server.wait(10) == 1
            said = [line for line in server.lines if "giving up" in line]
            assert len(said) == 1 and "5 times" in said[0]
            assert "Traceback" not in server.log, server.log
            assert not server.left() and not server.files()

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_a_hundred_killed_engines(seed: int):
    async def main() -> None:
        with serving(device=SLOW) as server:
            await check_kills(server, random.Random(seed), 4)
            assert "Traceback" not in server.log, server.log

    run(main())


def engine_of(server: Server) -> int | None:
    """The pid of its engine process, when there is one."""
    with contextlib.suppress(AssertionError):
        return server.engine
    return None


def test_deaths_in_every_moment_of_a_restart_are_survived():
    async def main() -> None:
        with serving(device=SLOW) as server:
            first = server.engine
            os.kill(first, signal.SIGKILL)
            await until(lambda: sick(server), 5, "sick")
            await until(lambda: engine_of(server) not in (None, first), 10, "the next one starts")
            os.kill(server.engine, signal.SIGKILL)  # while it loads
            await until(lambda: healthy(server.port), BACK_S * SLACK, "healthy again")
            await golden(server)
            assert "Traceback" not in server.log, server.log

    run(main())


def test_an_engine_that_is_silent_is_sick_after_two_heartbeats_and_replaced_after_three():
    async def both() -> None:
        await asyncio.gather(check_silence("stopped"), check_silence("hanging"))

    run(both())


async def check_silence(how: str) -> None:
    """Stop an engine, or let a step of it hang; see when /health tells, and that it is replaced."""
    heartbeat_s = 1.0
    device = f"fake:{PRINTABLE},hang_at=60" if how == "hanging" else SLOW
    with serving("--heartbeat-s", str(heartbeat_s), device=device) as server:
        for _ in range(3):  # past the first steps, which may take long
            await ask(server.port, completion(GOLDEN, 15))
        engine = server.engine
        asked = [asyncio.create_task(ask(server.port, completion([3 + i], 1000))) for i in range(8)]
        if how == "stopped":
            await asyncio.sleep(0.1)
            os.kill(engine, signal.SIGSTOP)
        sick_s = await until(lambda: sick(server), 2 * heartbeat_s * SLACK, "/health says 503")
        assert (await stats(server.port))["octavo_engine_healthy"] == 0
        assert (await ask(server.port, completion([3], 5))).status == 503  # not left hanging with the others
        replies = await asyncio.gather(*asked)
        assert {reply.fate() for reply in replies} == {"error"}
        await until(lambda: healthy(server.port), BACK_S * SLACK, "healthy again")
        assert engine not in server.left()
        await golden(server)
        print(f"{how}: sick after {sick_s:.2f} s")
        assert "Traceback" not in server.log, server.log
