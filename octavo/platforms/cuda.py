"""One NVIDIA GPU as a device, through torch.cuda; importing this module touches no driver."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo import env, log
from octavo.errors import StartupError
from octavo.platforms.accelerator import Usage
from octavo.platforms.host import Memory

logger = log.get(__name__)

BFLOAT16_SINCE = (8, 0)  # compute capability; earlier GPUs emulate it
FLOAT8_SINCE = (8, 9)  # converts and multiplies eight-bit floats
TRITON_SINCE = (8, 0)  # the kernels count on its asynchronous copies and matrix instructions
INSTEAD = "use device=cpu"
LOST = ("CUDA error", "CUBLAS_STATUS", "cuBLAS error", "Triton Error [CUDA]")  # how errors of kernels begin


class EventMark:
    """A point in a stream's work."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event()
        self.event.record(stream)

    def wait(self) -> None:
        """Block the calling thread until the work queued before this mark is done."""
        self.event.synchronize()


class StreamFetch:
    """Copies to pinned memory on a stream of their own. Implements `Fetched`."""

    def __init__(self, tensors: Sequence[Tensor], main: torch.cuda.Stream, side: torch.cuda.Stream) -> None:
        self._sources = tensors  # alive until they have been read
        self._copies = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in tensors]
        self._main = main
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for copy, source in zip(self._copies, tensors, strict=True):
                copy.copy_(source, non_blocking=True)
        self._mark = EventMark(side)

    def wait(self) -> Sequence[Tensor]:
        self._mark.wait()
        self._sources = ()
        return self._copies

    def release(self) -> None:
        self._main.wait_event(self._mark.event)


class GraphRecording:
    """A CUDA graph. Implements `Recording`."""

    def __init__(self, work: Callable[[], None], pool: object) -> None:
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, pool=pool):  # type: ignore[arg-type]
                work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise StartupError(
                f"this model's steps cannot be recorded as CUDA graphs ({str(error)[:200]}); use enforce_eager",
                "enforce_eager",
            ) from error

    def replay(self) -> None:
        self._graph.replay()


class CudaPlatform:
    """The GPU with this index. Implements `Platform` and `Accelerator`. StartupError when torch cannot see it."""

    def __init__(self, index: int = 0) -> None:
        if torch.version.cuda is None:
            raise StartupError(f"device cuda: torch {torch.__version__} is built without CUDA; {INSTEAD}", "device")
        count = torch.cuda.device_count()
        if index >= count:
            raise StartupError(f"device cuda:{index}: {seen(count)}; {INSTEAD}", "device")
        self.device = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(index)
        self.num_threads = min(4, len(os.sched_getaffinity(0)))  # the host only prepares inputs
        self.capability: tuple[int, int] = torch.cuda.get_device_capability(index)
        without = lacks_triton(self.capability)
        if without is not None:
            logger.warning("%s runs on torch's own kernels, which is slow: %s", self.name, without)
        self.ops = ("reference",) if without else ("triton", "reference")
        self.attention = ("sdpa", "reference") if without else ("triton", "sdpa", "reference")
        self.graphs: Literal["cuda"] | None = None if without else "cuda"
        self._side: torch.cuda.Stream | None = None

    def preferred_dtype(self, stored: str) -> str:
        """`stored`, except that a GPU without bfloat16 arithmetic gets float16."""
        return "float16" if stored == "bfloat16" and self.capability < BFLOAT16_SINCE else stored

    @property
    def takes_float8(self) -> bool:
        """Whether it converts eight-bit floats by itself."""
        return self.capability >= FLOAT8_SINCE

    def memory(self) -> Memory:
        """The GPU's memory, and what of it no process has taken."""
        free, total = torch.cuda.mem_get_info(self.device)
        return Memory(total, free)

    def pin(self, rank: int) -> None:
        """Make this GPU the thread's current one, and its products the same in every run.

        `rank` is already in the index it was made with. Products of float32 are float32's (no TF32), and sums of
        half-precision products are float32's throughout.
        """
        env.use_fixed_workspace()
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.cuda.set_device(self.device)

    def settle(self, graphs: Literal["cuda", "tape"] | None) -> None:
        """Nothing to do: the host's threads only launch."""

    # ---- the accelerator

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(count, dtype=dtype, pin_memory=True)

    def upload(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def send(self, array: NDArray[np.generic]) -> Tensor:
        # torch keeps the pinned copy from being used again before the device has read it.
        return torch.from_numpy(array).pin_memory().to(self.device, non_blocking=True)

    def mark(self) -> EventMark:
        return EventMark(self._main)

    def fetch(self, tensors: Sequence[Tensor]) -> StreamFetch:
        if self._side is None:
            self._side = torch.cuda.Stream(self.device)
        return StreamFetch(tensors, self._main, self._side)

    def pool(self) -> object:
        return torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None], pool: object) -> GraphRecording:
        return GraphRecording(work, pool)

    def usage(self, is_new: bool = False) -> Usage:
        torch.cuda.synchronize(self.device)
        if is_new:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        free, total = torch.cuda.mem_get_info(self.device)
        kept = torch.cuda.memory_reserved(self.device)
        return Usage(torch.cuda.max_memory_reserved(self.device), total - free - kept, free)

    @property
    def _main(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.device)


def is_lost(error: RuntimeError) -> bool:
    """Whether a GPU's process can do nothing more after this error; lack of memory is not one of these."""
    return not isinstance(error, torch.OutOfMemoryError) and str(error).startswith(LOST)


def seen(count: int) -> str:
    """What torch sees of GPUs, and why that may be fewer than there are."""
    found = f"torch sees {count} GPU{'s' * (count != 1)}" if count else "torch sees no GPU (is the driver installed?)"
    visible = env.visible_gpus()
    return found if visible is None else f"{found}, with {env.VISIBLE_GPUS}={visible!r}"


def lacks_triton(capability: tuple[int, int]) -> str | None:
    """Why Triton's kernels cannot run on a GPU of this compute capability; None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (`pip install triton`)"
    if capability < TRITON_SINCE:
        since = ".".join(map(str, TRITON_SINCE))
        return f"its compute capability is {capability[0]}.{capability[1]}, and the kernels need {since}"
    return None
