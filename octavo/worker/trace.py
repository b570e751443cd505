"""OCTAVO_PROFILE: a Chrome trace of the first steps, record by record, thread by thread, with each one's bandwidth."""

from __future__ import annotations

import json
import time
from pathlib import Path

from octavo import log
from octavo.ops.tape import Program
from octavo.platforms import native

STEPS = 64  # steps in a trace; more would only make it slow to open
logger = log.get(__name__)


class Trace:
    """Collects the times of programs' runs and writes them to `path` after STEPS steps, and after every further one
    nothing more. Open the file in chrome://tracing or ui.perfetto.dev.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: list[dict[str, object]] = []
        self._left = STEPS
        self._start = time.perf_counter()

    def run(self, program: Program, step: native.Step) -> None:
        """As Program.run, for a program without Python nodes in between; notes every record while there is room."""
        if self._left == 0:
            program.run(step)
            return
        for segment in program.segments:
            began = (time.perf_counter() - self._start) * 1e6
            if not isinstance(segment, tuple):
                segment.call(step.num_tokens)
                self._add(segment.op, 0, began, (time.perf_counter() - self._start) * 1e6 - began, {})
                continue
            first, last = segment
            program.tape.profile(True)
            program.tape.run(step, first, last)
            self._note(program, first, last, began, step.num_tokens)
        program.tape.profile(False)

    def end_step(self) -> None:
        """One step is over; the file is written when it was the last to be noted."""
        if self._left:
            self._left -= 1
            if self._left in (0, STEPS - 2):  # early as well: a short run shall leave something
                self.path.write_text(json.dumps({"traceEvents": self._events, "displayTimeUnit": "ns"}))
                logger.info("wrote the trace of %d steps to %s", STEPS - self._left, self.path)

    def _note(self, program: Program, first: int, last: int, began: float, rows: int) -> None:
        times = program.tape.times()
        team = len(times) // max(1, 2 * (last - first))
        for record in range(first, last):
            node = program.native_nodes[record]
            for rank in range(team):
                start, stop = times[((record - first) * team + rank) * 2 :][:2]
                detail: dict[str, object] = {"record": record, "rows": rows}
                if node.weight_bytes and stop > start:
                    detail["GB/s of weights"] = round(node.weight_bytes / team / (stop - start), 2)
                self._add(node.name, rank, began + start / 1e3, (stop - start) / 1e3, detail)

    def _add(self, name: str, rank: int, start_us: float, length_us: float, detail: dict[str, object]) -> None:
        event: dict[str, object] = {"name": name, "ph": "X", "pid": 0, "tid": rank, "ts": start_us, "dur": length_us}
        self._events.append({**event, "args": detail})
