"""`octavo bench`: measure latency, throughput, or a running server; a table for people, JSON for scripts."""

from __future__ import annotations

import argparse

from octavo.cli import flags
from octavo.cli.bench import latency, serve, throughput

KINDS = {"latency": latency, "throughput": throughput, "serve": serve}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand per kind of measurement."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, parser_class=type(parser))
    for name, module in KINDS.items():
        summary = (module.__doc__ or "").split(":", 1)[1].strip().splitlines()[0]
        kind = kinds.add_parser(name, help=summary, description=summary, formatter_class=flags.Formatter)
        module.add_arguments(kind)
        kind.set_defaults(measure=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen measurement."""
    return args.measure(args)
