"""Host memory: the machine's, and what control groups leave of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.platforms.host import Memory, memory

GIB = 2**30


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of a machine with 64 GiB, 32 of them available."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(
        f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {32 * 2**20} kB\nHugePages_Total: 0\n"
    )
    (folder / "self" / "cgroup").write_text("")
    return folder


def group(folder: Path, limit: int | str, used: int, cache: int = 0, version: int = 2) -> None:
    """A control group's files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    prefix = "" if version == 2 else "total_"
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 1\n{prefix}inactive_file {cache // 2}\n{prefix}active_file {cache - cache // 2}\n"
    )


def test_without_control_groups_it_is_the_machines(proc: Path, tmp_path: Path) -> None:
    assert memory(proc, tmp_path / "none") == Memory(64 * GIB, 32 * GIB)


def test_the_tightest_enclosing_group_decides(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/outer/inner\n")
    group(tmp_path / "outer" / "inner", "max", 5 * GIB)
    group(tmp_path / "outer", 8 * GIB, 6 * GIB)
    group(tmp_path, 40 * GIB, 10 * GIB)
    assert memory(proc, tmp_path) == Memory(8 * GIB, 2 * GIB)


def test_file_cache_counts_as_free(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/\n")
    group(tmp_path, 8 * GIB, 7 * GIB, cache=4 * GIB)
    assert memory(proc, tmp_path) == Memory(8 * GIB, 5 * GIB)


def test_a_path_of_the_host_falls_back_to_the_containers_root(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("5:cpu:/x\n4:hugetlb,memory:/docker/abc\n0::/../..\n")
    group(tmp_path / "memory", 4 * GIB, GIB, version=1)
    assert memory(proc, tmp_path) == Memory(4 * GIB, 3 * GIB)


def test_an_unlimited_group_and_an_overfull_one(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("4:memory:/\n")
    group(tmp_path / "memory", 2**63 - 4096, GIB, version=1)
    assert memory(proc, tmp_path) == Memory(64 * GIB, 32 * GIB)
    group(tmp_path / "memory", GIB, 2 * GIB, version=1)
    assert memory(proc, tmp_path) == Memory(GIB, 0)


def test_without_proc_it_is_all_physical_memory(tmp_path: Path) -> None:
    found = memory(tmp_path, tmp_path)
    assert found.total_bytes == found.free_bytes > 2**28


def test_this_machine_says_something_sensible() -> None:
    found = memory()
    assert 2**27 < found.free_bytes <= found.total_bytes < 2**50
