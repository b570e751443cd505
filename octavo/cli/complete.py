"""`octavo complete`: continue a text in the terminal, with a model opened here or on a server."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

from octavo.cli import flags, talk, terminal
from octavo.errors import OctavoError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Completion flags; engine flags apply when the model is opened here."""
    flags.add_model(parser)
    parser.add_argument(
        "-q", "--quick", metavar="TEXT", help="continue this text, print, leave; default: standard input"
    )
    talk.add_arguments(parser)
    flags.add_engine(parser, skip=("seed",))


def run(args: argparse.Namespace) -> int:
    """Continue one text, or each line that is typed."""
    config = None if args.url else flags.engine_config(args)
    with terminal.Beside() as beside:
        answerer = beside.run(talk.answerer(args, config))
        try:
            if args.quick is not None or not sys.stdin.isatty():
                text = args.quick if args.quick is not None else sys.stdin.read()
                beside.run(terminal.stream(answerer.complete(text, wish(args)), []))
            else:
                continue_lines(beside, answerer, args)
        finally:
            beside.run(answerer.close())
    return 0


def continue_lines(beside: terminal.Beside, answerer: talk.Answerer, args: argparse.Namespace) -> None:
    """Continue each line until the end of input; Ctrl-C stops an answer."""
    console = Console()
    while (line := terminal.ask()) is not None:
        if line:
            try:
                beside.run(terminal.stream(answerer.complete(line, wish(args)), []))
            except KeyboardInterrupt:
                console.print("\n[dim](stopped)[/dim]", highlight=False)
            except OctavoError as error:
                console.print(f"[red]{escape(error.message)}[/red]", highlight=False)


def wish(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters, with an end."""
    return {"max_tokens": 128, **talk.wish(args)}
