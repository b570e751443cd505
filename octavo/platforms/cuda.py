"""One NVIDIA GPU as a device, through torch.cuda; importing this module touches no driver."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from octavo.errors import StartupError
from octavo.platforms.host import Memory

BFLOAT16_SINCE = (8, 0)  # compute capability; earlier GPUs emulate it
INSTEAD = "use device=cpu"


class EventMark:
    """A point in a stream's work."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Block the calling thread until the work queued before this mark is done."""
        self._event.synchronize()


class CudaPlatform:
    """The GPU with this index. Implements `Platform`. StartupError when torch cannot see it."""

    ops = ("reference",)
    attention = ("sdpa", "reference")
    graphs = None

    def __init__(self, index: int = 0) -> None:
        if torch.version.cuda is None:
            raise StartupError(f"device cuda: torch {torch.__version__} is built without CUDA; {INSTEAD}", "device")
        count = torch.cuda.device_count()
        if index >= count:
            seen = f"torch sees {count} GPUs" if count else "torch sees no GPU (is the driver installed?)"
            raise StartupError(f"device cuda:{index}: {seen}; {INSTEAD}", "device")
        self.device = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(index)
        self.num_threads = min(4, len(os.sched_getaffinity(0)))  # the host only prepares inputs
        self._capability = torch.cuda.get_device_capability(index)

    def preferred_dtype(self, stored: str) -> str:
        """`stored`, except that a GPU without bfloat16 arithmetic gets float16."""
        return "float16" if stored == "bfloat16" and self._capability < BFLOAT16_SINCE else stored

    def memory(self) -> Memory:
        """The GPU's memory, and what of it no process has taken."""
        free, total = torch.cuda.mem_get_info(self.device)
        return Memory(total, free)

    def copy(self, tensor: Tensor) -> Tensor:
        """`tensor` on the GPU. From pinned memory the copy is only queued: keep the source as it is until a mark."""
        return tensor.to(self.device, non_blocking=True)

    def mark(self) -> EventMark:
        """A mark behind everything queued so far on the current stream."""
        return EventMark(self.device)

    def pin(self, rank: int) -> None:
        """Make this GPU the thread's current one; `rank` is already in the index it was made with."""
        torch.cuda.set_device(self.device)

    def settle(self, graphs: Literal["cuda", "tape"] | None) -> None:
        """Nothing to do: the host's threads only launch."""
