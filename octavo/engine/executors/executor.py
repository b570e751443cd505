"""Executor and Step: what the engine core asks of whatever computes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.errors import OctavoError
from octavo.messages import BatchMessage, StepResult

Mask = NDArray[np.int32]  # [E, ceil(V / 32)]: bit i of a row's bits, least significant first, allows token i


class DeviceLost(OctavoError):
    """The device will not compute again; the engine core ends and its supervisor starts another."""


class Step(Protocol):
    """One step on its way. A step that raises anything but DeviceLost has failed as a whole and left no result."""

    def sample(self, mask: Mask | None) -> None:
        """Queue the choice of tokens behind the forward pass. `mask`: the allowed ones, a row per emitting row."""
        ...

    def result(self) -> StepResult:
        """What the step produced; blocks until the device is done with it."""
        ...


class Executor(Protocol):
    """Computes steps in the order they were launched."""

    def launch(self, batch: BatchMessage) -> Step:
        """Queue the forward pass of one step. Ids in `gone` lose their rows first; unknown ones are no error."""
        ...

    def stop(self) -> None:
        """Let go of the device. Nothing may be launched afterwards."""
        ...
