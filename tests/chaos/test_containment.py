"""No request hurts another: poison, planted faults, failing steps, clients that leave (R8, R9, R10, R33-R35)."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import pytest

from .harness import PRINTABLE, Server, ask, completion, get, run, series, serving, settled, stats
from .poison import FAIL_TOKEN, ROW_ERROR, Poison, corpus

POISONED = f"fake:{PRINTABLE},row_error={ROW_ERROR},fail_token={FAIL_TOKEN}"
CORPUS = list(corpus())


def innocent(draw: random.Random) -> dict:
    """A request whose answer `reference` knows."""
    prompt = [draw.randrange(3, 97) for _ in range(draw.choice((1, 3, 15, 16, 17, 40, 120)))]
    if draw.random() < 0.3:
        prompt = [7, 8, 9] * 12 + prompt  # a beginning that many share
    seed = draw.randrange(2**40)
    return completion(
        prompt, draw.randrange(1, 40), temperature=draw.choice((0, 0.8)), seed=seed, stream=draw.random() < 0.5
    )


def answers(server: Server, body: dict) -> list[int]:
    """What an innocent request must get."""
    return server.expected(body["prompt"], body["max_tokens"], temperature=body["temperature"], seed=body["seed"])


async def check_poison(server: Server, poison: Poison) -> None:
    """The reply is one it may be, names the field if it is the client's fault, and shows nothing of the machine."""
    reply = await ask(server.port, poison.body, poison.path, headers=poison.headers)
    assert reply.status in poison.statuses, (poison.name, reply.status, reply.body[:300])
    fate = reply.fate()
    if reply.status == 200:
        assert fate == "done", (poison.name, reply.body[-300:])
        return
    error = reply.json["error"]
    assert len(error["message"]) < 1000 and "\n" not in error["message"], poison.name
    name = poison.name.partition("#")[0]
    if reply.status == 400 and "#" in poison.name and name not in ("chat", "/tokenize", "/detokenize"):
        assert error["param"] and error["param"].startswith(name), (poison.name, error)


async def poisoned_run(server: Server, good: int, seed: int) -> None:
    """All of the corpus, mixed into `good` innocent requests whose every token is checked."""
    draw = random.Random(seed)
    engine, at_first = server.engine, await series(server.port)
    bodies = [innocent(draw) for _ in range(good)]
    gate = asyncio.Semaphore(300)

    async def good_one(body: dict) -> None:
        async with gate:
            reply = await ask(server.port, body)
            assert reply.fate() == "done", (reply.status, reply.body[-300:])
            assert reply.tokens == answers(server, body)

    async def bad_one(poison: Poison) -> None:
        async with gate:
            await check_poison(server, poison)

    work = [good_one(body) for body in bodies] + [bad_one(poison) for poison in CORPUS]
    draw.shuffle(work)
    results = await asyncio.gather(*work, return_exceptions=True)
    wrong = [result for result in results if result is not None]
    assert not wrong, (len(wrong), wrong[:5])
    assert server.engine == engine
    assert (await get(server.port, "/health")).status == 200
    await settled(server.port)
    assert await series(server.port) == at_first


def test_poison_hurts_nobody_but_itself():
    async def main() -> None:
        with serving("--max-num-seqs", "64", device=POISONED) as server:
            await poisoned_run(server, 300, 1)
            # Faults that were planted are in the log with their traces; what clients caused is not.
            traces = [line for line in server.lines if line.startswith("octavo.") or "Error" in line.split(" ")[0]]
            assert all("FakeFault" in line for line in traces), traces

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_poison_among_a_thousand(seed: int):
    async def main() -> None:
        with serving("--max-num-seqs", "256", device=POISONED) as server:
            await poisoned_run(server, 1000, seed)

    run(main())


AUDITED = """
import os, sys
OUT = open(os.environ["CHAOS_AUDIT"], "a", buffering=1)
WATCHED = {"exec", "compile", "pickle.find_class", "marshal.loads", "os.system", "os.exec", "os.posix_spawn", "os.fork",
           "subprocess.Popen", "socket.connect", "ctypes.dlopen", "import"}
def hook(event, arguments):
    if event in WATCHED:
        OUT.write(f"{os.getpid()} {event} {str(arguments)[:200]!r}\\n")
sys.addaudithook(hook)
"""


def test_no_request_makes_code_run_or_opens_anything(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(AUDITED)
    book = tmp_path / "audit"
    paths = f"{tmp_path}:{Path(__file__).resolve().parents[2]}"

    async def main() -> None:
        with serving(device=POISONED, env={"PYTHONPATH": paths, "CHAOS_AUDIT": str(book)}) as server:
            for path in ("/v1/completions", "/v1/chat/completions"):  # whatever is imported on first use is by now
                await ask(server.port, json.dumps({"prompt": "a", "messages": [], "max_tokens": 1}).encode(), path)
            engine = server.engine
            lines = book.read_text().splitlines()
            assert {int(line.split()[0]) for line in lines} >= {server.process.pid, engine}  # both are watched,
            assert any(" exec " in line for line in lines)  # and what they import shows
            for poison in CORPUS:
                if not poison.name.startswith("step error"):  # whose traceback is formatted from source files
                    await check_poison(server, poison)
            done = book.read_text().splitlines()[len(lines) :]
            assert not [line for line in done if not harmless(line)], done[:20]

    run(main())


def harmless(line: str) -> bool:
    """Whether an audited event is the import of an installed module."""
    _, event, what = line.split(" ", 2)
    if event == "import":
        return True
    installed = any(place in what for place in (sys.prefix, sys.base_prefix, "frozen "))
    return event in ("exec", "marshal.loads") and installed


@pytest.mark.parametrize(("phase", "step"), [("launch", 3), ("sample", 9), ("result", 20)])
def test_a_step_that_fails_changes_no_answer_now_or_later(phase: str, step: int):
    async def main() -> None:
        device = f"fake:{PRINTABLE},fail_at={step},fail_in={phase}"
        with serving("--max-num-batched-tokens", "128", device=device) as server:
            draw = random.Random(3)
            shared = [draw.randrange(3, 97) for _ in range(70)]
            prompts = [[*shared[: draw.randrange(1, 70)], draw.randrange(3, 97)] for _ in range(24)]
            for _ in range(2):  # the second time from the prefix cache
                replies = await asyncio.gather(*(ask(server.port, completion(prompt, 24)) for prompt in prompts))
                for prompt, reply in zip(prompts, replies, strict=True):
                    assert reply.fate() == "done", reply.body[-300:]
                    assert reply.tokens == server.expected(prompt, 24)
            now = await settled(server.port)
            assert now["octavo_cached_tokens_total"] > 500 and now["octavo_sequence_errors_total"] == 0
            assert "planned fault" in server.log

    run(main())


async def leave(server: Server, draw: random.Random) -> None:
    """Ask for something long and go away: while it is sent, queued, in its prompt, in its answer."""
    kind = draw.choice(("text", "ids", "batch", "fan-out", "chat", "long"))
    body: dict = {"max_tokens": 1500, "ignore_eos": True, "temperature": 1, "stream": draw.random() < 0.6}
    path = "/v1/chat/completions" if kind == "chat" else "/v1/completions"
    if kind == "chat":
        body["messages"] = [{"role": "user", "content": "tell me " * draw.randrange(1, 60)}]
    elif kind == "text":
        body["prompt"] = "once upon a time " * draw.randrange(1, 20)
    elif kind == "batch":
        body["prompt"] = [[draw.randrange(3, 97)] * draw.randrange(1, 90) for _ in range(draw.randrange(2, 6))]
    else:
        body["prompt"] = [draw.randrange(3, 97) for _ in range(draw.randrange(1, 90) if kind != "long" else 1900)]
    if kind in ("fan-out", "batch"):
        body["n"] = draw.randrange(1, 5)
    data = json.dumps(body).encode()
    headers = ("host: 127.0.0.1", "content-type: application/json", f"content-length: {len(data)}")
    head = "\r\n".join((f"POST {path} HTTP/1.1", *headers, "", ""))
    whole = head.encode() + data
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(whole[: draw.randrange(len(whole))] if draw.random() < 0.1 else whole)
    how = draw.random()
    if how < 0.5:
        await asyncio.sleep(draw.choice((0, draw.uniform(0, 0.05), draw.uniform(0, 0.6))))
    else:
        try:
            async with asyncio.timeout(0.8):
                await reader.read(draw.randrange(1, 20_000))
        except TimeoutError:
            pass
    if draw.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


async def check_leaving(server: Server, count: int, at_once: int) -> None:
    """Let clients leave; then nothing runs, every page is free, and a request gets what it must."""
    draw = random.Random(count)
    gate = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with gate:
            await leave(server, draw)

    await asyncio.gather(*(one() for _ in range(count)))
    now = await settled(server.port)
    assert now["octavo_sequences_aborted_total"] > count / 4
    assert now["octavo_preemptions_total"] > 0  # some left while they were preempted
    reply = await ask(server.port, completion([5, 6, 7] * 20, 40))
    assert reply.tokens == server.expected([5, 6, 7] * 20, 40)
    assert "Traceback" not in server.log, server.log[-3000:]


# Few pages and small steps, so that there are queues, prompts in pieces and preemptions.
TIGHT = ("--max-num-seqs", "48", "--max-num-batched-tokens", "256", "--kv-cache-memory-bytes", "20KiB")
TIGHT_DEVICE = f"fake:{PRINTABLE},step_ms=1"


def test_four_hundred_clients_leave_in_every_phase_and_take_nothing_along():
    async def main() -> None:
        with serving(*TIGHT, device=TIGHT_DEVICE) as server:
            await check_leaving(server, 400, 80)

    run(main())


@pytest.mark.slow
def test_ten_thousand_clients_leave_in_every_phase():
    async def main() -> None:
        with serving(*TIGHT, device=TIGHT_DEVICE) as server:
            await check_leaving(server, 10_000, 200)

    run(main(), 1200)


def test_a_thousand_odd_methods_paths_and_agents_add_no_series():
    async def main() -> None:
        with serving() as server:
            before = await series(server.port)
            draw = random.Random(5)

            def word() -> str:
                return "".join(draw.choices("ABCdefXYZ019", k=draw.randrange(1, 12)))

            async def one() -> None:
                method = draw.choice(("GET", "POST", "PUT", "PATCH", "TRACE", word().upper()))
                path = draw.choice(("/", "/v1/models/", "/v1/", "/metrics/", "/%00", "//", "/../")) + word()
                body = json.dumps({"model": word(), "prompt": "a", "user": word()}).encode()
                reply = await ask(
                    server.port, body, path, method=method, headers=(f"user-agent: {word()}", f"x-request-id: {word()}")
                )
                assert 400 <= reply.status < 500, (method, path, reply.status)

            for _ in range(20):
                await asyncio.gather(*(one() for _ in range(50)))
            assert await series(server.port) == before
            assert (await stats(server.port))["octavo_engine_healthy"] == 1

    run(main())
