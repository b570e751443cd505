"""Policies: who is served first, and who gives way."""

from __future__ import annotations

from typing import Protocol

from octavo.scheduling.sequence import Sequence


class Policy(Protocol):
    """The order among sequences; the scheduler never compares priorities itself."""

    def urgency(self, seq: Sequence, now: float) -> tuple[int, ...]:
        """A distinct key for each sequence: the smallest is admitted first, the largest preempted first."""
        ...

    def displaces(self, waiting: Sequence, running: Sequence) -> bool:
        """Whether `waiting` may take the place of `running`, not only its turn."""
        ...


class FCFS:
    """First come, first served."""

    def urgency(self, seq: Sequence, now: float) -> tuple[int, ...]:
        return (seq.arrival,)

    def displaces(self, waiting: Sequence, running: Sequence) -> bool:
        return False


class Priority:
    """Lower priority values first, ties by arrival. An urgent sequence takes the place of the least urgent one."""

    def urgency(self, seq: Sequence, now: float) -> tuple[int, ...]:
        return (seq.spec.priority, seq.arrival)

    def displaces(self, waiting: Sequence, running: Sequence) -> bool:
        return waiting.spec.priority < running.spec.priority
