"""Which recorded step computes a step of so many rows."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Buckets:
    """The numbers of rows that decode steps are recorded for, ascending; none: every step runs as the code says."""

    sizes: tuple[int, ...] = ()

    def of(self, num_rows: int) -> int | None:
        """The smallest bucket that holds so many rows; None when none does."""
        at = bisect_left(self.sizes, num_rows)
        return self.sizes[at] if at < len(self.sizes) else None
