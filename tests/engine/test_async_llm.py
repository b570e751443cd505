"""AsyncLLM over a real engine process on the fake device: streams, aborts, deaths, restarts, orphans."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from octavo import AsyncLLM, RequestOutputKind, SamplingParams
from octavo.engine import supervisor
from octavo.errors import EngineDead, InvalidRequest, StartupError, StepFailed
from octavo.frontend import prompts

DELTA = RequestOutputKind.DELTA


@asynccontextmanager
async def engine(device="fake", heartbeat_s=5.0, **options):
    llm = AsyncLLM.launch(device=device, heartbeat_s=heartbeat_s, **options)
    try:
        await llm.ready()
        yield llm
    finally:
        await llm.shutdown()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def tokens(llm, prompt, max_tokens=32, **params):
    got = []
    async for output in llm.generate(
        prompt, SamplingParams(**{"max_tokens": max_tokens, "output_kind": DELTA, "seed": 1} | params)
    ):
        got += output.outputs[0].token_ids
    return got


async def consume(stream):
    return [output async for output in stream]


async def idle(llm):
    """Wait until the core holds nothing but cached pages; returns its stats."""
    for _ in range(200):
        stats = await llm.stats()
        if stats.running == stats.waiting == 0:
            return stats
        await asyncio.sleep(0.01)
    raise AssertionError(stats)


async def until(condition, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_many_streams_give_what_each_gives_alone():
    async def main():
        async with engine() as llm:
            prompts = [[3 + i % 40, 5, 7, i % 11 + 3] * (1 + i % 9) for i in range(100)]
            together = await asyncio.gather(*(tokens(llm, prompt, temperature=0.8, seed=7) for prompt in prompts))
            for i in (0, 17, 99):
                assert together[i] == await tokens(llm, prompts[i], temperature=0.8, seed=7)
            assert all(len(got) == 32 for got in together)
            assert (await idle(llm)).books_wrong == 0

    run(main())


def test_leaving_at_any_moment_frees_everything():
    async def main():
        draw = random.Random(0)
        async with engine("fake:step_ms=1", max_num_seqs=16) as llm:

            async def leave(i):
                stream = llm.generate(
                    [3 + i % 50] * draw.randrange(1, 200), SamplingParams(n=draw.choice((1, 1, 3)), max_tokens=400)
                )
                for _ in range(draw.randrange(0, 6)):
                    await anext(stream)
                await stream.aclose()

            async def be_cancelled(i):
                task = asyncio.create_task(tokens(llm, [3 + i % 50] * 20, 400))
                await asyncio.sleep(draw.random() * 0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

            await asyncio.gather(*(leave(i) if i % 2 else be_cancelled(i) for i in range(200)))
            stats = await idle(llm)
            assert stats.pages_free == stats.pages_total and stats.books_wrong == 0
            assert llm.num_open == 0 and not llm._outputs.routes

    run(main())


def test_abort_ends_a_stream_with_its_reason():
    async def main():
        async with engine("fake:step_ms=5") as llm:
            outputs = []
            async for output in llm.generate([5, 6], SamplingParams(max_tokens=1000), "mine"):
                outputs.append(output)
                if len(outputs) == 3:
                    await llm.abort("mine")
            assert outputs[-1].finished and outputs[-1].outputs[0].finish_reason == "abort"
            assert (await idle(llm)).running == 0
            await llm.abort("mine")  # again, and unknown: ignored

    run(main())


def test_a_request_that_is_wrong_ends_alone():
    async def main():
        async with engine("fake:step_ms=2,row_error=13", max_model_len=64) as llm:
            good = asyncio.create_task(tokens(llm, [5, 6, 7], 40))
            with pytest.raises(InvalidRequest) as error:
                await tokens(llm, [5] * 64)
            assert error.value.field == "prompt"
            with pytest.raises(InvalidRequest):
                await tokens(llm, [10**6])
            with pytest.raises(StepFailed):
                await tokens(llm, [5, 13])
            assert len(await good) == 40
            assert await good == await tokens(llm, [5, 6, 7], 40)

    run(main())


def test_two_long_prompts_cannot_take_the_same_id_while_they_are_tokenized(monkeypatch):
    monkeypatch.setattr(prompts, "LONG_TEXT", 10)

    async def main():
        async with engine() as llm:
            results = await asyncio.gather(
                *(consume(llm.generate("a longer text", SamplingParams(max_tokens=1000), "same")) for _ in range(2)),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["InvalidRequest", "list"], results
            assert llm.num_open == 0 and not llm._outputs.routes

    run(main())


def test_a_request_that_is_still_being_tokenized_when_draining_starts_is_refused(monkeypatch):
    monkeypatch.setattr(prompts, "LONG_TEXT", 10)

    async def main():
        async with engine() as llm:
            late = asyncio.create_task(consume(llm.generate("a longer text", SamplingParams(max_tokens=4))))
            await asyncio.sleep(0)
            llm.start_draining()
            with pytest.raises(EngineDead):
                await late

    run(main())


def test_an_answer_that_is_complete_survives_the_engine():
    async def main():
        async with engine("fake:step_ms=5") as llm:
            stream = llm.generate([5, 6], SamplingParams(max_tokens=8))
            await anext(stream)
            await until(lambda: not llm._outputs.routes)
            os.kill(llm.supervisor.pid, signal.SIGKILL)
            await until(lambda: llm.state != "ready")
            outputs = await consume(stream)
            assert outputs[-1].finished and len(outputs[-1].outputs[0].token_ids) == 8

    run(main())


def test_a_failed_step_is_tried_again_and_nobody_notices():
    prompts = [[5 + i, 9, 11] for i in range(8)]

    async def answers(device):
        async with engine(device) as llm:
            together = await asyncio.gather(*(tokens(llm, prompt) for prompt in prompts))
            return [*together, await tokens(llm, prompts[0])]

    async def main():
        faults = (f"fake:fail_at=9,fail_in={phase}" for phase in ("launch", "sample", "result"))
        clean, *others = await asyncio.gather(*map(answers, ("fake", *faults)))
        assert clean[-1] == clean[0]
        assert others == [clean] * 3

    run(main())


def test_a_killed_engine_tells_every_stream_within_two_seconds_and_comes_back():
    async def main():
        draw = random.Random(1)
        async with engine("fake:step_ms=2") as llm:
            expected = await tokens(llm, [5, 6, 7])
            for _ in range(2):
                tasks = [asyncio.create_task(tokens(llm, [3 + i, 4], 5000 // 4)) for i in range(64)]
                await asyncio.sleep(draw.random() * 0.2)
                os.kill(llm.supervisor.pid, signal.SIGKILL)
                killed = time.monotonic()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert time.monotonic() - killed < 2
                assert all(isinstance(result, EngineDead) for result in results)
                assert not llm.is_healthy
                with pytest.raises(EngineDead):
                    await tokens(llm, [5])
                await until(lambda: llm.state == "ready")
                assert await tokens(llm, [5, 6, 7]) == expected
            assert llm.supervisor.restarts == 2

    run(main())


def test_an_engine_that_dies_of_itself_is_restarted():
    async def check(fault):
        async with engine(f"fake:{fault}") as llm:
            with pytest.raises(EngineDead):
                await tokens(llm, [5], 100)
            await until(lambda: llm.state == "ready")
            assert len(await tokens(llm, [5], 5)) == 5

    async def both():
        await asyncio.gather(check("die_at=12"), check("lost_at=12"))

    run(both())


def test_the_supervisor_gives_up_after_its_budget(monkeypatch):
    monkeypatch.setattr(supervisor, "BACKOFF_S", [0.0] * 5)  # waited for in tests/chaos

    async def main():
        async with engine("fake:die_at=1") as llm:
            for _ in range(4):
                with pytest.raises(EngineDead):
                    await tokens(llm, [5])
                await until(lambda: llm.state == "ready")
            with pytest.raises(EngineDead):
                await tokens(llm, [5])
            await until(lambda: llm.state == "dead")
            with pytest.raises(EngineDead):
                await tokens(llm, [5])

    run(main())


def test_an_engine_that_lives_but_is_silent_counts_as_dead():
    async def check(how):
        heartbeat_s = 1.0
        device = "fake:hang_at=40" if how == "hanging" else "fake"
        async with engine(device, heartbeat_s) as llm:
            await tokens(llm, [5], 30)
            pid = llm.supervisor.pid
            if how == "stopped":
                os.kill(pid, signal.SIGSTOP)
            stuck = asyncio.create_task(tokens(llm, [5], 100))
            began = time.monotonic()
            await until(lambda: not llm.is_healthy, 2 * heartbeat_s + 2)
            await until(lambda: llm.state == "ready" and llm.supervisor.pid != pid, 3 * heartbeat_s + 10)
            assert time.monotonic() - began < 3 * heartbeat_s + 10
            with pytest.raises(EngineDead):
                await stuck
            assert not alive(pid)
            assert len(await tokens(llm, [5], 5)) == 5

    async def both():
        await asyncio.gather(check("stopped"), check("hanging"))

    run(both())


def test_a_slow_start_is_no_reason_to_say_yes_and_a_bad_one_says_why(tmp_path):
    async def main():
        with pytest.raises(StartupError, match="no such folder"):
            AsyncLLM.launch(model=str(tmp_path / "nothing"))
        llm = AsyncLLM.launch(device="fake:step=1")
        with pytest.raises(StartupError, match="step_ms"):
            await llm.ready()
        assert llm.state == "dead"
        await llm.shutdown()

    run(main())


ORPHAN = """
import asyncio, sys
from octavo import AsyncLLM
async def main():
    llm = AsyncLLM.launch(device="fake")
    await llm.ready()
    print(llm.supervisor.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_an_engine_does_not_outlive_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


@pytest.fixture
def short_folder(monkeypatch):
    """A folder for temporary files that no other test uses, with a path short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_nothing_is_left_behind_after_shutdown(short_folder):
    async def main():
        async with engine() as llm:
            pid = llm.supervisor.pid
            (directory,) = short_folder.glob("octavo-*")
            assert directory.stat().st_mode & 0o777 == 0o700
        assert not alive(pid)

    run(main())
    assert not list(short_folder.iterdir())


LEAVING = """
import asyncio
from octavo import AsyncLLM
async def main():
    llm = AsyncLLM.launch(device="fake")
    await llm.ready()
    print(llm.supervisor.pid, flush=True)
asyncio.run(main())
"""


def test_a_program_that_ends_without_shutdown_leaves_nothing_behind(short_folder):
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 5
    while alive(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(int(done.stdout))
    assert not list(short_folder.iterdir())


def test_files_of_the_working_folder_are_not_the_engines_modules(tmp_path, monkeypatch):
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)

    async def main():
        async with engine() as llm:
            assert len(await tokens(llm, [5], 3)) == 3

    run(main())


def test_pooled_prompts_come_back_in_order_and_beside_generations():
    async def main():
        async with engine("fake:step_ms=1") as llm:
            prompts = [[3, 4, 5], "text", [6] * 100]
            told = consume(llm.generate([5, 6], SamplingParams(max_tokens=20, ignore_eos=True)))
            pooled, outputs = await asyncio.gather(llm.pool("embed", prompts), told)
            assert len(outputs[-1].outputs[0].token_ids) == 20
            assert [len(output.prompt_token_ids) for output in pooled] == [3, len(llm.tokenizer.encode("text")), 100]
            async for output in llm.encode([6] * 100):
                assert output.outputs.data.tolist() == pooled[2].outputs.data.tolist()
            with pytest.raises(InvalidRequest, match="cannot classify texts"):
                await llm.pool("classify", prompts)
            assert llm.num_open == 0 and llm.num_prompt_tokens == 0

    run(main())


def test_a_generation_does_not_wait_behind_all_prompts_of_a_large_request():
    async def main():
        async with engine("fake:step_ms=2") as llm:
            large = asyncio.create_task(llm.pool("embed", [[3] * 128] * 400))  # a hundred steps
            await until(lambda: llm.num_open == 1)
            await consume(llm.generate([5, 6], SamplingParams(max_tokens=3, ignore_eos=True)))
            assert not large.done()
            assert (await llm.stats()).waiting < 40
            assert len({bytes(output.outputs.data) for output in await large}) == 1
            second = asyncio.create_task(llm.pool("embed", [[3] * 128] * 400))
            await until(lambda: llm.num_open == 1)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            await until(lambda: not llm._outputs.routes)
            assert (await llm.stats()).late < 100  # most were never sent

    run(main())


def test_an_engine_that_dies_ends_pooled_prompts_too():
    async def main():
        async with engine("fake:step_ms=200") as llm:
            waiting = asyncio.create_task(llm.pool("embed", [[3] * 600] * 8))
            await until(lambda: llm.num_open == 1)
            os.kill(llm.supervisor.pid, signal.SIGKILL)
            with pytest.raises(EngineDead):
                await waiting
            assert llm.num_open == 0

    run(main())
