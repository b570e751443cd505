"""`octavo run-batch`: answer a file of requests, one a line, without a server."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from octavo.cli import flags
from octavo.config import EngineConfig, ServerConfig
from octavo.engine.async_llm import AsyncLLM
from octavo.errors import StartupError
from octavo.metrics import Metrics
from octavo.serve.batches.file import answer_file, check_file
from octavo.serve.batches.store import Counts
from octavo.serve.service import Service


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files and engine flags."""
    flags.add_model(parser)
    parser.add_argument(
        "-i",
        "--input-file",
        required=True,
        metavar="FILE",
        help='requests as JSON lines: {"custom_id", "method": "POST", "url", "body"}; - is standard input',
    )
    parser.add_argument(
        "-o",
        "--output-file",
        required=True,
        metavar="FILE",
        help="answers as JSON lines, in the order they come; a run that was cut off goes on where it was",
    )
    parser.add_argument("--served-model-name", nargs="+", metavar="NAME", help="names that lines may call the model by")
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Answer every line; 0 when each has an outcome, of whatever kind."""
    config = flags.engine_config(args)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(args.input_file)
        if args.input_file == "-":
            source = Path(folder) / "input"
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        if not source.is_file():
            raise StartupError(f"there is no file {args.input_file}; --input-file names the requests", "input_file")
        return asyncio.run(answer_all(args, config, source, check_file(source, config.limits)))


async def answer_all(args: argparse.Namespace, config: EngineConfig, source: Path, counts: Counts) -> int:
    """Open the model, answer, say how it went."""
    console = Console(stderr=True, highlight=False)
    llm = AsyncLLM.launch(config)
    try:
        await llm.ready()
        server = ServerConfig(served_model_name=tuple(args.served_model_name or ()))
        service = Service(llm, server, Metrics(llm.model_name), config.limits)
        columns = (TextColumn("lines"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task("lines", total=counts.total)
            show = partial(show_lines, bars, bar)
            await answer_file(service, source, Path(args.output_file), counts, show)
    finally:
        await llm.shutdown()
    before = counts.total - counts.completed - counts.failed
    earlier = f" ({before} by an earlier run)" if before else ""
    console.print(f"{counts.total} lines answered{earlier}, {counts.failed} with an error: {args.output_file}")
    return 0


def show_lines(bars: Progress, bar: TaskID, done: int, total: int) -> None:
    """So many lines have an outcome."""
    bars.update(bar, completed=done, total=total)
