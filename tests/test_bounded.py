"""Processes for bounded work: what ends them, who notices, and that none is left."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path

import psutil
import pytest

from octavo.bounded import Bounded, Bounds, CallFailed, Exceeded, NotStarted
from octavo.errors import Overloaded


def awaited(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """The test in a loop of its own."""

    @functools.wraps(test)
    def run(*args: object, **named: object) -> None:
        asyncio.run(test(*args, **named))

    return run


WORK = """
    import ctypes, os, sys, time
    from octavo.bounded import serve

    def open(setup):
        if setup == b"broken":
            raise ValueError("a planted error")
        def handle(request):
            what, _, argument = request.partition(b" ")
            if what == b"sleep":
                time.sleep(float(argument))
            elif what == b"loop":
                while True:
                    pass
            elif what == b"native":  # keeps the interpreter's lock
                ctypes.PyDLL(None).sleep(int(argument))
            elif what == b"eat":
                return b"%d" % len([bytes(1 << 20) for _ in range(int(argument))])
            elif what == b"write":
                return bytes(int(argument))
            elif what == b"crash":
                ctypes.string_at(0)
            elif what == b"fail":
                raise RuntimeError("a planted error")
            elif what == b"print":
                print("noise", flush=True)
            elif what == b"process":
                return b"%d" % os.getpid()
            elif what == b"memory":
                import psutil
                return b"%d" % psutil.Process().memory_info().rss
            return setup + b" " + request
        return handle

    if __name__ == "__main__":
        serve(open)
"""


@pytest.fixture(scope="module", autouse=True)
def module_on_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("work")
    (folder / "bounded_work.py").write_text(textwrap.dedent(WORK))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield folder


@contextlib.asynccontextmanager
async def working(setup: bytes = b"s", most: int = 2, **bounds: float) -> AsyncIterator[Bounded]:
    wanted = {"seconds": 1.0, "memory_bytes": 64 << 20, "reply_bytes": 1 << 20} | bounds
    work = Bounded("bounded_work", setup, Bounds(**wanted), most)  # type: ignore[arg-type]
    try:
        yield work
    finally:
        pids = work.pids
        work.stop()
        assert not any(psutil.pid_exists(pid) for pid in pids)


@awaited
async def test_a_process_answers_many_calls_and_starts_once():
    async with working() as work:
        work.start()
        assert [await work.call(b"%d" % i) for i in range(50)] == [b"s %d" % i for i in range(50)]
        assert len(work.pids) == 1
        big = os.urandom(700_000)
        assert await work.call(big) == b"s " + big
        assert await work.call(b"print") == b"s print"  # which does not end up among the replies


@pytest.mark.parametrize(("request_", "what"), [
    (b"loop", "time"), (b"native 9", "time"), (b"eat 90", "memory"), (b"write 1048577", "size"), (b"crash", "death"),
])  # fmt: skip
@awaited
async def test_a_call_that_passes_a_bound_ends_alone(request_: bytes, what: str):
    async with working(seconds=0.7) as work:
        first = int(await work.call(b"process"))
        began_s = time.monotonic()
        with pytest.raises(Exceeded) as error:
            await work.call(request_)
        assert error.value.what == what
        assert time.monotonic() - began_s < 2
        assert await work.call(b"x") == b"s x"
        assert int(await work.call(b"process")) != first
        await asyncio.sleep(0.15)
        assert not psutil.pid_exists(first)
        assert work.killed == 1
        assert await work.call(b"eat 40") == b"40"


@awaited
async def test_others_do_not_wait_for_a_call_that_hangs():
    async with working(seconds=1.5) as work:
        work.start()
        await work.call(b"x")
        hanging = asyncio.create_task(work.call(b"loop"))
        await asyncio.sleep(0.01)
        await work.call(b"x")  # starts a second process
        began_s = time.monotonic()
        for _ in range(100):
            await work.call(b"x")
        assert time.monotonic() - began_s < 1
        assert not hanging.done()
        with pytest.raises(Exceeded):
            await hanging


@awaited
async def test_a_bug_fails_its_call_only():
    async with working() as work:
        pid = await work.call(b"process")
        with pytest.raises(CallFailed):
            await work.call(b"fail")
        assert await work.call(b"process") == pid
    async with working(b"broken") as work:
        for _ in range(2):
            with pytest.raises(NotStarted):
                await work.call(b"x")


@awaited
async def test_a_process_that_somebody_else_ended_is_replaced_in_silence():
    async with working() as work:
        pid = int(await work.call(b"process"))
        os.kill(pid, signal.SIGKILL)
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
        assert await work.call(b"x") == b"s x"
        assert work.killed == 0


@awaited
async def test_who_leaves_does_not_end_a_process_and_the_wait_is_bounded(monkeypatch: pytest.MonkeyPatch):
    async with working(most=1) as work:
        pid = await work.call(b"process")
        leaving = asyncio.create_task(work.call(b"sleep 0.3"))
        await asyncio.sleep(0.05)
        leaving.cancel()
        assert await work.call(b"process") == pid
        monkeypatch.setattr("octavo.bounded.QUEUE", 3)
        calls = [asyncio.create_task(work.call(b"sleep 0.1")) for _ in range(6)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [bytes] * 4 + [Overloaded] * 2
        monkeypatch.setattr("octavo.bounded.WAIT_S", 0.1)
        busy = asyncio.create_task(work.call(b"sleep 0.5"))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="too long"):
            await work.call(b"x")
        await busy
        assert await work.call(b"x") == b"s x"


@awaited
async def test_extra_processes_end_when_they_are_idle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("octavo.bounded.IDLE_S", 0.1)
    async with working(most=3) as work:
        await asyncio.gather(*(work.call(b"sleep 0.2") for _ in range(3)))
        assert len(work.pids) == 3
        await asyncio.sleep(0.2)
        assert len(work.pids) == 1
        assert await work.call(b"x") == b"s x"


PARENT = """
import asyncio, sys
from octavo.bounded import Bounded, Bounds
async def main():
    work = Bounded("bounded_work", b"s", Bounds(2, 64 << 20))
    idle, busy = await asyncio.gather(work.call(b"process"), work.call(b"process"))
    asyncio.create_task(work.call(sys.argv[1].encode()))
    await asyncio.sleep(0.2)
    print(*work.pids, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("request_", ["loop", "native 30"])
def test_no_process_outlives_a_parent_that_was_killed(request_: str):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, request_], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    end_s = time.monotonic() + 5
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < end_s, pids
        time.sleep(0.02)
