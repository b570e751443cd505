"""Why sequences wait, what happened to each, and how their tokens are spaced: O(1) per step, not per row."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from octavo.messages import Event, EventKind, Tally, Timeline

MAX_EVENTS = 256  # per sequence; of those that come later, the last is known
KEPT = 2048  # sequences that ended and can still be asked about

REASONS: tuple[str, ...] = ("rows", "pages", "budget", "pause", "step")


class WaitClock:
    """Seconds for which the head of the queue could not be admitted, by reason.

    Two readings explain a wait between them: nobody behind the head can be admitted before it. Reasons: every row is
    taken, too few pages are free, the step's budget is used, a preemption must not be undone at once (pause), and a
    step that began earlier has to end (step).
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(REASONS, 0.0)
        self.reason = "step"
        self.since = 0.0

    def tick(self, now: float) -> None:
        """Book the time since the last call on the reason that held."""
        if now > self.since:
            self.seconds[self.reason] += now - self.since
            self.since = now

    def read(self, now: float) -> dict[str, float]:
        """A reading."""
        self.tick(now)
        return self.seconds.copy()

    def between(self, start: Mapping[str, float], now: float) -> dict[str, float]:
        """What was booked since the reading `start`, without reasons that did not occur."""
        end = self.read(now)
        return {reason: end[reason] - s for reason, s in start.items() if end[reason] > s}


class EventLog:
    """The events of one sequence. Chunks merge when there are too many; nothing grows without bound."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(
        self,
        at: float,
        kind: EventKind,
        step: int = 0,
        tokens: int = 0,
        ahead: int = 0,
        reason: str = "",
        waits: dict[str, float] | None = None,
    ) -> None:
        """Note an event."""
        events = self.events
        if len(events) < MAX_EVENTS:
            events.append(Event(at, kind, step, tokens, ahead, reason, waits))
        elif kind == events[-1].kind == "chunk":
            events[-1] = Event(at, kind, step, events[-1].tokens + tokens)
        else:
            events[MAX_EVENTS:] = [Event(at, kind, step, tokens, ahead, reason, waits)]


class History:
    """The timelines of the sequences that ended last."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.timelines: dict[int, Timeline] = {}

    def keep(self, timeline: Timeline) -> None:
        """Remember one, and forget the oldest beyond `kept`."""
        self.timelines[timeline.id] = timeline
        if len(self.timelines) > self.kept:
            del self.timelines[next(iter(self.timelines))]


class Tallier:
    """Counts values for a Tally with these bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def tally(self) -> Tally:
        """A copy of what was counted."""
        return Tally(self.counts.copy(), self.total)
