"""The native library's one importer: whether it is there, and what it (or else the system) says about the CPU."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from octavo import env, log
from octavo.errors import StartupError

library: ModuleType | None
missing = ""  # why the library could not be imported
try:
    from octavo import _native as library
except ImportError as error:
    library, missing = None, str(error)

_log = log.get(__name__)

# Objects of the native library, whose fields octavo/_native.pyi describes.
Team = Any
Tape = Any
Step = Any
PackedWeight = Any

# /proc/cpuinfo's spelling, where it differs from ours
_LINUX_NAMES = {"asimd": "neon", "asimddp": "dotprod", "avx512vbmi": "avx512_vbmi"}
_LEVELS = (  # ascending; a level also needs the features of those below it
    ("avx2", {"avx2", "fma", "f16c"}),
    ("avx512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    ("avx512_vnni", {"avx512_vnni"}),
    ("avx512_bf16", {"avx512_bf16"}),
    ("amx", {"amx_tile", "amx_int8", "amx_bf16"}),
)
_OTHER_FEATURES = {"avx512_fp16", "avx512_vbmi", "avx_vnni", "bf16", "dotprod", "i8mm", "neon", "sve"}
_FEATURES = _OTHER_FEATURES.union(*(needs for _, needs in _LEVELS))


@dataclass(frozen=True)
class CpuReport:
    """What the CPU is and how much of it this process may use. Sizes in bytes, 0: unknown."""

    architecture: str
    model: str
    features: frozenset[str]
    level: str  # highest instruction-set level of the CPU
    kernel_levels: tuple[str, ...]  # compiled levels that run here, lowest first; empty without the native library
    kernel_level: str | None  # the one in use
    allowed_cpus: tuple[int, ...]
    physical_cores: int  # among the allowed CPUs
    quota_cores: float | None  # control groups' limit; None: unlimited
    usable_cores: int  # threads worth starting
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int


@cache
def report() -> CpuReport:
    """This machine's report, read once, after OCTAVO_ISA is applied; StartupError if that level does not run here."""
    if library is None:
        _log.warning("no native library (%s), so torch does its work, slower; `pip install .` builds it", missing)
        return _from_system()
    _force_level(library, env.isa())
    found: dict[str, Any] = library.cpu_report()
    found["features"] = frozenset(found["features"])
    found["allowed_cpus"] = tuple(found["allowed_cpus"])
    return CpuReport(**found, kernel_levels=tuple(library.kernel_levels()), kernel_level=library.kernel_level())


def load() -> ModuleType:
    """The native library; StartupError when it is not there."""
    if library is None:
        raise StartupError(f"this needs octavo's native library ({missing}); `pip install .` builds it")
    return library


@cache
def team() -> Team:
    """This process's thread team: one thread per usable core, or fewer when OMP_NUM_THREADS says so."""
    cores = report().usable_cores
    return load().ThreadTeam(min(cores, env.threads() or cores))


def tape() -> Tape:
    """An empty tape of this process's team."""
    return load().Tape(team())


def _force_level(native: ModuleType, level: str | None) -> None:
    """Make the native library use `level`, if one is given."""
    if level is None:
        return
    try:
        native.use_kernel_level(level)
    except ValueError as error:
        raise StartupError(f"{env.ISA}: {error}", field=env.ISA) from None


def _from_system() -> CpuReport:
    """The report without the native library: features only where /proc/cpuinfo lists them, caches unknown."""
    info = _cpuinfo()
    words = f"{info.get('flags', '')} {info.get('Features', '')}".split()
    features = frozenset(_LINUX_NAMES.get(word, word) for word in words) & _FEATURES
    cpus = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else range(os.cpu_count() or 1)
    quota = _quota()
    return CpuReport(
        architecture=platform.machine(),
        model=info.get("model name", platform.processor()),
        features=features,
        level=_level(features),
        kernel_levels=(),
        kernel_level=None,
        allowed_cpus=tuple(cpus),
        physical_cores=len(cpus),
        quota_cores=quota,
        usable_cores=len(cpus) if quota is None else max(1, min(len(cpus), int(quota))),
        l1d_bytes=0,
        l2_bytes=0,
        l3_bytes=0,
    )


def _cpuinfo() -> dict[str, str]:
    """The first CPU's lines of /proc/cpuinfo by name; empty where there is none."""
    text = _read(Path("/proc/cpuinfo")).split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _level(features: frozenset[str]) -> str:
    """The highest level all of whose features, and those of the levels below it, are present."""
    level = "neon" if "neon" in features else "scalar"
    for name, needs in _LEVELS:
        if not needs <= features:
            break
        level = name
    return level


def _quota() -> float | None:
    """Cores granted by the topmost control group in sight, which is where a container's limit stands."""
    root = Path("/sys/fs/cgroup")
    v2 = _read(root / "cpu.max").split()
    v1 = [_read(root / "cpu" / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    for pair in (v2, v1):
        if len(pair) == 2 and pair[0].isdigit() and pair[1].isdigit() and int(pair[1]):
            return int(pair[0]) / int(pair[1])
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
