"""How much of the host's memory this process may use: the machine's, or its control groups' when they allow less."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes this process may use on a device: in all, and free right now."""

    total_bytes: int
    free_bytes: int


def memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> Memory:
    """The host's memory as this process may use it: the least the machine and every enclosing control group allow."""
    machine = _machine(proc)
    levels = [machine, *(_group(folder) for folder in _folders(proc, cgroups))]
    found = [level for level in levels if level is not None]
    total = min(level.total_bytes for level in found)
    return Memory(total, max(0, min(total, *(level.free_bytes for level in found))))


def resident_bytes(proc: Path = PROC) -> int:
    """RAM this process takes now, shared libraries and mapped files included; 0 where /proc does not say."""
    fields = _read(proc / "self" / "statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def release_code(proc: Path = PROC) -> None:
    """Let go of the code that only the import of libraries ran: it is in the system's cache, and comes when run."""
    try:
        madvise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):
        return
    for start, stop in unchanged_code(_read(proc / "self" / "smaps")):
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)


def unchanged_code(smaps: str) -> Iterator[tuple[int, int]]:
    """Where files are mapped as code of which no page was written to, [start, stop), by /proc/PID/smaps."""
    code: tuple[int, int] | None = None
    for line in smaps.splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            start, _, stop = words[0].partition("-")
            is_code = words[1] == "r-xp" and len(words) > 5 and words[5].startswith("/")
            code = (int(start, 16), int(stop, 16)) if is_code else None
        elif words[0] == "Anonymous:" and words[1] == "0" and code is not None:
            yield code


def _machine(proc: Path) -> Memory:
    """MemTotal and MemAvailable; without /proc, all physical memory."""
    lines = (line.split() for line in _read(proc / "meminfo").splitlines())
    kib = {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    if "MemTotal:" in kib:
        total = kib["MemTotal:"] * 1024
        return Memory(total, kib.get("MemAvailable:", kib.get("MemFree:", 0)) * 1024)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Memory(total, total)


def _folders(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The folders of this process's memory control group and of those around it, version 2 and version 1."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            roots = [cgroups, cgroups / "unified"]
        elif "memory" in controllers.split(","):
            roots = [cgroups / "memory"]
        else:
            continue
        # Inside a container the path may be the host's and not mounted here; the root then is the container's group.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        yield from (root.joinpath(*parts[:depth]) for root in roots for depth in range(len(parts), -1, -1))


def _group(folder: Path) -> Memory | None:
    """A control group's limit, and what of it is neither used nor file cache; None when it sets no limit."""
    for limit_name, used_name, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        limit, used = _read(folder / limit_name).strip(), _read(folder / used_name).strip()
        if not limit.isdigit():  # "max", or no such file
            continue
        stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines() if len(line.split()) == 2)
        # The kernel takes file cache back before it refuses memory: mapped weights count as used and are not.
        cache = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        taken = max(0, int(used) - cache) if used.isdigit() else 0
        return Memory(int(limit), max(0, int(limit) - taken))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
