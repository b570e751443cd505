"""The native library: CPU report, thread team, kernels per level; and what happens without it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.platforms import native


@pytest.fixture(scope="module")
def library() -> ModuleType:
    if native.library is None:
        pytest.skip(f"the native library is not installed: {native.missing}")
    return native.library


@pytest.fixture
def any_level(library: ModuleType) -> Iterator[Callable[[str], None]]:
    before = library.kernel_level()
    yield library.use_kernel_level
    library.use_kernel_level(before)


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_library_and_the_system_report_the_same_cpu(library: ModuleType) -> None:
    report, fallback = native.report(), native._from_system()
    assert report.architecture == fallback.architecture
    assert report.level == fallback.level
    assert report.allowed_cpus == fallback.allowed_cpus
    if sys.platform == "linux":
        assert report.features == fallback.features


def test_the_report_is_consistent_with_itself() -> None:
    report = native.report()
    assert 1 <= report.usable_cores <= len(report.allowed_cpus)
    assert 1 <= report.physical_cores <= len(report.allowed_cpus)
    assert list(report.allowed_cpus) == sorted(set(report.allowed_cpus))
    assert (report.kernel_level is None) == (native.library is None)
    if report.kernel_level:
        assert report.kernel_level in report.kernel_levels
        assert report.kernel_levels[0] == "scalar"


@pytest.mark.skipif(sys.platform != "linux", reason="affinity masks are a Linux thing")
def test_cores_outside_the_affinity_mask_do_not_count() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from octavo.platforms import native; r = native.report(); print(len(r.allowed_cpus), r.usable_cores)"
    assert run_python(code).stdout.split() == ["1", "1"]


def plant(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3.0),
        ({"proc/self/cgroup": "0::/gone\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/box\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpuset:/\n1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_the_tightest_control_group_limit_counts(
    library: ModuleType, tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    assert library.cgroup_quota(plant(tmp_path, files)) == cores


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_member_runs_a_job_once(library: ModuleType, size: int) -> None:
    team = library.ThreadTeam(size)
    assert team.size == size
    assert team.calls_per_rank() == [1] * size


@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_member_passes_a_barrier_before_all_have_arrived(library: ModuleType, size: int) -> None:
    assert library.ThreadTeam(size).barrier_faults(500) == 0


def test_callers_from_several_threads_take_turns(library: ModuleType) -> None:
    team = library.ThreadTeam(3)
    results: list[list[int]] = []
    callers = [
        threading.Thread(target=lambda: results.extend(team.calls_per_rank() for _ in range(50))) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [[1, 1, 1]] * 200


@pytest.mark.skipif(sys.platform != "linux", reason="reads thread states from /proc")
def test_an_idle_team_sleeps_in_the_kernel(library: ModuleType) -> None:
    others = set(Path("/proc/self/task").iterdir())
    team = library.ThreadTeam(4)
    team.calls_per_rank()

    def states() -> list[str]:
        stats = [(task / "stat").read_text() for task in Path("/proc/self/task").iterdir() if task not in others]
        return [stat.rpartition(")")[2].split()[0] for stat in stats if "(octavo-" in stat]

    deadline = time.monotonic() + 20
    while (found := states()) != ["S"] * 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == ["S"] * 3
    del team
    assert states() == []


def test_the_interpreter_lock_is_released_while_the_team_works(library: ModuleType) -> None:
    team = library.ThreadTeam(1)
    worker = threading.Thread(target=team.barrier_ns, args=(200_000_000,))
    worker.start()
    ticks = 0
    while worker.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_to_make_its_own_team(library: ModuleType) -> None:
    code = """
import os
from octavo.platforms.native import library
team = library.ThreadTeam(2)
if os.fork() == 0:
    try:
        team.calls_per_rank()
    except RuntimeError as error:
        print(error, flush=True)
    del team
    print(library.ThreadTeam(2).calls_per_rank(), flush=True)
    os._exit(0)
os.wait()
print(team.calls_per_rank())
"""
    lines = run_python(code).stdout.splitlines()
    assert lines == [
        "this thread team belongs to the parent process; make a new one after fork()",
        "[1, 1]",
        "[1, 1]",
    ]


def test_a_process_ends_cleanly_while_teams_are_alive(library: ModuleType) -> None:
    done = run_python("from octavo.platforms.native import library as n\nteams = [n.ThreadTeam(3) for _ in range(3)]")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pinned_member_stays_on_its_cpu(library: ModuleType) -> None:
    team = library.ThreadTeam(2, pin=True)
    assert len(team.cpus) == 2
    assert set(team.cpus) <= set(native.report().allowed_cpus)
    assert library.ThreadTeam(2).cpus == []
    if sys.platform == "linux":
        team.calls_per_rank()
        tasks = {(task / "comm").read_text().strip(): int(task.name) for task in Path("/proc/self/task").iterdir()}
        assert os.sched_getaffinity(tasks["octavo-1"]) == {team.cpus[1]}
        assert tuple(sorted(os.sched_getaffinity(0))) == native.report().allowed_cpus


@pytest.mark.parametrize("size", [-1, 1025])
def test_an_impossible_team_size_is_refused(library: ModuleType, size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size} is not a number of threads; use 1 to 1024"):
        library.ThreadTeam(size)


def total(library: ModuleType, team_size: int, x: np.ndarray) -> float:
    return library.ThreadTeam(team_size).parallel_sum(x.ctypes.data, x.size)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(0, 200_000), seed=st.integers(0, 2**32 - 1), offset=st.integers(0, 3))
def test_a_sum_has_the_same_bits_on_every_level_and_team_size(length: int, seed: int, offset: int) -> None:
    library = native.library
    if library is None:
        pytest.skip(f"the native library is not installed: {native.missing}")
    x = np.random.default_rng(seed).normal(0, 1, length + offset).astype(np.float32)[offset:]
    before = library.kernel_level()
    sums = set()
    try:
        for level in library.kernel_levels():
            library.use_kernel_level(level)
            sums |= {total(library, size, x).hex() for size in (1, 2, 3)}
    finally:
        library.use_kernel_level(before)
    assert len(sums) == 1
    assert math.isclose(float.fromhex(sums.pop()), math.fsum(x.tolist()), abs_tol=1e-5 * (1 + float(np.abs(x).sum())))


def test_whole_numbers_are_summed_exactly(library: ModuleType, any_level: Callable[[str], None]) -> None:
    x = np.arange(300_000, dtype=np.float32) % 7
    for level in library.kernel_levels():
        any_level(level)
        assert total(library, 2, x) == int(x.sum(dtype=np.int64))


def test_levels_ascend_and_the_highest_is_the_default(library: ModuleType) -> None:
    levels = library.kernel_levels()
    order = ["scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"]
    assert all(order.index(lower) < order.index(higher) for lower, higher in pairwise(levels))
    done = run_python("from octavo.platforms.native import report; print(report().kernel_level)", OCTAVO_ISA="")
    assert done.stdout.strip() == levels[-1]


def test_a_lower_level_can_be_forced_and_an_unknown_one_is_named(library: ModuleType) -> None:
    code = "from octavo.platforms.native import report; print(report().kernel_level)"
    assert run_python(code, OCTAVO_ISA="scalar").stdout.strip() == "scalar"
    last = run_python(code, OCTAVO_ISA="mmx").stderr.splitlines()[-1]
    assert "OCTAVO_ISA: kernel level 'mmx' does not run here; use one of scalar" in last


def test_without_the_library_the_report_comes_from_the_system_with_one_warning() -> None:
    code = """
import sys
sys.modules["octavo._native"] = None
from octavo.platforms import native
report = native.report()
assert native.report() is report
print(report.kernel_levels, report.usable_cores >= 1)
"""
    done = run_python(code)
    assert done.stdout.strip() == "() True"
    assert done.stderr.count("no native library") == 1
