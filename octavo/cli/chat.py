"""`octavo chat`: talk to a model in the terminal, opened here or on a server."""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.markup import escape

from octavo.cli import flags, talk, terminal
from octavo.errors import OctavoError

HELP = "/new starts over, /stats shows speed, /quit leaves; Ctrl-C stops an answer"
POCKET = "is the small demo model inside octavo. For a real one: [bold]octavo chat Qwen/Qwen3-0.6B[/bold]"


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
    config = None if args.url else flags.engine_config(args)
    start = [{"role": "system", "content": args.system_prompt}] if args.system_prompt else []
    with terminal.Beside() as beside:
        answerer = beside.run(talk.answerer(args, config))
        try:
            if args.quick is not None or not sys.stdin.isatty():
                question = args.quick if args.quick is not None else sys.stdin.read()
                answer(beside, answerer, [*start, {"role": "user", "content": question}], args, [])
            else:
                converse(beside, answerer, start, args)
        finally:
            beside.run(answerer.close())
    return 0


def converse(
    beside: terminal.Beside, answerer: talk.Answerer, start: list[dict[str, str]], args: argparse.Namespace
) -> None:
    """Read lines and answer them until /quit or the end of input."""
    console = Console()
    if not (args.url or args.model_tag or args.model_flag):
        console.print(f"[bold]{escape(answerer.name)}[/bold] {POCKET}\n[dim]{HELP}[/dim]", highlight=False)
    else:
        console.print(f"[bold]{escape(answerer.name)}[/bold]  [dim]{HELP}[/dim]", highlight=False)
    messages = list(start)
    while (line := terminal.ask()) is not None and line != "/quit":
        if line == "/new":
            messages = list(start)
        elif line == "/stats":
            args.stats = not args.stats
            console.print(f"[dim]speed is {'shown' if args.stats else 'hidden'}[/dim]", highlight=False)
        elif line.startswith("/"):
            console.print(f"[dim]{HELP}[/dim]", highlight=False)
        elif line:
            asked = [*messages, {"role": "user", "content": line}]
            parts: list[str] = []
            try:
                answer(beside, answerer, asked, args, parts)
            except KeyboardInterrupt:
                console.print("\n[dim](stopped)[/dim]", highlight=False)
            except OctavoError as error:
                console.print(f"[red]{escape(error.message)}[/red]", highlight=False)
                continue  # the question is not part of the conversation
            messages = [*asked, {"role": "assistant", "content": "".join(parts)}]


def answer(
    beside: terminal.Beside,
    answerer: talk.Answerer,
    messages: list[dict[str, str]],
    args: argparse.Namespace,
    parts: list[str],
) -> None:
    """Stream one answer to the terminal, and into `parts`."""
    started = time.monotonic()
    first_s = beside.run(terminal.stream(answerer.chat(messages, talk.wish(args)), parts))
    if args.stats:
        took = time.monotonic() - started
        Console(stderr=True).print(
            f"[dim]first piece {first_s:.2f} s, {len(parts)} pieces in {took:.2f} s[/dim]", highlight=False
        )
