"""A server's life: starting, losing its engine, being full, draining, ending; what clients are told each time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

SLOW = "fake:low=3,high=97,step_ms=20"
STREAM = {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True}


def events(lines) -> list[dict | str]:
    """The data of a stream's events."""
    data = [line.removeprefix("data: ") for line in lines if line]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def read_stream(server, body, begun: threading.Event | None = None) -> list[dict | str]:
    """All events of one streamed completion; `begun` is set at the first."""
    with server.http.stream("POST", "/v1/completions", json=body) as reply:
        lines = []
        for line in reply.iter_lines():
            lines.append(line)
            if begun:
                begun.set()
    return events(lines)


def child_of(pid: int) -> int:
    """The engine process of a server."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


def serve_and_fail(start, *flags: str, **options) -> str:
    with pytest.raises(AssertionError) as error:
        start(*flags, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--host", "203.0.113.7", "--insecure"], "cannot listen"),
        (["--api-key", ""], "empty"),
    ],
)
def test_a_server_that_cannot_start_says_why(start, flags, word):
    said = serve_and_fail(start, *flags)
    assert "ended with code 1" in said
    assert word in said
    assert "Traceback" not in said


def test_a_key_of_the_environment_guards_too(start):
    server = start(env={"OCTAVO_API_KEY": "sk-env"})
    assert server.http.get("/v1/models").status_code == 401
    assert server.http.get("/v1/models", headers={"authorization": "Bearer sk-env"}).status_code == 200
    with open(f"/proc/{server.process.pid}/cmdline") as file:
        assert "sk-env" not in file.read()


def test_a_full_server_refuses_at_once_and_recovers(start):
    server = start("--max-queued-requests", "4", device=SLOW)

    def ask(i: int) -> int:
        return httpx.post(
            f"{server.url}/v1/completions", json=STREAM | {"stream": False, "max_tokens": 40}, timeout=60
        ).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(ask, range(12)))
    assert statuses.count(200) >= 4
    assert statuses.count(200) + statuses.count(429) == 12
    assert statuses.count(429) > 0
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    assert client.completions.create(model="octavo-pocket", prompt="a", max_tokens=2).choices[0].text


def leave(server, stream: bool) -> None:
    """Ask for something long and go away in the middle of it."""
    body = STREAM | {"stream": stream, "n": 3, "max_tokens": 2000}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=0.3) as reply:
        assert next(reply.iter_lines()).startswith("data:")


def test_a_client_that_leaves_frees_its_pages_streaming_or_not(start):
    server = start(device=SLOW)
    leave(server, stream=True)
    with pytest.raises(httpx.ReadTimeout):
        leave(server, stream=False)
    stats = server.settle()
    assert stats["octavo_kv_pages_free"] == stats["octavo_kv_pages"]
    assert stats["octavo_sequences_aborted_total"] == 6
    assert stats["octavo_client_disconnects_total"] == 2


def test_a_killed_engine_is_told_to_every_stream_and_comes_back(start):
    server = start(device=SLOW)
    begun = [threading.Event() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(read_stream, server, STREAM, event) for event in begun]
        assert all(event.wait(20) for event in begun)
        typed = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none").completions.create(
            model="octavo-pocket", prompt="a", max_tokens=1000, stream=True
        )
        os.kill(child_of(server.process.pid), signal.SIGKILL)
        killed_s = time.monotonic()
        told = [stream.result(20) for stream in streams]
        with pytest.raises(openai.APIError, match="engine"):
            list(typed)
        assert time.monotonic() - killed_s < 10
    for found in told:
        assert found[-1]["error"]["type"] == "service_unavailable_error"
        assert "[DONE]" not in found
        assert all(event["choices"][0]["finish_reason"] is None for event in found[:-1])
    refused = server.http.post("/v1/completions", json=STREAM | {"stream": False})
    assert refused.status_code in (200, 503)
    if refused.status_code == 503:
        assert int(refused.headers["retry-after"]) >= 1
    end_s = time.monotonic() + 30
    while server.http.get("/health").status_code != 200:
        assert time.monotonic() < end_s
        time.sleep(0.05)
    assert read_stream(server, STREAM | {"max_tokens": 3})[-1] == "[DONE]"


def test_a_failed_sequence_is_one_error_and_others_go_on(start):
    server = start(device="fake:low=3,high=97,row_error=50")

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            prompts = [[5, 50] if i % 5 == 0 else [5, 60 + i] for i in range(20)]
            ask = [client.post("/v1/completions", json={"prompt": p, "max_tokens": 20}) for p in prompts]
            return await asyncio.gather(*ask)

    replies = asyncio.run(run())
    assert [reply.status_code for reply in replies] == [500 if i % 5 == 0 else 200 for i in range(20)]
    assert "token 50" not in replies[0].text
    assert server.http.get("/health").status_code == 200


def test_the_drain_limit_ends_the_rest_with_an_error(start):
    server = start("--drain-limit-s", "1", device=SLOW)
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(read_stream, server, STREAM | {"max_tokens": 2000}, begun)
        assert begun.wait(20)
        server.process.send_signal(signal.SIGINT)
        found = stream.result(20)
    assert found[-1]["error"]["type"] == "service_unavailable_error"
    assert server.process.wait(10) == 0


def test_a_second_signal_ends_it_now(start):
    server = start("--drain-limit-s", "60", device=SLOW)
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(read_stream, server, STREAM | {"max_tokens": 2000}, begun)
        assert begun.wait(20)
        engine = child_of(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        found = stream.result(20)
    assert "error" in found[-1]
    assert not os.path.exists(f"/proc/{engine}")
    assert "Traceback" not in server.stop()
