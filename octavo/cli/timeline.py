"""`octavo timeline`: the story of a request to a running server, or a list of one's running requests."""

from __future__ import annotations

import argparse
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from octavo import env
from octavo.cli.terminal import harmless
from octavo.errors import StartupError

WIDTH = 32  # of the bars
WAITING = frozenset("queued held preempted swapped_out not_swapped".split())
COLORS = {"waiting": "yellow", "prompt": "cyan", "answer": "green"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which server, which request."""
    parser.add_argument("url", metavar="URL", help="of the server, such as http://127.0.0.1:8000")
    parser.add_argument("id", nargs="?", metavar="ID", help="of the request; none lists those that are being answered")
    parser.add_argument("--api-key", metavar="KEY", help="key that made the request; also OCTAVO_API_KEY")


def run(args: argparse.Namespace) -> int:
    """Fetch and show it."""
    key = args.api_key or env.api_key()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    base = args.url.rstrip("/").removesuffix("/v1")
    with httpx.Client(base_url=base, headers=headers, timeout=10) as client:
        told = fetch(client, f"/v1/requests/{args.id}/timeline" if args.id else "/v1/requests")
    console = Console(highlight=False)
    if args.id:
        show(console, told)
    else:
        console.print(listing(told["data"]))
    return 0


def fetch(client: httpx.Client, path: str) -> Any:
    """A reply's JSON; StartupError with the server's own words when it refuses, or why there is none."""
    try:
        reply = client.get(path)
        told = reply.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StartupError(
            f"no timeline from {client.base_url}: {error or type(error).__name__}; is `octavo serve` running there?",
            "url",
        ) from None
    if reply.status_code != 200:
        raise StartupError(harmless(str(told["error"]["message"])), "id")
    return told


def listing(rows: list[dict[str, Any]]) -> Table:
    """Requests as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "state", "age", "prompt", "generated", "endpoint"):
        table.add_column(name)
    for row in rows:
        ahead = f", {row['ahead']} ahead" if row["ahead"] else ""
        name = next(iter(row["names"]), row["id"])
        table.add_row(
            harmless(name), row["state"] + ahead, span(row["age_ms"]), str(row["prompt_tokens"]),
            f"{row['generated_tokens']} of {row['max_tokens']}", harmless(row["endpoint"]),
        )  # fmt: skip
    return table


def show(console: Console, told: dict[str, Any]) -> None:
    """A request: its summary, then every sequence with a bar and its events."""
    console.print(Text(harmless(told["summary"]), style="bold"))
    arrival = [event for event in told["events"] if event["event"] != "answered"]
    for sequence in told["timelines"] or [{"events": []}]:
        events = arrival + sequence["events"] + [event for event in told["events"] if event["event"] == "answered"]
        if len(told["timelines"]) > 1:
            console.print(f"\nprompt {sequence['prompt']}, continuation {sequence['index']}")
        end_ms = max(float(told["age_ms"]), 1e-3)
        table = Table(box=None, pad_edge=False, show_header=False)
        for kind, at_ms, until_ms, text in stretches(events, end_ms):
            table.add_row(kind, span(at_ms), bar(kind, at_ms / end_ms, until_ms / end_ms), harmless(text))
        console.print(table)


def stretches(events: list[dict[str, Any]], end_ms: float) -> list[tuple[str, float, float, str]]:
    """Events, each until the next one."""
    ends = [*(event["at_ms"] for event in events[1:]), end_ms]
    return [
        (event["event"], event["at_ms"], max(until, event["at_ms"]), event["text"])
        for event, until in zip(events, ends, strict=True)
    ]


def bar(kind: str, start: float, end: float) -> Text:
    """Where on the whole line a stretch lies."""
    first = min(WIDTH - 1, int(start * WIDTH))
    last = max(first + 1, min(WIDTH, round(end * WIDTH)))
    phase = "waiting" if kind in WAITING else "answer" if kind == "first_token" else "prompt"
    line = Text("·" * first, style="dim")
    line.append("█" * (last - first), style=COLORS[phase])
    return line.append("·" * (WIDTH - last), style="dim")


def span(ms: float) -> str:
    """Milliseconds for people."""
    return f"{ms / 1e3:.2f} s" if ms >= 1000 else f"{ms:.1f} ms"
