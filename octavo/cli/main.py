"""`octavo`: parse the command line and run one command. Errors are one line, exit code 1 (2 for a bad flag)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from octavo import __version__, log
from octavo.cli import bench, chat, collect_env, complete, flags, serve
from octavo.errors import OctavoError

COMMANDS = {
    "serve": serve,
    "chat": chat,
    "complete": complete,
    "bench": bench,
    "collect-env": collect_env,
}

DESCRIPTION = "octavo: inference and serving of large language models, on any machine."

EPILOG = """\
try:
  octavo chat                      talk to the embedded model, no download
  octavo serve                     an OpenAI-compatible server on http://127.0.0.1:8000
  octavo serve Qwen/Qwen3-0.6B     the same with a model from the Hugging Face hub, or from a folder
  octavo COMMAND --help            every flag, with what it means
"""


class Parser(argparse.ArgumentParser):
    """Prints one line on a mistake, with where to look, instead of the whole usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(prog="octavo", description=DESCRIPTION, epilog=EPILOG, formatter_class=flags.Formatter)
    top.add_argument("-v", "--version", action="version", version=f"octavo {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").split(":", 1)[1].strip().splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary, formatter_class=flags.Formatter)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    top = parser()
    args = top.parse_args(argv)
    if args.command is None:
        top.print_help()
        return 0
    log.configure()
    try:
        return args.run(args)
    except OctavoError as error:
        sys.stderr.write(f"octavo {args.command}: {error.message}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `octavo … | head`
        sys.stderr.close()
        return 141


def script() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    script()
