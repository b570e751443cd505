"""Platform: what the engine asks of a device, true on every one of them, and the choice between them."""

from __future__ import annotations

import re
from typing import Literal, Protocol

import torch

from octavo.errors import StartupError
from octavo.platforms.cpu import CpuPlatform
from octavo.platforms.cuda import CudaPlatform
from octavo.platforms.host import Memory

CUDA = re.compile(r"cuda(?::(\d{1,3}))?", re.ASCII)


class Platform(Protocol):
    """One device. `name` is for people; `num_threads` is how many host threads a worker on it should use."""

    device: torch.device
    name: str
    num_threads: int

    @property
    def ops(self) -> tuple[str, ...]:
        """Backends of octavo.ops, preferred first; "reference" is always last."""
        ...

    @property
    def attention(self) -> tuple[str, ...]:
        """Attention backends, preferred first."""
        ...

    @property
    def graphs(self) -> Literal["cuda", "tape"] | None:
        """How a step can be recorded and replayed."""
        ...

    def preferred_dtype(self, stored: str) -> str:
        """The format to compute in when the user does not say, for weights stored as `stored`."""
        ...

    def memory(self) -> Memory:
        """Bytes this process may use."""
        ...

    def pin(self, rank: int) -> None:
        """Tie this process to its share of the device. Called once, before the model is built."""
        ...

    def settle(self, graphs: Literal["cuda", "tape"] | None) -> None:
        """The model is loaded, and its steps are recorded as `graphs` says. Called once, before the first step."""
        ...


def select(device: str | None = None) -> Platform:
    """The platform of "cpu", "cuda" or "cuda:1"; None and "auto" take a GPU when there is one. Raises StartupError."""
    wanted = device or "auto"
    if wanted == "auto":
        return CudaPlatform() if torch.cuda.is_available() else CpuPlatform()
    if wanted == "cpu":
        return CpuPlatform()
    if match := CUDA.fullmatch(wanted):
        return CudaPlatform(int(match[1] or 0))
    raise StartupError(f"device={wanted[:60]!r} is not known; use auto, cpu, cuda or cuda:<index>", "device")
