"""What a part of the check measures: rows of the table, and the scene a part measures them in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Row:
    """One line of the table: `value` in `unit`, and the `figure` it should reach (None: for information).

    `at_most` turns the figure into a bound from above. `details` is what the value was made of. A value of None could
    not be measured, and the details say why.
    """

    work: str
    value: float | None
    unit: str
    figure: float | None = None
    at_most: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def meets(self) -> bool | None:
        """Whether the figure is reached; None where there is none, or no value."""
        if self.figure is None or self.value is None:
            return None
        return self.value <= self.figure if self.at_most else self.value >= self.figure

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        value = None if self.value is None else float(self.value)
        return {**asdict(self), "value": value, "details": dict(self.details), "meets": self.meets}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Row:
        """The row that `as_json` told."""
        return cls(**{name: value for name, value in told.items() if name != "meets"})


class Scene:
    """Where a part measures: its device, and how much time it has.

    In a rehearsal the device is a CPU, shapes are tiny and values mean nothing. `is_quick` asks for fewer repetitions.
    """

    def __init__(self, device: str, budget_s: float, is_rehearsal: bool = False, is_quick: bool = False) -> None:
        import torch

        self.device: torch.device = torch.device(device)
        self.is_rehearsal = is_rehearsal
        self.is_quick = is_quick
        self._deadline = time.monotonic() + budget_s

    def left_s(self) -> float:
        """Seconds until the part is ended."""
        return self._deadline - time.monotonic()

    def pick(self, full: Any, rehearsed: Any) -> Any:
        """`full`, or what stands in for it in a rehearsal."""
        return rehearsed if self.is_rehearsal else full

    def time(self, work: Callable[[int], object], rotate: int = 1, is_recorded: bool = False) -> float:
        """As timing.seconds."""
        from gpu import timing

        return timing.seconds(self.device, work, rotate, is_recorded, 1 if self.is_rehearsal else 15)

    @cached_property
    def copy_bytes_s(self) -> float:
        """Bytes read and written per second by a copy of the device, measured now."""
        from gpu import limits

        return self._leaving_nothing(limits.copy_bytes_s)

    @cached_property
    def matrix_flops(self) -> float:
        """Operations per second of a large bfloat16 product on random numbers, measured now."""
        from gpu import limits

        return self._leaving_nothing(limits.matrix_flops)

    def _leaving_nothing(self, measure: Callable[[Scene], float]) -> float:
        """What it measures; its memory is free for an engine that takes all there is."""
        from gpu import timing

        found = measure(self)
        timing.free(self.device)
        return found
