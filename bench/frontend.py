"""What the API process adds to a token: 1,000 streams from a fake device that emits on a fixed beat, one API process.

    python bench/frontend.py                      # 1,000 streams, a step every 50 ms: 20,000 tokens/s in total
    python bench/frontend.py --streams 200 --beat 20 --tokens 300

The fake device ends its steps on a beat (`fake:step_ms=…`, two steps in flight), each with one token of every stream. A
token's lag is how much later its event was read from the socket than the beat says, the beat being that of the token
that came soonest: it holds the core's own work after a step, the sockets, the API process and waiting for all of them.
Processes run on this machine only; other load shows in the lag. Also printed: processor time per token.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import psutil

LETTERS = "low=67,high=93"  # ids of the embedded tokenizer that are one letter each, so that text counts tokens


@dataclass
class Stream:
    """One connection: when its tokens were read."""

    socket: socket.socket
    times: list[float] = field(default_factory=list)
    rest: bytes = b""


def serve(args: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    """A server over the fake device, and its port."""
    command = [sys.executable, "-m", "octavo", "serve", "--port", "0", "--steps-in-flight", "2"]
    command += ["--device", f"fake:{LETTERS},step_ms={args.beat}", "--max-num-seqs", str(args.streams)]
    command += ["--kv-cache-memory-bytes", "64MiB"]
    command += ["--max-num-batched-tokens", str(max(8192, args.streams))]
    command += ["--max-queued-requests", str(2 * args.streams)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"served on http://[\d.]+:(\d+)", line):
            return process, int(found[1])
    sys.exit("".join(said))


def ask(port: int, number: int, num_tokens: int, chat: bool) -> Stream:
    """One streaming request, sent."""
    body: dict[str, object] = {"max_tokens": num_tokens, "ignore_eos": True, "stream": True, "temperature": 0}
    if chat:
        body |= {"messages": [{"role": "user", "content": f"number {number}"}]}
    else:
        body |= {"prompt": [3 + number % 90, 3 + number // 90 % 90, 5]}
    data = json.dumps(body).encode()
    path = "/v1/chat/completions" if chat else "/v1/completions"
    head = f"POST {path} HTTP/1.1\r\nhost: localhost:{port}\r\ncontent-type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    connection.setblocking(False)
    return Stream(connection)


def read_all(streams: list[Stream], num_tokens: int, mark: bytes, limit_s: float) -> None:
    """Note when each token of every stream is read, until all have come. An event has its text right behind `mark`."""
    selector = selectors.DefaultSelector()
    for stream in streams:
        selector.register(stream.socket, selectors.EVENT_READ, stream)
    left, end = len(streams), time.monotonic() + limit_s
    while left and time.monotonic() < end:
        for key, _ in selector.select(1.0):
            stream: Stream = key.data
            data = stream.socket.recv(65_536)
            now = time.monotonic()
            *events, stream.rest = (stream.rest + data).split(b"\n\n")
            for event in events:
                at = event.find(mark)
                if at >= 0:
                    at += len(mark)
                    stream.times += [now] * (event.index(b'"', at) - at)
            if not data or len(stream.times) >= num_tokens:
                selector.unregister(stream.socket)
                stream.socket.close()
                left -= 1
    if left:
        sys.exit(f"{left} of {len(streams)} streams did not end within {limit_s:.0f} s")


def lags(streams: list[Stream], beat_s: float, warm: int, last: int) -> np.ndarray:
    """Milliseconds behind the beat [streams, tokens], of tokens warm to last."""
    times = np.array([stream.times[warm:last] for stream in streams])
    phase = times - beat_s * np.arange(times.shape[1])
    # Streams began some whole number of beats apart.
    first = phase.min()
    beats = np.floor((phase.min(1) - first) / beat_s + 1e-6)
    return 1e3 * (phase - first - beat_s * beats[:, None])


def processor_s(process: psutil.Process) -> float:
    """User and system time so far."""
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--beat", type=float, default=50.0, help="milliseconds between two tokens of a stream")
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--chat", action="store_true", help="chat completions instead of completions")
    args = parser.parse_args()
    process, port = serve(args)
    try:
        mark = b'"delta":{"content":"' if args.chat else b'"text":"'
        api = psutil.Process(process.pid)
        others = api.children(recursive=True)
        streams = [ask(port, number, args.tokens, args.chat) for number in range(args.streams)]
        before = [processor_s(one) for one in (api, *others, psutil.Process())]
        started = time.monotonic()
        read_all(streams, args.tokens, mark, 60 + 10 * args.tokens * args.beat / 1e3)
        elapsed = time.monotonic() - started
        used = [processor_s(one) - b for one, b in zip((api, *others, psutil.Process()), before, strict=True)]
    finally:
        process.kill()
    # Those that run at once: from when the last has begun until the first ends.
    began = max(stream.times[0] for stream in streams)
    ended = min(stream.times[-1] for stream in streams)
    warm = max(int(np.searchsorted(stream.times, began)) for stream in streams) + 2
    last = min(int(np.searchsorted(stream.times, ended)) for stream in streams) - 2
    if last - warm < 20:
        sys.exit(f"the streams ran together for {last - warm} tokens only; ask for more --tokens")
    behind = lags(streams, args.beat / 1e3, warm, last)
    span = np.array([stream.times[last - 1] - stream.times[warm] for stream in streams]).mean()
    rate = args.streams * (last - 1 - warm) / span
    total = args.streams * args.tokens
    p50, p90, p99 = np.percentile(behind, (50, 90, 99))
    print(f"{args.streams} streams, a token each every {args.beat:g} ms; measured over {last - warm} beats")
    print(f"  {rate:,.0f} tokens/s in total, {100 * rate * args.beat / 1e3 / args.streams:.1f} % of the beat")
    print(f"  lag: median {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms, largest {behind.max():.1f} ms")
    print(f"  processor time per token: API {1e6 * used[0] / total:.1f} us", end="")
    print(f", engine {1e6 * sum(used[1:-1]) / total:.1f} us, this client {1e6 * used[-1] / total:.1f} us")
    print(f"  over {elapsed:.1f} s on {psutil.cpu_count()} cores; load {psutil.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
