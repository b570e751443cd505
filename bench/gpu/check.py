"""octavo on this machine's GPU: tests, then figures, each part in a process of its own; a table and a JSON file.

    scripts/gpu_check                              everything, within 8 minutes
    scripts/gpu_check --only large,small           some parts; the JSON file keeps what it has of the others
    scripts/gpu_check --resume                     what the JSON file has no good result of, at this commit
    scripts/gpu_check --minutes 20                 with more time for each part
    scripts/gpu_check --rehearse                   the same code on a CPU, with tiny shapes: figures mean nothing

It needs torch, triton, transformers and this folder, in place. What else is missing can be carried along:

    {carry}

A part that fails, hangs or is killed loses what it had not told yet and nothing else. The exit status is 1 when a test
or a part fails, 2 when nothing could run, and 0 otherwise, whatever the figures are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpu import environment, suites, table
from gpu.environment import ROOT
from gpu.parts import MINUTES, PARTS, Part
from gpu.suites import OUTCOMES

CHILD = "gpu.child"
TAIL = 6000  # characters of a part's output that are kept
MOST_SHARES = 3.0
LEAST_S = 3.0  # less time than this is none
REHEARSED_S = 240.0  # for each part, on a machine that may have other work
REHEARSED_AT_ONCE = 2
NO_GPU = "gpu_check: no NVIDIA GPU here (nvidia-smi lists none); --rehearse runs the same code on the CPU"

Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen parts; returns the exit status."""
    args = options(arguments)
    packages = args.packages.resolve()
    if packages.is_dir():
        sys.path.append(str(packages))
    if not args.rehearse and not environment.has_gpu():
        print(NO_GPU, file=sys.stderr)
        return 2
    if missing := environment.lacking(environment.NEEDED):
        print(f"gpu_check: {', '.join(missing)} cannot be imported; carry what is missing:", file=sys.stderr)
        print(f"    {environment.CARRY}", file=sys.stderr)
        return 2
    if missing := environment.lacking(environment.FOR_SOME):
        print(f"gpu_check: without {', '.join(missing)}; parts that need them will fail", file=sys.stderr)
    report = begin(args)
    for part, result in run(args, chosen(args, report), packages):
        report["parts"][part.name] = result
        write(args.json, report)
        print(table.progress(part.name, result), flush=True)
    table.show(report, [part.name for part in PARTS])
    print(f"written to {args.json}")
    return int(any(result["state"] in ("failed", "crashed", "timed out") for result in report["parts"].values()))


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    described = (__doc__ or "").format(carry=environment.CARRY)
    described += "\nparts: " + "\n       ".join(f"{part.name:16}{part.title}" for part in PARTS)
    parser = argparse.ArgumentParser(
        "gpu_check", description=described, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="PARTS", help="run these, with commas between")
    parser.add_argument("--resume", action="store_true", help="leave out what went well at this commit")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny shapes")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything; default: %(default)g")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="the report; default: %(default)s")
    parser.add_argument("--packages", type=Path, default=ROOT / ".gpu-packages", help="folder of carried packages")
    args = parser.parse_args(arguments)
    names = [part.name for part in PARTS]
    unknown = sorted(set(args.only.split(",")) - set(names)) if args.only else []
    if unknown:
        parser.error(f"--only: there is no part {', '.join(unknown)}; there are {', '.join(names)}")
    return args


def begin(args: argparse.Namespace) -> dict[str, Any]:
    """A new report, with the parts of the JSON file that are of the same commit, machine and kind."""
    report = {**environment.describe(), "is_rehearsal": args.rehearse, "parts": {}}
    same = ("commit", "gpus", "is_rehearsal", "packages")
    if (args.only or args.resume) and args.json.exists():
        old = json.loads(args.json.read_text())
        if all(old.get(name) == report[name] for name in same):
            report["parts"] = old["parts"]
    return report


def chosen(args: argparse.Namespace, report: Mapping[str, Any]) -> list[Part]:
    """The parts to run."""
    wanted = args.only.split(",") if args.only else [part.name for part in PARTS]
    done = {name for name, result in report["parts"].items() if args.resume and result["state"] == "ok"}
    return [part for part in PARTS if part.name in wanted and part.name not in done]


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Replace the report at once, so that what was there is never lost to a half written file."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(report, indent=1))
    part.replace(path)


def run(args: argparse.Namespace, parts: Sequence[Part], packages: Path) -> Iterator[tuple[Part, Result]]:
    """Each part's result. They share the time; what one leaves of it is given to those behind it."""
    if args.rehearse:
        with ThreadPoolExecutor(REHEARSED_AT_ONCE) as pool:
            yield from zip(
                parts, pool.map(lambda part: run_part(args, part, REHEARSED_S, packages), parts), strict=True
            )
        return
    deadline = time.monotonic() + 60 * args.minutes
    # Few parts have more time each, but one that hangs shall not take all of it.
    share = min(MOST_SHARES, 60 * args.minutes / max(1.0, sum(part.budget_s for part in parts)))
    spared = 0.0
    for part in parts:
        budget = part.budget_s * share + spared
        allowed = min(budget, deadline - time.monotonic())
        if allowed < LEAST_S:
            yield part, skipped("no time was left")
            continue
        started = time.monotonic()
        yield part, run_part(args, part, allowed, packages)
        spared = max(0.0, budget - (time.monotonic() - started))


def skipped(why: str) -> Result:
    return {"state": "skipped", "why": why, "seconds": 0.0}


def run_part(args: argparse.Namespace, part: Part, allowed_s: float, packages: Path) -> Result:
    """A part's result after at most `allowed_s` seconds."""
    return (run_tests if part.is_tests else run_bench)(args, part, allowed_s, packages)


def run_bench(args: argparse.Namespace, part: Part, allowed_s: float, packages: Path) -> Result:
    """A part that measures."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows"
        line = [sys.executable, "-m", CHILD, part.function, str(rows), "--until", str(time.monotonic() + allowed_s)]
        line += ["--rehearse"] * args.rehearse + ["--quick"] * args.quick
        result = run_process(line, allowed_s, surroundings(packages, args.rehearse), Path(folder))
        return {**result, "rows": read_lines(rows)}


def run_tests(args: argparse.Namespace, part: Part, allowed_s: float, packages: Path) -> Result:
    """A suite of tests: how many passed, and which did not."""
    suite = suites.SUITES[part.function]
    why = suites.missing(suite, args.rehearse)
    if why is not None:
        return skipped(why)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes"
        around = surroundings(packages, args.rehearse) | suites.environment(suite) | {OUTCOMES: str(outcomes)}
        result = run_process(suites.command(suite, args.rehearse), allowed_s, around, Path(folder))
        told = read_lines(outcomes)
    counts = {name: sum(each["outcome"] == name for each in told) for name in ("passed", "failed", "skipped")}
    failures = [{"test": each["test"], "why": each["why"]} for each in told if each["outcome"] == "failed"]
    if counts["failed"] and result["state"] == "ok":
        result["state"] = "failed"
    return {**result, "tests": counts, "failures": failures}


def surroundings(packages: Path, is_rehearsal: bool) -> dict[str, str]:
    """A part's environment: this tree in place, no hub, and kernels interpreted where there is no GPU."""
    paths = [str(ROOT / "bench"), str(ROOT)] + [str(packages)] * packages.is_dir()
    paths += filter(None, [os.environ.get("PYTHONPATH", "")])
    changed = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    changed["TRITON_INTERPRET"] = "1" if is_rehearsal else "0"
    if is_rehearsal:
        changed["CUDA_VISIBLE_DEVICES"] = ""
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | changed


def run_process(line: Sequence[str], allowed_s: float, around: Mapping[str, str], folder: Path) -> Result:
    """Run a command in the repository for at most `allowed_s` seconds; it and what it started are gone afterwards."""
    started = time.monotonic()
    with (folder / "output").open("w+b") as output:
        process = subprocess.Popen(
            line,
            cwd=ROOT,
            env=dict(around),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(allowed_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_group(process)
    tail = (folder / "output").read_text(errors="replace")[-TAIL:]
    result: Result = {"state": state_of(status), "seconds": round(time.monotonic() - started, 1)}
    if result["state"] != "ok":
        result |= {"why": why_of(status, allowed_s), "output": tail}
    return result


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of a process and of those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def state_of(status: int | None) -> str:
    if status is None:
        return "timed out"
    return "ok" if status == 0 else "crashed" if status < 0 else "failed"


def why_of(status: int | None, allowed_s: float) -> str:
    if status is None:
        return f"not done after {allowed_s:.0f} s"
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines; its last one may have been cut."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


if __name__ == "__main__":
    sys.exit(main())
