"""The CPU as a device: its memory, its threads, and the number formats it is fast at."""

from __future__ import annotations

from typing import Literal

import torch

from octavo.platforms import host, native
from octavo.platforms.host import Memory

# Instructions that multiply bfloat16 without widening it first.
FAST_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16"))


class CpuPlatform:
    """The host's processor. Implements `Platform`."""

    def __init__(self, features: frozenset[str] | None = None) -> None:
        report = native.report()
        self.device = torch.device("cpu")
        self.name = report.model or report.architecture or "CPU"
        self.features = report.features if features is None else features
        # torch's count is below ours when OMP_NUM_THREADS or the embedding program asks for fewer.
        self.num_threads = max(1, min(report.usable_cores, torch.get_num_threads()))
        is_native = native.library is not None
        self.ops = ("cpu", "reference") if is_native else ("reference",)
        self.attention = ("cpu", "sdpa", "reference") if is_native else ("sdpa", "reference")
        self.graphs: Literal["tape"] | None = "tape" if is_native else None

    def preferred_dtype(self, stored: str) -> str:
        """The format to hold weights in when the user does not say: `stored`, which the native kernels take on any CPU.

        Without them, and without bfloat16 instructions, torch's half-precision products are scalar-slow. torch 2.13 on
        an AMD EPYC (AVX2), one thread, x [M, 1024] times weight [3072, 1024], weights out of cache, ms per F.linear:

            M      float32   bfloat16   float16
            1         1.27       1.02      1.02
            16        7.4       21.1      18.3
            256      35.5      248       146

        A single decoding row gains a fifth; a batch loses a factor of 3, a prompt of 7. float32 costs twice the memory.
        """
        if stored == "float32" or self.graphs == "tape":
            return stored
        return "bfloat16" if FAST_BFLOAT16 & self.features else "float32"

    def memory(self) -> Memory:
        """The RAM this process may use, control groups included."""
        return host.memory()

    def pin(self, rank: int) -> None:
        """Give torch this process's threads. `rank` matters once several workers share a machine."""
        torch.set_num_threads(self.num_threads)

    def settle(self, graphs: Literal["cuda", "tape"] | None) -> None:
        """A recorded step computes on octavo's own team: torch's threads would spin beside it."""
        if graphs == "tape":
            torch.set_num_threads(1)
