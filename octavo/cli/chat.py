"""`octavo chat`: talk to a model in the terminal, opened here or on a server."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import aclosing

from rich.console import Console

from octavo.cli import flags, talk

HELP = "/new starts over, /stats shows speed, /quit leaves; Ctrl-C stops an answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Chat flags; engine flags apply when the model is opened here."""
    flags.add_model(parser)
    parser.add_argument("-q", "--quick", metavar="TEXT", help="ask one thing, print the answer, leave")
    parser.add_argument("--system-prompt", metavar="TEXT", help="what the model is told first")
    parser.add_argument("--stats", action="store_true", help="show speed after every answer")
    talk.add_arguments(parser)
    flags.add_engine(parser, skip=("seed",))


def run(args: argparse.Namespace) -> int:
    """One question, or a conversation."""
    return asyncio.run(converse(args))


async def converse(args: argparse.Namespace) -> int:
    """Open the model and talk until the person leaves."""
    answerer = await talk.answerer(args, None if args.url else flags.engine_config(args))
    messages = [{"role": "system", "content": args.system_prompt}] if args.system_prompt else []
    try:
        if args.quick is not None:
            await answer(answerer, [*messages, {"role": "user", "content": args.quick}], args)
        elif not sys.stdin.isatty():
            await answer(answerer, [*messages, {"role": "user", "content": sys.stdin.read()}], args)
        else:
            await talk_on(answerer, messages, args)
    finally:
        await answerer.close()
    return 0


async def talk_on(answerer: talk.Answerer, start: list[dict[str, str]], args: argparse.Namespace) -> None:
    """Read lines and answer them until /quit or the end of input."""
    console = Console()
    console.print(f"[bold]{answerer.name}[/bold]  [dim]{HELP}[/dim]", highlight=False)
    messages = list(start)
    while True:
        try:
            line = (await asyncio.to_thread(input, "> ")).strip()
        except (EOFError, KeyboardInterrupt, asyncio.CancelledError):
            console.print()
            return
        if line == "/quit":
            return
        if line == "/new":
            messages = list(start)
        elif line == "/stats":
            args.stats = not args.stats
        elif line.startswith("/"):
            console.print(f"[dim]{HELP}[/dim]", highlight=False)
        elif line:
            messages.append({"role": "user", "content": line})
            reply = await answer(answerer, messages, args)
            messages.append({"role": "assistant", "content": reply})


async def answer(answerer: talk.Answerer, messages: list[dict[str, str]], args: argparse.Namespace) -> str:
    """Stream one answer to the terminal; returns it."""
    started, first, parts = time.monotonic(), 0.0, []
    async with aclosing(answerer.chat(messages, talk.wish(args))) as pieces:
        async for piece in pieces:
            first = first or time.monotonic()
            parts.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")
    if args.stats:
        took = time.monotonic() - started
        Console(stderr=True).print(
            f"[dim]first piece {first - started:.2f} s, {len(parts)} pieces in {took:.2f} s[/dim]", highlight=False
        )
    return "".join(parts)
