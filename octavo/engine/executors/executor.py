"""Executor and Step: what the engine core asks of whatever computes."""

from __future__ import annotations

from typing import Protocol

from octavo.errors import OctavoError
from octavo.messages import BatchMessage, StepResult


class DeviceLost(OctavoError):
    """The device will not compute again; the engine core ends and its supervisor starts another."""


class Step(Protocol):
    """One step on its way. A step that raises anything but DeviceLost has failed as a whole and left no result."""

    def sample(self, mask: bytes | None) -> None:
        """Queue the choice of tokens behind the forward pass. `mask`: the allowed ones, int32 [L, ceil(V / 32)]."""
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
