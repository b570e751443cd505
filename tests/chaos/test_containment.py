"""No request hurts another: poison, planted faults, failing steps, clients that leave (R8, R9, R10, R33-R35)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import octavo

from .advisories import advisories
from .doors import doors
from .harness import MACHINE, PRINTABLE, Server, ask, completion, get, run, series, serving, settled, stats
from .poison import CHAT, COMPLETE, FAIL_TOKEN, ROW_ERROR, WRONG, Poison, chat, corpus

POISONED = f"fake:{PRINTABLE},row_error={ROW_ERROR},fail_token={FAIL_TOKEN}"
CORPUS = [*corpus(), *advisories()]
# Anthropic's input_tokens leave out what was cached, which depends on what came before.
VOLATILE = frozenset(("id", "created", "created_at", "completed_at", "request_id", "input_tokens"))
# The embedded template, but slow, or greedy for memory, when a message wants it to be.
SLOW = """{%- if messages[0].content == "SPIN" %}
{% for i in range(99999) %}{% set x = ("a" * 3000000) | upper %}{% endfor %}
{%- elif messages[0].content == "EAT" %}{% set x = ("a" * 8000000) ~ 0 %}"""
SLOW += "".join(f"{{% set x{i} = x ~ {i} %}}" for i in range(40)) + "{%- endif %}"


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


def innocents(draw: random.Random) -> list[tuple[str, dict]]:
    """One request of every other kind, with all that its answer depends on."""
    words = " ".join(draw.choices(("once", "upon", "a", "time", "<b>", "\u4e16\u754c"), k=draw.randrange(1, 30)))
    said = [{"role": "user", "content": words}]
    drawn = {"seed": draw.randrange(2**40), "temperature": 0.8, "max_tokens": draw.randrange(1, 30)}
    function = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"enum": ["a", "b"]}}}}
    tools = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    pattern = {"guided_regex": "[a-f]{3}-[0-9]{2}", "prompt": words}
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return [
        ("/v1/chat/completions", drawn | {"messages": said, "logprobs": True, "top_logprobs": 3}),
        ("/v1/chat/completions", drawn | {"messages": said} | tools),
        ("/v1/chat/completions", drawn | {"messages": said, "response_format": named, "max_tokens": 60}),
        ("/v1/completions", drawn | pattern),
        (
            "/v1/completions",
            drawn | {"prompt": words, "n": 2, "presence_penalty": 1, "bad_words": ["a"], "stop": ["e"]},
        ),
        ("/v1/messages", drawn | {"messages": said}),
        ("/v1/responses", {"input": words, "store": False, "max_output_tokens": 20, "seed": 5, "temperature": 1}),
        ("/tokenize", {"messages": said}),
    ]


def lasting(value: object) -> object:
    """What of an answer does not change from one to the next."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in VOLATILE and "cache" not in key}
    return [lasting(item) for item in value] if isinstance(value, list) else value


async def check_poison(server: Server, poison: Poison) -> None:
    """The reply is one it may be, names the field if it is the client's fault, and shows nothing of the machine."""
    reply = await ask(server.port, poison.body, poison.path, method=poison.method, headers=poison.headers)
    assert reply.status in poison.statuses, (poison.name, reply.status, reply.body[:300])
    if reply.status == 200:
        if poison.path in (COMPLETE, CHAT):
            assert reply.fate() == "done", (poison.name, reply.body[-300:])
        return
    assert not MACHINE.search(reply.body), (poison.name, reply.body[:500])
    error = reply.json["error"]
    assert 0 < len(error["message"]) < 1000 and "\n" not in error["message"], (poison.name, error)
    name, _, index = poison.name.partition("#")
    is_counted = "values; send several" in error["message"]  # refused before it is looked at
    if reply.status == 400 and index and name in WRONG and not is_counted:
        assert error["param"] and error["param"].startswith(name), (poison.name, error)


async def check_all(server: Server, hostile: list[Poison], at_once: int) -> None:
    """`check_poison` for each, some at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(poison: Poison) -> None:
        async with gate:
            await check_poison(server, poison)

    results = await asyncio.gather(*map(one, hostile), return_exceptions=True)
    wrong = [result for result in results if result is not None]
    assert not wrong, (len(wrong), wrong[:5])


async def poisoned_run(server: Server, good: int, at_once: int, seed: int, hostile: list[Poison]) -> None:
    """Innocent requests among hostile ones: every token of theirs is what it must be, or was in a run without."""
    draw = random.Random(seed)
    engine, at_first = server.engine, await series(server.port)
    bodies = [innocent(draw) for _ in range(good)]
    others = [one for _ in range(max(1, good // 80)) for one in innocents(draw)]
    gate = asyncio.Semaphore(at_once)

    async def other_one(path: str, body: dict) -> object:
        async with gate:
            reply = await ask(server.port, body, path)
            assert reply.status == 200, (path, reply.status, reply.body[:500])
            return lasting(reply.json)

    clean = await asyncio.gather(*(other_one(*one) for one in others))

    async def same_one(one: tuple[str, dict], expected: object) -> None:
        assert await other_one(*one) == expected, one

    async def good_one(body: dict) -> None:
        async with gate:
            reply = await ask(server.port, body)
            assert reply.fate() == "done", (reply.status, reply.body[-300:])
            assert reply.tokens == answers(server, body)

    async def bad_one(poison: Poison) -> None:
        async with gate:
            await check_poison(server, poison)

    work = [good_one(body) for body in bodies] + [bad_one(poison) for poison in hostile]
    work += [same_one(one, expected) for one, expected in zip(others, clean, strict=True)]
    draw.shuffle(work)
    began_s = time.monotonic()
    results = await asyncio.gather(*work, return_exceptions=True)
    wrong = [result for result in results if result is not None]
    assert not wrong, (len(wrong), wrong[:5])
    print(f"{good + len(others)} innocent, {len(hostile)} hostile requests in {time.monotonic() - began_s:.1f} s")
    assert server.engine == engine
    assert (await get(server.port, "/health")).status == 200
    await settled(server.port)
    assert await series(server.port) == at_first
    traces = [line for line in server.lines if re.match(r"[\w.]+(Error|Exception|Fault)\b", line)]
    assert all("FakeFault" in line for line in traces), traces


@contextlib.contextmanager
def poisonable(folder: Path, *flags: str) -> Iterator[Server]:
    """A server with planted faults whose template can be made slow."""
    template = folder / "template.jinja"
    template.write_text(SLOW + (Path(octavo.__file__).parent / "pocket/chat_template.jinja").read_text())
    with serving("--chat-template", str(template), *flags, device=POISONED) as server:
        yield server


def slow_chats(count: int) -> list[Poison]:
    """Chats that the template takes too long, or too much memory, for."""
    wishes = ("SPIN", "EAT")
    said = [[{"role": "user", "content": wishes[i % 2]}] for i in range(count)]
    return [Poison(f"slow {i}", chat({"messages": messages}), CHAT) for i, messages in enumerate(said)]


async def hostile_requests(server: Server, draw: random.Random, share: float, doors_share: float) -> list[Poison]:
    """A share of the corpus, of what every endpoint can be sent, and chats that the template is slow for."""
    document = (await get(server.port, "/openapi.json")).json
    some = [poison for poison in CORPUS if draw.random() < share]
    return some + list(doors(document, draw, doors_share)) + slow_chats(2 if share < 1 else 8)


def test_poison_hurts_nobody_but_itself(tmp_path: Path):
    async def main() -> None:
        with poisonable(tmp_path, "--max-num-seqs", "64") as server:
            hostile = await hostile_requests(server, random.Random(1), 0.25, 0.004)
            await poisoned_run(server, 160, 200, 1, hostile)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_poison_among_a_thousand(tmp_path: Path, seed: int):
    """R9 as written: a thousand requests at once, one in twenty hostile."""

    async def main() -> None:
        with poisonable(tmp_path, "--max-num-seqs", "256", "--max-queued-requests", "4096") as server:
            hostile = await hostile_requests(server, random.Random(seed), 0.75, 0.003)
            await poisoned_run(server, 19 * len(hostile), 1000, seed, hostile)

    run(main(), 170)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_odd_body_at_every_door(part: int):
    async def main() -> None:
        with serving("--max-num-seqs", "64") as server:
            document = (await get(server.port, "/openapi.json")).json
            odd = list(doors(document, random.Random(0), 1))
            assert len(odd) > 10_000
            await check_all(server, odd[part::4], 16)
            assert "Traceback" not in server.log

    run(main(), 170)


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
            firsts = {re.split("[# ]", poison.name)[0]: poison for poison in reversed(CORPUS)}
            for poison in firsts.values():  # whatever is imported, and whichever annotation is read, on first use
                await ask(server.port, poison.body, poison.path, headers=poison.headers)
            await ask(server.port, chat({}), CHAT)
            engine = server.engine
            lines = book.read_text().splitlines()
            assert {int(line.split()[0]) for line in lines} >= {server.process.pid, engine}  # both are watched,
            assert any(" exec " in line for line in lines)  # and what they import shows
            some = [
                poison for poison in CORPUS if not poison.name.startswith("step error")
            ]  # whose traces read sources
            await check_all(server, random.Random(2).sample(some, 120), 8)
            done = book.read_text().splitlines()[len(lines) :]
            loaded = {server.process.pid, engine}
            wrong = [line for line in done if not harmless(line, loaded)]
            assert not wrong, wrong[:20]

    run(main())


def harmless(line: str, loaded: set[int]) -> bool:
    """Whether an audited event is the import of an installed module, or a process for bounded work that starts."""
    pid, event, what = line.split(" ", 2)
    if event == "import":
        return True
    if event == "subprocess.Popen":
        return re.search(r"'-m', 'octavo\.\w+\.\w+'\]", what) is not None
    if int(pid) not in loaded:  # such a process, which imports what it needs and asks to die with its parent
        return event in ("exec", "marshal.loads", "compile") or (event == "ctypes.dlopen" and "None" in what)
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
