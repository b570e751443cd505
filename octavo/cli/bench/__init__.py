"""`octavo bench`: measure latency, throughput, or a running server; a table for people, JSON for scripts."""

from __future__ import annotations

import argparse
from importlib import import_module

from octavo.cli import flags

KINDS = {
    "latency": "time one batch of equal requests from start to end",
    "throughput": "answer many requests as fast as possible, in this process",
    "perplexity": "predict a text, and say what rounded weights or a rounded KV cache cost in quality",
    "serve": "load a running server with timed requests and measure what its users would feel",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand per kind of measurement."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, parser_class=type(parser))
    for name, summary in KINDS.items():
        module = import_module(f"octavo.cli.bench.{name}")
        kind = kinds.add_parser(
            name,
            help=summary,
            usage=f"octavo bench {name} [FLAGS]",
            description=summary,
            formatter_class=flags.Formatter,
        )
        module.add_arguments(kind)
        kind.set_defaults(measure=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen measurement."""
    return args.measure(args)
