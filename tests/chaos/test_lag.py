"""The event loop stays awake: health answers while huge bodies are read and refused, and under load (R20, R22)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine

from .harness import PRINTABLE, SLACK, Server, ask, completion, get, run, serving

LAG_S = 0.06  # of the slowest of all answers to /health, on an idle machine
WORDS = "the quick brown fox jumps over the lazy dog; "


async def slowest_health(server: Server, work: Coroutine[object, object, object]) -> float:
    """The longest that /health took to answer while `work` was done."""
    doing = asyncio.create_task(work)
    slowest_s = 0.0
    while not doing.done():
        began_s = time.monotonic()
        assert (await get(server.port, "/health")).status == 200
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        await asyncio.sleep(0.01)
    await doing
    return slowest_s


def long_reply() -> dict[str, object]:
    """A chat whose answer holds 150,000 log-probabilities."""
    ask = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 450, "ignore_eos": True, "temperature": 1}
    return ask | {"n": 16, "logprobs": True, "top_logprobs": 20}


def huge() -> dict[str, tuple[str, bytes, int]]:
    """Bodies that take long to read, by what they are: path, body, status."""
    text = WORDS * (10**6 // len(WORDS))
    chat = [{"role": "user", "content": text}]
    return {
        "text": ("/v1/completions", json.dumps({"prompt": text}).encode(), 400),
        "one word": ("/v1/completions", json.dumps({"prompt": "a" * 10**6}).encode(), 400),
        "chat": ("/v1/chat/completions", json.dumps({"messages": chat}).encode(), 400),
        "tokenize": ("/tokenize", json.dumps({"prompt": text, "return_token_strs": True}).encode(), 200),
        "detokenize": ("/detokenize", json.dumps({"tokens": [5, 300, 2000] * 3 * 10**4}).encode(), 200),
        "ids": ("/v1/completions", json.dumps({"prompt": [5] * 10**6}).encode(), 400),
        "texts": ("/v1/completions", json.dumps({"prompt": ["a"] * 10**6}).encode(), 400),
        "stops": ("/v1/completions", json.dumps({"prompt": "a", "stop": ["b"] * 10**6}).encode(), 400),
        "metadata": (
            "/v1/completions",
            json.dumps({"prompt": "a", "max_tokens": 1, "metadata": {str(i): [i] for i in range(20_000)}}).encode(),
            200,
        ),
        "a million members": (
            "/v1/completions",
            json.dumps({"prompt": "a", "metadata": dict.fromkeys(map(str, range(10**6)), 1)}).encode(),
            400,
        ),
        "escapes": ("/v1/completions", b'{"prompt": "' + rb"\n" * 4 * 10**6 + b'"}', 400),
        "a long reply": ("/v1/chat/completions", json.dumps(long_reply()).encode(), 200),
    }


def test_a_huge_body_keeps_nobody_waiting():
    async def main() -> None:
        with serving() as server:
            for name, (path, body, status) in huge().items():

                async def send(path: str = path, body: bytes = body, status: int = status, name: str = name) -> None:
                    reply = await ask(server.port, body, path)
                    assert reply.status == status, (name, reply.status, reply.body[:200])

                slowest_s = await slowest_health(server, send())
                print(f"{name:12} {len(body) / 2**20:5.1f} MiB: /health within {slowest_s * 1000:.0f} ms")
                assert slowest_s < LAG_S * SLACK, name

    run(main())


def test_health_answers_while_hundreds_stream_as_fast_as_they_can():
    async def main() -> None:
        with serving("--max-num-seqs", "256", device=f"fake:{PRINTABLE}") as server:

            async def stream_all() -> None:
                prompts = [[3 + i % 90, 4, 5 + i // 90] for i in range(100)]
                replies = await asyncio.gather(*(ask(server.port, completion(prompt, 200)) for prompt in prompts))
                for prompt, reply in zip(prompts, replies, strict=True):
                    assert reply.tokens == server.expected(prompt, 200)
                pieces = sorted(len(reply.arrivals) for reply in replies)
                print(f"pieces per stream: {pieces[0]} to {pieces[-1]}")
                assert pieces[50] > 5, "streams come at once at their end"

            slowest_s = await slowest_health(server, stream_all())
            print(f"100 streams: /health within {slowest_s * 1000:.0f} ms")
            assert slowest_s < LAG_S * SLACK

    run(main())
