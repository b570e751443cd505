"""A whole decode step: what of it computes, what waits, and what is Python.

    python bench/step.py models/qwen3-0.6b                  a model (folder, .gguf file), 1 to 64 rows
    python bench/step.py                                    a random one of 28 thin layers, made in a temporary folder
    python bench/step.py MODEL --rows 1,8 --context 1000    rows that are 1,000 tokens long when they are timed
    python bench/step.py MODEL --quantization int8 --json step.json

How to read a line; times are medians in microseconds.

    step      one turn of the engine's core with so many rows that decode, and what it does to their text
    kernels   the sum of the tape's records, each from when its members start to when the last is done
    uneven    the part of `kernels` in which members had finished and waited for the last
    tape      what lies before and between records: waking the team, meeting at barriers; also for 28 layers' share
    rest      what is left of a turn: Python with caches that the weights have swept, and the way back from the tape
    Python    a turn with every record taken out: the same engine and sampler, on zeros for logits, from the caches. Its
              parts, below, are timed in turns of their own

The aims: at most 150 µs of Python and 60 µs of tape at 28 layers, for one row. With other programs running, members are
kept from the processor anywhere, barriers included, and no part of a line means much. A profile of single records is
written by OCTAVO_PROFILE=trace.json (docs/cpu.md).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models import SHAPES, bf16_entries, write_folder
from rich.console import Console
from rich.table import Table

from octavo import LLM, SamplingParams
from octavo.engine.executors.local import LocalExecutor
from octavo.ops.tape import Program
from octavo.platforms import native
from octavo.worker.graphs.tape import TapeModel

PYTHON_US, TAPE_US, LAYERS = 150, 60, 28  # the aims, and the depth that the second is for
SMALL = {
    "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": 2048, "max_position_embeddings": 4096,
}  # fmt: skip
PARTS = ("schedule", "launch", "sample", "result", "update", "text")


@dataclass(frozen=True)
class Line:
    """Medians in microseconds. `parts` are those of a turn without records."""

    rows: int
    step: float
    kernels: float
    uneven: float
    tape: float
    rest: float
    python: float
    parts: dict[str, float] = field(default_factory=dict)

    def tape_of(self, layers: int) -> float:
        """What the tape would cost at LAYERS layers, of a model with `layers`."""
        return self.tape * LAYERS / layers


class Engine:
    """An LLM opened for being measured."""

    def __init__(self, model: str, rows: int, context: int, steps: int, options: dict[str, Any]) -> None:
        length = context + steps + 8
        self.llm = LLM(
            model,
            use_tqdm_on_load=False,
            max_num_seqs=rows,
            max_model_len=length,
            enable_prefix_caching=False,
            **options,
        )
        self.core = self.llm._core
        executor = self.core.executor
        assert isinstance(executor, LocalExecutor) and executor._worker.runner is not None
        self.runner = executor._worker.runner
        if not isinstance(self.runner.model, TapeModel):
            raise SystemExit("this model is not recorded on a tape here: there is nothing to measure")
        self.model = self.runner.model
        self.num_layers = len(executor._worker.model.spec.blocks)
        self.context, self.steps = context, steps

    @property
    def programs(self) -> tuple[Program, Program]:
        """Of the body and of the head."""
        return self.model.body, self.model.head

    def turns(self, rows: int, note: Callable[[], None] = lambda: None) -> list[float]:
        """Seconds of each turn in which `rows` rows decode; `note` is called after each."""
        llm, outputs = self.llm, self.llm._outputs
        params = SamplingParams(max_tokens=self.steps + 4, ignore_eos=True, temperature=0)
        ids = []
        for row in range(rows):
            text, prompt = llm._inputs.ids(
                {"prompt_token_ids": [5 + (row + i) % 50 for i in range(self.context)]}, False
            )
            request, specs = llm._inputs.build(str(next(llm._requests)), text, prompt, params)
            outputs.open(request, specs)
            self.core.add(specs)
            ids.append(request.request_id)
        scheduler, times = self.core.scheduler, []
        while scheduler.waiting or any(seq.computed < seq.prompt_len for seq in scheduler.running.values()):
            outputs.push(self.core.turn())
        for _ in range(self.steps):
            started = time.perf_counter()
            outputs.push(self.core.turn())
            times.append(time.perf_counter() - started)
            note()
        self.core.abort([id for request_id in ids for id in outputs.close(request_id)])
        return times

    @contextlib.contextmanager
    def without_records(self) -> Iterator[None]:
        """The programs do nothing in here."""
        kept = [program.segments for program in self.programs]
        try:
            for program in self.programs:
                program.segments = []
            yield
        finally:
            for program, segments in zip(self.programs, kept, strict=True):
                program.segments = segments

    @contextlib.contextmanager
    def profiled(self) -> Iterator[None]:
        """The tapes note when each member began and ended each record."""
        for program in self.programs:
            program.tape.profile(True)
        try:
            yield
        finally:
            for program in self.programs:
                program.tape.profile(False)

    @contextlib.contextmanager
    def timed_parts(self) -> Iterator[dict[str, list[float]]]:
        """The seconds of each part of every turn in here."""
        runner, scheduler = self.runner, self.core.scheduler
        places: tuple[tuple[str, Any, str], ...] = (
            ("schedule", scheduler, "schedule"),
            ("launch", runner, "launch"),
            ("sample", runner, "sample"),
            ("result", runner, "result"),
            ("update", scheduler, "update"),
            ("text", self.llm._outputs, "push"),
        )
        times: dict[str, list[float]] = {name: [] for name in PARTS}
        for name, owner, method in places:
            setattr(owner, method, stopwatch(getattr(owner, method), times[name]))
        try:
            yield times
        finally:
            for _, owner, method in places:
                delattr(owner, method)  # the class's own shows again


def stopwatch(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    """The function, noting how long each call took."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        times.append(time.perf_counter() - started)
        return result

    return timed


def account(program: Program) -> tuple[float, float, float]:
    """Of a program's last run, in microseconds: in records, of that uneven, and before and between records."""
    times = program.tape.times()
    team = len(times) // max(1, 2 * len(program.tape))
    kernels = uneven = tape = end = 0.0
    for at in range(0, len(times), 2 * team):
        started, stopped = times[at : at + 2 * team : 2], times[at + 1 : at + 2 * team : 2]
        start, before, end = statistics.mean(started), end, max(stopped)
        tape += start - before
        kernels += end - start
        uneven += end - statistics.mean(stopped)
    return kernels / 1e3, uneven / 1e3, tape / 1e3


def measure(engine: Engine, rows: int) -> Line:
    """All of one line."""
    us = 1e6
    engine.turns(rows)  # warm
    with engine.without_records():
        python = statistics.median(engine.turns(rows)) * us
        with engine.timed_parts() as times:
            engine.turns(rows)
            parts = {name: statistics.median(each[-engine.steps :]) * us for name, each in times.items()}
    step = statistics.median(engine.turns(rows)) * us
    accounts: list[tuple[float, ...]] = []
    with engine.profiled():

        def note() -> None:
            both = [account(program) for program in engine.programs]
            accounts.append(tuple(sum(values) for values in zip(*both, strict=True)))

        turns = engine.turns(rows, note)
    kernels, uneven, tape = (statistics.median(values) for values in zip(*accounts, strict=True))
    rest = statistics.median(turn * us - own[0] - own[2] for turn, own in zip(turns, accounts, strict=True))
    return Line(rows, step, kernels, uneven, tape, rest, python, parts)


def show(console: Console, engine: Engine, lines: Sequence[Line]) -> None:
    """Two tables: the step, and Python's part of it."""
    records = sum(len(program.tape) for program in engine.programs)
    name, team = Path(engine.llm.model_name).name, native.team().size
    title = (
        f"{name}: {engine.num_layers} layers, {records} records, {team} threads, rows of {engine.context} tokens; µs"
    )
    table = Table(title=title, title_justify="left")
    for column in (
        "rows",
        "step",
        "kernels",
        "uneven",
        "tape",
        f"tape at {LAYERS} layers",
        "rest",
        "Python",
        "tokens/s",
    ):
        table.add_column(column, justify="right")
    for line in lines:
        at_28 = line.tape_of(engine.num_layers)
        table.add_row(
            str(line.rows),
            f"{line.step:,.0f}",
            f"{line.kernels:,.0f}",
            f"{line.uneven:,.0f}",
            f"{line.tape:,.0f}",
            judged(at_28, TAPE_US, line.rows),
            judged(line.rest, PYTHON_US, line.rows),
            judged(line.python, PYTHON_US, line.rows),
            f"{line.rows / line.step * 1e6:,.1f}",
        )
    console.print(table)
    parts = Table(title="Python, by part; µs", title_justify="left")
    for column in ("rows", *PARTS):
        parts.add_column(column, justify="right")
    for line in lines:
        parts.add_row(str(line.rows), *(f"{line.parts[name]:,.0f}" for name in PARTS))
    console.print(parts)


def judged(value: float, aim: float, rows: int) -> str:
    """The value, colored where there is an aim for it."""
    color = "" if rows != 1 else "[green]" if value <= aim else "[red]"
    return f"{color}{value:,.0f}"


def make_small(folder: Path) -> Path:
    """A random checkpoint of LAYERS thin layers, whose records take no longer than barriers."""
    config = {**SHAPES["qwen3-0.6b"], **SMALL, "num_hidden_layers": LAYERS}
    path = folder / "thin"
    write_folder(path, config, bf16_entries(config, 0), lambda _: None)
    return path


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", nargs="?", help="default: a small random one")
    rows = [1, 2, 4, 8, 16, 32, 64]
    add("--rows", type=lambda text: [int(part) for part in text.split(",")], default=rows, metavar="N,…")
    add("--context", type=int, default=64, metavar="N", help="tokens of each row's prompt (default: %(default)s)")
    add("--steps", type=int, default=64, metavar="N", help="steps per measurement (default: %(default)s)")
    add("--quantization", choices=["int8", "int4"], help="as of octavo serve")
    add("--kv-cache-dtype", default="auto", help="as of octavo serve")
    add("--kv-cache-memory-bytes", type=int, metavar="BYTES", help="as of octavo serve")
    add("--threads", type=int, metavar="N", help="default: one per usable core")
    add("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if min(args.rows) < 1 or args.steps < 1 or args.context < 1:
        parser.error("--rows, --steps and --context are at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    console = Console(width=None if os.isatty(1) else 130)
    options: dict[str, Any] = {"kv_cache_dtype": args.kv_cache_dtype}
    for name in ("quantization", "kv_cache_memory_bytes"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    if args.threads:
        options["cpu_threads"] = args.threads
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or str(make_small(Path(folder)))
        engine = Engine(model, max(args.rows), args.context, args.steps, options)
        if os.getloadavg()[0] > 1:
            console.print(
                f"[yellow]load average {os.getloadavg()[0]:.1f}[/]: something else is running; times are too long"
            )
        lines: list[Line] = []
        with contextlib.suppress(KeyboardInterrupt), console.status("") as status:
            for rows in args.rows:
                status.update(f"{rows} rows")
                lines.append(measure(engine, rows))
        show(console, engine, lines)
    if args.json:
        report = native.report()
        about = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "cpu": report.model,
            "level": report.kernel_level,
            "threads": native.team().size,
            "model": engine.llm.model_name,
            "layers": engine.num_layers,
        }
        args.json.write_text(json.dumps({**about, "lines": [asdict(line) for line in lines]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
