"""Many streams at once over real HTTP: every token once, in order, none lost; clients that leave free what they had."""

from __future__ import annotations

import asyncio
import json
import random
import time

import pytest

from octavo.checkpoint import POCKET
from octavo.engine.executors.fake import parse_options, reference
from octavo.frontend.tokenizer import Tokenizer
from octavo.messages import SequenceSpec, pack_ids
from octavo.sampling import SamplingParams

from ..embedded import VOCAB_SIZE

DEVICE = "fake:low=3,high=97"


@pytest.fixture(scope="module")
def wide(start):
    """A server that runs 1,000 sequences at once."""
    return start(
        "--max-num-seqs", "1000", "--max-num-batched-tokens", "8192", "--max-queued-requests", "4096", device=DEVICE
    )


def request_bytes(host: str, body: dict) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(data)}\r\n"
    head += "content-type: application/json\r\n\r\n"
    return head.encode() + data


async def read_events(reader: asyncio.StreamReader) -> list[bytes]:
    """The data of each server-sent event of a chunked response."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    parts = []
    while True:
        size = int(await reader.readline(), 16)
        parts.append((await reader.readexactly(size + 2))[:-2])
        if not size:
            break
    events = b"".join(parts).split(b"\n\n")
    assert events.pop() == b""
    return [event.removeprefix(b"data: ") for event in events]


async def stream(url: str, prompt: list[int], num_tokens: int) -> str:
    """The text of one streamed completion, all its events checked."""
    host = url.removeprefix("http://")
    name, port = host.split(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    body = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    writer.write(request_bytes(host, body))
    events = await read_events(reader)
    writer.close()
    assert events.pop() == b"[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]
    return "".join(c["text"] for c in choices)


def expected(prompt: list[int], num_tokens: int, tokenizer: Tokenizer) -> str:
    """What the fake device must answer, computed without an engine."""
    params = SamplingParams(temperature=0, ignore_eos=True)
    spec = SequenceSpec(0, pack_ids(prompt), params, num_tokens, seed=0)
    return tokenizer.decode(reference(spec, VOCAB_SIZE, options=parse_options(DEVICE)))


def check_streams(url: str, count: int, num_tokens: int) -> float:
    """Run `count` streams at once and compare each with what it must be; returns tokens per second."""
    rng = random.Random(count)
    prompts = [[rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randrange(1, 40))] for _ in range(count)]

    async def run() -> list[str]:
        return await asyncio.gather(*(stream(url, prompt, num_tokens) for prompt in prompts))

    start_s = time.monotonic()
    texts = asyncio.run(run())
    rate = count * num_tokens / (time.monotonic() - start_s)
    tokenizer = Tokenizer.load(POCKET)
    for prompt, text in zip(prompts, texts, strict=True):
        assert text == expected(prompt, num_tokens, tokenizer)
    return rate


def test_two_hundred_streams_lose_double_and_swap_nothing(wide):
    rate = check_streams(wide.url, 200, 64)
    print(f"{rate:.0f} tokens/s")


@pytest.mark.slow
def test_a_thousand_streams_lose_double_and_swap_nothing(wide):
    rate = check_streams(wide.url, 1000, 256)
    print(f"{rate:.0f} tokens/s")


async def leave(url: str, rng: random.Random) -> None:
    """Ask for something long, and go away at a random moment of it."""
    host = url.removeprefix("http://")
    name, port = host.split(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    prompt = [
        [rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randrange(1, 200))] for _ in range(rng.choice((1, 1, 1, 3)))
    ]
    body = {
        "prompt": prompt,
        "max_tokens": 1500,
        "ignore_eos": True,
        "stream": rng.random() < 0.7,
        "n": rng.choice((1, 1, 3)),
    }
    data = request_bytes(host, body)
    cut = rng.randrange(len(data)) if rng.random() < 0.1 else len(data)
    writer.write(data[:cut])
    await asyncio.sleep(rng.choice((0, 0, rng.uniform(0, 0.05), rng.uniform(0, 0.4))))
    if rng.random() < 0.3 and body["stream"] and cut == len(data):
        await reader.read(rng.randrange(1, 4000))
    if rng.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


def check_disconnects(server, count: int, at_once: int) -> None:
    """Let `count` clients leave, then see that the engine holds nothing and still answers rightly."""
    rng = random.Random(count)

    async def run() -> None:
        gate = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with gate:
                await leave(server.url, rng)

        await asyncio.gather(*(one() for _ in range(count)))

    asyncio.run(run())
    stats = server.settle()
    assert stats["octavo_kv_pages_free"] == stats["octavo_kv_pages"]
    assert stats["octavo_books_wrong_total"] == 0
    assert stats["octavo_client_disconnects_total"] > count / 4
    check_streams(server.url, 4, 32)


@pytest.mark.slow
def test_ten_thousand_clients_that_leave_take_no_pages_along(wide):
    check_disconnects(wide, 10_000, 200)
