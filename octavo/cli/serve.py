"""`octavo serve`: serve a model over an OpenAI-compatible HTTP API."""

from __future__ import annotations

import argparse

from octavo import log
from octavo.cli import flags
from octavo.config import ServerConfig
from octavo.serve.run import run_server

logger = log.get(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Engine and server flags."""
    flags.add_model(parser)
    flags.add_group(parser, ServerConfig, ("chat_template",))
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    server = flags.server_config(args)
    if args.log_level is not None:
        log.configure(args.log_level.upper())
    return run_server(flags.engine_config(args), server)
