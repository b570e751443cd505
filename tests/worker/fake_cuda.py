"""A GPU made of CPU tensors, as strict as one: recordings replay tensor operations on the addresses they were recorded
with, copies to the host happen as late as they may, and what is copied from must not change before its mark is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from octavo.platforms.accelerator import Usage

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class NoWaiting(TorchDispatchMode):
    """Refuses whatever makes the host wait for the device, or gives a result whose shape depends on values."""

    def __torch_dispatch__(self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert not name.startswith(WAITING), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class Recorder(NoWaiting):
    """Writes down every operation with the tensors it read and made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.calls.append((func, args, kwargs or {}, out))
        return out


class Tape:
    """Work recorded as operations. Implements `Recording`."""

    def __init__(self, work: Callable[[], None]) -> None:
        with Recorder() as recorder:
            work()
        self.calls = recorder.calls
        assert self.calls, "nothing was recorded"

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            if func._schema.is_mutable:
                func(*args, **kwargs)
                continue
            made = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
            given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            read = {each.untyped_storage().data_ptr() for each in given}
            if any(each.untyped_storage().data_ptr() in read for each in made if each.numel()):
                continue  # a view: it shows what its source holds
            again = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
            for old, new in zip(made, again, strict=True):
                old.copy_(new)


class FakeMark:
    """Implements `Mark`; until it is reached, what was uploaded before must stay as it was."""

    def __init__(self, gpu: FakeCuda) -> None:
        self._gpu = gpu
        self._sources = list(gpu.reading)

    def wait(self) -> None:
        self._gpu.check()
        for each in self._sources:
            if each in self._gpu.reading:
                self._gpu.reading.remove(each)


class FakeFetched:
    """Implements `Fetched`: copies when it must and not before."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._copies: list[Tensor] | None = None

    def release(self) -> None:
        if self._copies is None:
            self._copies = [each.clone() for each in self._tensors]

    def wait(self) -> Sequence[Tensor]:
        self.release()
        assert self._copies is not None
        return self._copies


class Upload:
    """A copy that may still be reading its source."""

    def __init__(self, source: Tensor) -> None:
        self.source = source
        self.content = source.clone()


class FakeCuda:
    """Implements `Accelerator`."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.reading: list[Upload] = []
        self.num_replays = 0
        self.recorded = 0

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(count, dtype=dtype)

    def upload(self, source: Tensor, target: Tensor) -> None:
        self.check()
        target.copy_(source)
        self.reading.append(Upload(source))

    def send(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy())

    def mark(self) -> FakeMark:
        return FakeMark(self)

    def fetch(self, tensors: Sequence[Tensor]) -> FakeFetched:
        return FakeFetched(tensors)

    def pool(self) -> object:
        return object()

    def record(self, work: Callable[[], None], pool: object) -> Tape:
        self.recorded += 1
        tape, replay = Tape(work), Tape.replay

        def counted() -> None:
            self.num_replays += 1
            replay(tape)

        tape.replay = counted  # type: ignore[method-assign]
        return tape

    def usage(self, is_new: bool = False) -> Usage:
        return Usage(0, 0, 0)

    def check(self) -> None:
        """Nothing that may still be copied from has changed."""
        for each in self.reading:
            assert np.array_equal(each.source.numpy(), each.content.numpy()), (
                "a buffer was written to while the device may read it"
            )
