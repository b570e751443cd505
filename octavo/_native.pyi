"""The native library (csrc/module.cpp). Import it through octavo.platforms.native, which knows whether it is there."""

from collections.abc import Sequence

def cpu_report() -> dict[str, object]:
    """What this machine is and how much of it this process may use; sizes in bytes."""

def cgroup_quota(root: str = "") -> float | None:
    """Cores granted by control groups, or None; root: a folder with planted /proc and /sys."""

def kernel_levels() -> list[str]:
    """Compiled levels that this CPU can run, lowest first."""

def kernel_level() -> str:
    """The level in use."""

def use_kernel_level(name: str) -> None:
    """Use one of kernel_levels() in the whole process; ValueError for any other."""

class ThreadTeam:
    """Threads that run native work together; asleep when there is none.

    size counts the calling thread; 0: one per usable core; 1 to 1024, else ValueError. pin binds all but the caller.
    After fork() the child's copy refuses work with RuntimeError.
    """

    def __init__(self, size: int = 0, pin: bool = False) -> None: ...
    @property
    def size(self) -> int:
        """Members, the calling thread included."""

    @property
    def cpus(self) -> Sequence[int]:
        """Where each member is bound; empty when not pinned."""

    def calls_per_rank(self) -> list[int]:
        """How often each member ran in one job."""

    def barrier_faults(self, rounds: int) -> int:
        """Rounds in which a barrier let a member through too early."""

    def barrier_ns(self, rounds: int) -> float:
        """Mean nanoseconds of one barrier."""

    def parallel_sum(self, address: int, n: int) -> float:
        """Sum of n float32 at an address; the same bits for every team size and level."""
