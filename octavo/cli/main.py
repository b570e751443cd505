"""`octavo`: parse the command line and run one command. Errors are one line, exit code 1 (2 for a bad flag)."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import signal
import sys
from collections.abc import Generator, Sequence
from importlib import import_module

from octavo import __version__, log
from octavo.cli import flags
from octavo.errors import OctavoError

# A command's module is imported when it is the one to run: `octavo --version` must not wait for a web framework.
COMMANDS = {
    "serve": "serve a model over an OpenAI-compatible HTTP API",
    "chat": "talk to a model in the terminal, opened here or on a server",
    "complete": "continue a text in the terminal, with a model opened here or on a server",
    "run-batch": "answer a file of requests, one a line, without a server",
    "bench": "measure latency, throughput, or a running server",
    "keys": "make an API key, or check a file of them",
    "timeline": "tell what happened to a request to a running server, and why it waited",
    "collect-env": "say what this machine and installation are, for a bug report",
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
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, 1)
        if message.startswith("unrecognized") and near:
            self.exit(2, f"{self.prog}: there is no flag {unknown}; did you mean {near[0]}?\n")
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def top_parser() -> argparse.ArgumentParser:
    """The command line down to the command's name."""
    top = Parser(
        prog="octavo", usage="octavo COMMAND [FLAGS]", description=DESCRIPTION, formatter_class=flags.Formatter
    )
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    top.epilog = f"commands:\n{listing}\n\n{EPILOG}"
    top.add_argument("-v", "--version", action="version", version=f"octavo {__version__}")
    top.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    top.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return top


def command_parser(name: str) -> argparse.ArgumentParser:
    """The flags of one command."""
    module = import_module(f"octavo.cli.{name.replace('-', '_')}")
    summary = COMMANDS[name]
    usages = {
        "bench": "octavo bench KIND [MODEL] [FLAGS]",
        "collect-env": None,
        "keys": "octavo keys ACTION",
        "timeline": "octavo timeline URL [ID] [FLAGS]",
    }
    usage = usages.get(name, f"octavo {name} [MODEL] [FLAGS]")
    parser = Parser(
        prog=f"octavo {name}",
        usage=usage,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=flags.Formatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    top = top_parser()
    chosen = top.parse_args(argv)
    if chosen.command is None:
        top.print_help()
        return 0
    if chosen.command not in COMMANDS:
        near = difflib.get_close_matches(chosen.command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"commands are {', '.join(COMMANDS)}"
        top.exit(2, f"octavo: there is no command {chosen.command!r}; {hint}\n")
    try:
        with ended_by_interrupts():
            args = command_parser(chosen.command).parse_args(flags.dashed(chosen.rest))
        log.configure()
        return args.run(args)
    except OctavoError as error:
        sys.stderr.write(f"octavo {chosen.command}: {error.message}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `octavo … | head`
        sys.stderr.close()
        return 141


@contextlib.contextmanager
def ended_by_interrupts() -> Generator[None]:
    """Let Ctrl-C end the process where it stands: a KeyboardInterrupt inside a native module's import may crash it."""
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if raises:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def script() -> None:
    """The console script."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not interrupt the interpreter's own end
    sys.exit(code)


if __name__ == "__main__":
    script()
