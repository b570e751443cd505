"""Connections: what clients may send, how slowly, how much at once, and what they may leave unread (R17-R19, R23)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest

SHORT = ("header_s=1,body_idle_s=1,body_s=2,stall_s=1", "connections=40,pipelined=4,queued_bytes=3_000_000")
ASK = json.dumps({"prompt": "a", "max_tokens": 3}).encode()


@pytest.fixture(scope="module")
def strict(start):
    """A server of little patience."""
    return start("--limits", *SHORT, device="fake:low=3,high=97,step_ms=1")


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader, self.writer, self.host = reader, writer, host

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, body: bytes = ASK, *lines: str, length: int | None = None, path: str = "/v1/completions") -> None:
        head = [f"POST {path} HTTP/1.1", f"host: {self.host}", "content-type: application/json", *lines]
        if not any(line.startswith("transfer-encoding") for line in lines):
            head.append(f"content-length: {len(body) if length is None else length}")
        self.send(("\r\n".join([*head, "", ""])).encode() + body)

    async def reply(self) -> tuple[int, dict[str, str], bytes]:
        """The next response in one piece."""
        async with asyncio.timeout(15):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers["content-length"]))
            return int(head[0].split()[1]), headers, body

    async def end(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(15):
            return await self.reader.read()


@contextlib.asynccontextmanager
async def connected(server) -> AsyncIterator[Client]:
    host = server.url.removeprefix("http://")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    try:
        yield Client(reader, writer, host)
    finally:
        writer.transport.abort()


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))


def message(body: bytes) -> str:
    return json.loads(body)["error"]["message"]


def test_a_head_that_does_not_come_is_given_up(strict):
    before = strict.stats()["octavo_slow_senders_total"]

    async def main() -> None:
        async with connected(strict) as silent, connected(strict) as slow, connected(strict) as dripping:
            began_s = time.monotonic()
            slow.send(b"POST /v1/completions HTTP/1.1\r\nhost: ")

            async def drip() -> None:
                for byte in b"GET /health HTTP/1.1\r\nx-long: " + b"a" * 1000:
                    dripping.send(bytes([byte]))
                    await asyncio.sleep(0.1)

            dripper = asyncio.create_task(drip())
            assert await silent.end() == b""
            for client in (slow, dripping):
                status, headers, body = await client.reply()
                assert status == 408 and headers["connection"] == "close" and "head" in message(body)
            assert 0.9 < time.monotonic() - began_s < 6
            dripper.cancel()

    run(main)
    assert strict.stats()["octavo_slow_senders_total"] == before + 2


def test_a_body_that_drips_or_stops_is_given_up_and_takes_no_place(strict):
    async def main() -> None:
        async with connected(strict) as stopped, connected(strict) as dripping, connected(strict) as late:
            stopped.ask(b'{"prompt"', length=100)
            dripping.ask(b"{", length=100)
            late.send(b"GET /health HTTP/1.1\r\nhost: " + late.host.encode() + b"\r\ncontent-length: 9\r\n\r\n")

            async def drip() -> None:
                for _ in range(12):
                    dripping.send(b" ")
                    await asyncio.sleep(0.4)

            dripper = asyncio.create_task(drip())
            await asyncio.sleep(0.2)
            assert strict.stats()["octavo_http_requests_open"] == 0
            assert "no more of the body" in message((await stopped.reply())[2])
            status, _, body = await dripping.reply()
            assert status == 408 and "too long to come" in message(body)
            # A body that nobody reads is waited for, but not for ever.
            assert (await late.reply())[0] == 200
            assert await late.end() == b""
            dripper.cancel()

    run(main)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200, 431),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 10**6, 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(60)), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n", 400),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    ],
    ids=["url", "lines", "long line", "bytes", "tls", "bytes in path", "version", "smuggled", "negative", "connect"],
)
def test_a_head_that_cannot_be_is_refused_as_it_comes(strict, sent, status):
    async def main() -> None:
        async with connected(strict) as client:
            client.send(sent)  # and no end of the head
            found, headers, body = await client.reply()
            assert (found, headers["connection"]) == (status, "close")
            assert message(body)
            assert await client.end() == b""

    run(main)


def test_all_bodies_together_are_bounded_and_room_comes_back(strict):
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(strict)) for _ in range(8)]
            for client in clients:
                client.ask(b"", "transfer-encoding: chunked")
                client.send(b"f4240\r\n" + b" " * 10**6 + b"\r\n")  # and no end
            replies = [await client.reply() for client in clients]
            full = [reply for reply in replies if reply[0] == 429]
            assert 5 <= len(full) < 8 and {reply[0] for reply in replies} == {408, 429}
            assert all("bodies" in message(body) and headers["retry-after"] == "1" for _, headers, body in full)
        async with connected(strict) as client:
            client.ask()
            assert (await client.reply())[0] == 200

    run(main)


def test_an_upgrade_is_not_made_and_continuing_is_allowed(strict):
    async def main() -> None:
        async with connected(strict) as client:
            head = f"GET /health HTTP/1.1\r\nhost: {client.host}\r\n"
            client.send(f"{head}connection: Upgrade\r\nupgrade: websocket\r\n\r\n".encode())
            assert (await client.reply())[0] == 200
        async with connected(strict) as client:
            client.ask(b"", "expect: 100-continue", length=len(ASK))
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(ASK)
            assert (await client.reply())[0] == 200

    run(main)


def test_a_refused_body_is_read_on_so_that_the_refusal_arrives(strict):
    async def main() -> None:
        async with connected(strict) as client:
            client.ask(b"", length=40 * 2**20)
            for _ in range(20):
                client.send(b" " * 2**20)
                await asyncio.sleep(0)
            status, headers, _ = await client.reply()
            assert (status, headers["connection"]) == (413, "close")

    run(main)


def test_pipelined_requests_are_answered_in_order_and_not_too_many(strict):
    async def main() -> None:
        async with connected(strict) as client:
            for name in ("one", "two", "three"):
                client.ask(ASK, f"x-request-id: {name}")
            for name in ("one", "two", "three"):
                status, headers, _ = await client.reply()
                assert (status, headers["x-request-id"]) == (200, name)
        async with connected(strict) as client:
            long = json.dumps({"prompt": "a", "max_tokens": 2000, "ignore_eos": True}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: {client.host}\r\ncontent-length: {len(long)}\r\n\r\n"
            client.send((head.encode() + long) * 8)
            with contextlib.suppress(ConnectionResetError):
                assert await client.end() == b""

    run(main)
    assert strict.settle()["octavo_kv_pages_free"] == strict.stats()["octavo_kv_pages"]


def test_who_leaves_with_pipelined_requests_leaves_nothing_running(strict):
    before = strict.stats()["octavo_client_disconnects_total"]

    async def main() -> None:
        async with connected(strict) as client:
            body = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": True}
            client.ask(json.dumps(body).encode())
            await client.reader.readuntil(b"data: ")
            client.ask(json.dumps(body).encode())
            await asyncio.sleep(0.1)

    run(main)
    began_s = time.monotonic()
    strict.settle()
    assert time.monotonic() - began_s < 1
    assert strict.stats()["octavo_client_disconnects_total"] > before


def test_one_connection_too_many_is_told_so(strict):
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            held = [await stack.enter_async_context(connected(strict)) for _ in range(60)]
            for client in held:
                client.ask()
            replies = [await client.reply() for client in held]
            refused = [reply for reply in replies if reply[0] == 503]
            assert 20 <= len(refused) <= 30  # other tests' connections count, too
            assert all(r[1]["retry-after"] == "1" and "connections" in message(r[2]) for r in refused)
            assert len([reply for reply in replies if reply[0] == 200]) == 60 - len(refused)

    run(main)
    assert strict.stats()["octavo_refused_connections_total"] >= 20


def test_who_does_not_read_is_given_up_and_who_reads_is_not(strict):
    """The first never reads, the second takes its time, the third hurries."""
    before = strict.stats()["octavo_slow_readers_total"]
    body = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": True, "n": 16, "temperature": 1}
    body |= {"logprobs": 5}
    host = strict.url.removeprefix("http://")
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(data)}\r\n"
    head += "content-type: application/json\r\nconnection: close\r\n\r\n"

    def connect() -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.connect((host.split(":")[0], int(host.split(":")[1])))
        client.sendall(head.encode() + data)
        return client

    with connect() as stuck, connect() as slow:
        slow.settimeout(15)
        parts, end_s = [], time.monotonic() + 3
        while time.monotonic() < end_s:
            parts.append(slow.recv(16384))
            assert parts[-1], "the slow reader was cut off"
            time.sleep(0.05)
        assert strict.stats()["octavo_slow_readers_total"] == before + 1
        left = b""
        with contextlib.suppress(ConnectionResetError):
            while part := stuck.recv(2**20):
                left = part
        assert not left.endswith(b"0\r\n\r\n")  # what had been sent comes, and no end of it
    strict.settle()


def test_many_one_byte_chunks_are_a_body(strict):
    async def main() -> None:
        async with connected(strict) as client:
            client.ask(b"", "transfer-encoding: chunked")
            text = json.dumps({"prompt": "a" * 20_000, "max_tokens": 1}).encode()
            client.send(b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\nx-trailer: dropped\r\n\r\n")
            status, _, body = await client.reply()
            assert status == 400 and "20" in message(body)  # too long a prompt: so it was read

    run(main)
