"""The suites of tests that run on the GPU, as pytest command lines."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass

OUTCOMES = "GPU_CHECK_OUTCOMES"  # the variable that names the file in which telling.py writes
SANITIZER = "compute-sanitizer"
PROCESSES = 6  # side by side on one GPU: each has a context and compiles kernels of its own


@dataclass(frozen=True)
class Suite:
    """Paths below the repository, pytest's -m and -k; `rehearsed` is what a rehearsal runs of it, a test or two."""

    paths: tuple[str, ...]
    rehearsed: tuple[str, ...]
    markers: str = "not slow"
    keywords: str = ""
    is_sanitized: bool = False


SUITES: Mapping[str, Suite] = {
    # What only compiles does so on any machine.
    "test-kernels": Suite(
        ("tests/gpu/test_ops.py", "tests/ops", "tests/attention"),
        ("tests/ops/test_ops.py::test_every_op_has_a_formula_and_a_name_in_the_namespace",),
        keywords="not compiled",
    ),
    "test-engine": Suite(
        ("tests/gpu/test_engine.py", "tests/models/test_engine.py", "tests/worker/test_graphs.py", "tests/platforms"),
        ("tests/gpu/test_engine.py::test_two_steps_in_flight_tell_what_one_does",),
    ),
    "test-sanitizer": Suite(
        ("tests/gpu",),
        ("tests/gpu/test_ops.py::test_an_ops_smallest_case_stays_within_its_tensors[rms_norm]",),
        markers="sanitized",
        is_sanitized=True,
    ),
}


def missing(suite: Suite, is_rehearsal: bool) -> str | None:
    """Why a suite cannot run here; None when it can."""
    if importlib.util.find_spec("pytest") is None:
        return "pytest is not installed"
    if suite.is_sanitized and not is_rehearsal and shutil.which(SANITIZER) is None:
        return f"{SANITIZER} is not on this machine"
    return None


def command(suite: Suite, is_rehearsal: bool) -> list[str]:
    """The command line of a suite, from the repository's folder."""
    # The project's own options ask for plugins that need not be there, and leave out what needs a GPU.
    line = [sys.executable, "-m", "pytest", "-o", "addopts=", "-o", "minversion=8", "--import-mode=importlib", "-q"]
    line += ["-p", "gpu.telling", "-p", "no:cacheprovider"]
    if is_rehearsal:
        return [*line, *suite.rehearsed]
    line += ["-m", suite.markers, *suite.paths]
    if suite.keywords:
        line += ["-k", suite.keywords]
    if suite.is_sanitized:
        return [SANITIZER, "--tool", "memcheck", "--error-exitcode", "99", "--target-processes", "all", *line]
    if importlib.util.find_spec("xdist") is not None:
        line += ["-n", str(PROCESSES)]
    return line


def environment(suite: Suite) -> dict[str, str]:
    """Variables that a suite needs."""
    # Each tensor an allocation of its own, so that what lies behind it is nobody's.
    return {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if suite.is_sanitized else {}
