"""Engines in processes of their own (worker.py): started, asked, and stopped when memory runs out."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.rows import Variant
from comparison.workloads import Batch

WORKER = Path(__file__).with_name("worker.py")
START_LIMIT_S, RUN_LIMIT_S = 600, 1800
FREE_BYTES = 10 * 2**30  # wanted before another engine loads; until then the longest unused one is stopped


class EngineFailed(Exception):
    """A worker ended, answered wrongly or not in time; the message says what it printed last."""


class Worker:
    """One loaded engine, stopped between its runs: some keep cores busy when they have nothing to do.

    `about` is its version and weight_bytes; close() ends it and its children.
    """

    def __init__(self, variant: Variant, python: str, model: Path, options: Mapping[str, Any], log: Path) -> None:
        self.name, self._log = variant.name, log
        settings = json.dumps({"model": str(model), "options": options})
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [python, WORKER, variant.engine, settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(variant.engine, python),
                start_new_session=True,  # Ctrl-C is the driver's; close() reaches every child
            )
        try:
            self.about = self._answer(START_LIMIT_S)
        except BaseException:  # interrupted while it loads: nobody else knows of it yet
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def run(self, kind: str, batches: Sequence[Batch]) -> list[float]:
        """Seconds of each batch; EngineFailed when an answer is shorter or longer than asked."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it died: _answer says why
            self._process.stdin.write(json.dumps({"kind": kind, "batches": batches}).encode() + b"\n")
            self._process.stdin.flush()
        result = self._answer(RUN_LIMIT_S)
        self._signal(signal.SIGSTOP)
        wanted = [[count for _, count in batch] for batch in batches]
        if result["counts"] != wanted:
            raise EngineFailed(
                f"{self.name} on {kind}: generated {result['counts']} tokens where {wanted} were asked for"
            )
        return result["seconds"]

    def close(self) -> None:
        """End the process group, children included: first by closing its input, then by force. Twice is harmless."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=8)  # the worker kills itself after five
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], limit_s)
        line = self._process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        self.close()
        what = "ended" if ready else f"did not answer within {limit_s} s"
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
        raise EngineFailed(f"{self.name} {what}; its last lines ({self._log}):\n{tail}")


class EnginePool:
    """The engines that are loaded, as many as memory allows. `pythons` says with which Python each engine runs."""

    def __init__(self, pythons: Mapping[str, str], logs: Path, say: Callable[[str], None]) -> None:
        self._pythons, self._logs, self._say = pythons, logs, say
        self._workers: dict[str, Worker] = {}  # in order of use

    def get(self, variant: Variant, model: Path, keep: Sequence[str]) -> Worker:
        """The worker of a variant, loaded when it is not there; the ones named in `keep` stay."""
        worker = self._workers.pop(variant.name, None)
        if worker is None:
            for name in [name for name in self._workers if name not in keep]:
                if free_bytes() >= FREE_BYTES:
                    break
                self._workers.pop(name).close()
            self._say(f"{variant.name}: loading")
            python = self._pythons.get(variant.engine, sys.executable)
            log = self._logs / f"{variant.engine}-{variant.label}.log"
            worker = Worker(variant, python, model, variant.options, log)
        self._workers[variant.name] = worker
        return worker

    def drop(self, name: str) -> None:
        """Stop one that failed."""
        if name in self._workers:
            self._workers.pop(name).close()

    def close(self) -> None:
        for name in list(self._workers):
            self.drop(name)


def environment(engine: str, python: str) -> dict[str, str]:
    """The worker's environment: no network, and for vLLM's CPU wheel the libraries and cores it must be told."""
    env = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONSAFEPATH": "1",
    }  # our files shadow nothing
    if engine == "vllm":
        cores = sorted(os.sched_getaffinity(0))
        env.setdefault("VLLM_NO_USAGE_STATS", "1")
        env.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
        env.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
        libraries = [*Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"), Path(python).parents[1] / "lib/libiomp5.so"]
        env.setdefault("LD_PRELOAD", ":".join(str(path) for path in libraries if path.exists()))
    return env


def free_bytes() -> int:
    """MemAvailable."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
