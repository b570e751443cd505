"""`octavo bench serve`: load a running server with timed requests and measure what its users would feel."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress

from octavo import env
from octavo.cli import flags
from octavo.cli.bench import report, workload
from octavo.cli.talk import Remote, error_line

GREEDY = {"temperature": 0.0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}

GOALS = ("ttft", "tpot", "e2el")


@dataclass
class Measured:
    """One request's life: seconds from sending to each token, and what the server counted."""

    ttft_s: float = 0.0
    itls_s: list[float] = field(default_factory=list)
    total_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str = ""

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first."""
        return (self.total_s - self.ttft_s) / max(1, self.output_tokens - 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Server, traffic and output flags."""
    parser.add_argument(
        "--base-url", default="http://127.0.0.1:8000", metavar="URL", help="the server (default: %(default)s)"
    )
    parser.add_argument("--model", metavar="NAME", help="model to ask for; default: the server's first")
    parser.add_argument("--api-key", metavar="KEY", help="the server's key; also OCTAVO_API_KEY")
    parser.add_argument(
        "--request-rate",
        type=flags.positive,
        default=float("inf"),
        metavar="R",
        help="requests per second, as a Poisson process (default: all at once)",
    )
    parser.add_argument(
        "--burstiness",
        type=flags.positive,
        default=1.0,
        metavar="B",
        help="1 is Poisson, lower burstier, higher more even (default: %(default)s)",
    )
    parser.add_argument("--max-concurrency", type=flags.at_least_one, metavar="N", help="requests under way at most")
    parser.add_argument(
        "--vocab-size",
        type=flags.at_least_one,
        default=2048,
        metavar="N",
        help="random ids stay below three quarters of this (default: %(default)s)",
    )
    parser.add_argument(
        "--num-warmups", type=int, default=1, metavar="N", help="requests before the measurement (default: %(default)s)"
    )
    parser.add_argument("--save-result", "--output-json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--goodput",
        nargs="*",
        type=goal,
        default=[],
        metavar="ttft:MS",
        help="count only requests that keep these limits (ttft, tpot, e2el)",
    )
    workload.add_arguments(parser, num_prompts=100)


def run(args: argparse.Namespace) -> int:
    """Measure and report; exit code 1 when a request failed."""
    return asyncio.run(measure(args))


async def measure(args: argparse.Namespace) -> int:
    """Send the workload at its rate and wait for all answers."""
    key = args.api_key or env.api_key()
    remote = await Remote.connect(args.base_url, key, args.model)
    await remote.close()
    # Warm-ups of their own: a measured prompt must not be in the cache already.
    made = workload.make(args, args.vocab_size, args.num_warmups)
    items, warmups = made[: args.num_prompts], made[args.num_prompts :]
    base_url = args.base_url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    gate = asyncio.Semaphore(args.max_concurrency or len(items) + args.num_warmups + 1)
    async with httpx.AsyncClient(
        base_url=base_url, headers=headers, limits=limits, timeout=httpx.Timeout(None)
    ) as client:
        for item in warmups:
            await ask(client, remote.name, item, gate)
        with Progress(console=Console(stderr=True), transient=True) as show:
            bar = show.add_task("requests", total=len(items))
            started = time.perf_counter()
            tasks = []
            for item, delay in zip(items, arrivals(args), strict=True):
                if delay:
                    await asyncio.sleep(max(0.0, started + delay - time.perf_counter()))
                tasks.append(asyncio.create_task(ask(client, remote.name, item, gate)))
                tasks[-1].add_done_callback(lambda _: show.advance(bar))
            results = await asyncio.gather(*tasks)
            elapsed = time.perf_counter() - started
    return conclude(args, results, elapsed)


def arrivals(args: argparse.Namespace) -> list[float]:
    """Seconds after the start at which each request is sent: gamma-distributed gaps with the wanted rate."""
    if args.request_rate == float("inf"):
        return [0.0] * args.num_prompts
    draw, at, times = random.Random(args.workload_seed + 1), 0.0, []
    for _ in range(args.num_prompts):
        times.append(at)
        at += draw.gammavariate(args.burstiness, 1 / (args.request_rate * args.burstiness))
    return times


async def ask(client: httpx.AsyncClient, model: str, item: workload.Item, gate: asyncio.Semaphore) -> Measured:
    """Send one request and time its tokens."""
    body = {"model": model, "prompt": item.prompt, "max_tokens": item.output_len, **GREEDY}
    result = Measured()
    async with gate:
        started = last = time.perf_counter()
        try:
            async with client.stream("POST", "/v1/completions", json=body) as reply:
                if reply.is_error:
                    result.error = f"{reply.status_code}: {error_line(await reply.aread())}"
                    return result
                async for line in reply.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    now = time.perf_counter()
                    event = json.loads(line[6:])
                    if event.get("error"):
                        result.error = str(event["error"].get("message"))
                        return result
                    if event.get("choices"):
                        if result.ttft_s == 0.0:
                            result.ttft_s = now - started
                        else:
                            result.itls_s.append(now - last)
                        last = now
                    if event.get("usage"):
                        result.prompt_tokens = event["usage"]["prompt_tokens"]
                        result.output_tokens = event["usage"]["completion_tokens"]
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            result.error = f"{type(error).__name__}: {error}"
        if not result.error and result.ttft_s == 0.0:
            result.error = "the answer had no token"
        result.total_s = last - started
    return result


def conclude(args: argparse.Namespace, results: list[Measured], elapsed: float) -> int:
    """Print the tables, write the JSON."""
    good = [result for result in results if not result.error]
    figures = {
        "successful requests": float(len(good)),
        "failed requests": float(len(results) - len(good)),
        "seconds": elapsed,
        "prompt tokens": float(sum(r.prompt_tokens for r in good)),
        "output tokens": float(sum(r.output_tokens for r in good)),
        "requests/s": len(good) / elapsed,
        "output tokens/s": sum(r.output_tokens for r in good) / elapsed,
        "total tokens/s": sum(r.output_tokens + r.prompt_tokens for r in good) / elapsed,
    }
    if args.goodput:
        figures["goodput requests/s"] = sum(kept(result, args.goodput) for result in good) / elapsed
    spreads = {
        "ttft": [r.ttft_s for r in good],
        "tpot": [r.tpot_s for r in good if r.output_tokens > 1],
        "itl": [itl for r in good for itl in r.itls_s],
        "e2el": [r.total_s for r in good],
    }
    report.show("serving", figures, spreads)
    result: dict[str, Any] = {name.replace("/s", "_per_s").replace(" ", "_"): value for name, value in figures.items()}
    for name, values in spreads.items():
        result |= report.spread(name, values)
    report.write(args.save_result, result)
    errors = [r.error for r in results if r.error]
    if errors:
        Console(stderr=True).print(
            f"{len(errors)} requests failed; the first: {errors[0]}", highlight=False, markup=False
        )
    return 1 if errors else 0


def goal(text: str) -> tuple[str, float]:
    """A limit spelled `ttft:200`: what it bounds, and seconds."""
    name, _, limit_ms = text.partition(":")
    if name not in GOALS:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit like {GOALS[0]}:200; the names are {', '.join(GOALS)}")
    return name, float(limit_ms) / 1000


def kept(result: Measured, goals: list[tuple[str, float]]) -> bool:
    """Whether a request met every goal."""
    actual = {"ttft": result.ttft_s, "tpot": result.tpot_s, "e2el": result.total_s}
    return all(actual[name] <= limit_s for name, limit_s in goals)
