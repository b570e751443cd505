"""`octavo complete`: continue a text in the terminal, with a model opened here or on a server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import aclosing

from octavo.cli import flags, talk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Completion flags; engine flags apply when the model is opened here."""
    flags.add_model(parser)
    parser.add_argument("-q", "--quick", metavar="TEXT", help="continue this text, print, leave; default: standard input")
    talk.add_arguments(parser)
    flags.add_engine(parser, skip=("seed",))


def run(args: argparse.Namespace) -> int:
    """Continue one text, or each line that is typed."""
    return asyncio.run(complete(args))


async def complete(args: argparse.Namespace) -> int:
    """Open the model and continue what is given."""
    answerer = await talk.answerer(args, None if args.url else flags.engine_config(args))
    try:
        if args.quick is not None or not sys.stdin.isatty():
            await continue_text(answerer, args.quick if args.quick is not None else sys.stdin.read(), args)
            return 0
        while True:
            try:
                line = await asyncio.to_thread(input, "> ")
            except (EOFError, KeyboardInterrupt, asyncio.CancelledError):
                return 0
            if line:
                await continue_text(answerer, line, args)
    finally:
        await answerer.close()


async def continue_text(answerer: talk.Answerer, prompt: str, args: argparse.Namespace) -> None:
    """Stream the prompt's continuation."""
    wish = {"max_tokens": 128, **talk.wish(args)}
    async with aclosing(answerer.complete(prompt, wish)) as pieces:
        async for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")
