"""The engine core in a process of its own (`python -m octavo.engine.process`): a loop that acts between steps.

The parent writes one `Launch` frame to standard input and keeps it open: when it closes, the parent is gone, and
so are we (R5).
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
import threading
import time
from typing import BinaryIO

import msgspec

from octavo import log
from octavo.checkpoint import Checkpoint
from octavo.engine.build import build_core
from octavo.engine.core import EngineCore
from octavo.engine.ipc import CorePipe, remove_orphaned
from octavo.engine.launch import Launch, read_launch
from octavo.errors import OctavoError
from octavo.messages import (
    Abort,
    Add,
    AskStats,
    AskTimelines,
    CacheReset,
    Control,
    Deltas,
    Failed,
    Loading,
    Ready,
    ResetCache,
    Stats,
    StatsReply,
    Stop,
    Tick,
    ToCore,
)

logger = log.get(__name__)

TICK_S = 1.0  # how often an engine that lives says so, and how it fares
DECLARED_S = 1.0  # steps expected to last longer are announced
PATIENCE = 4.0  # an announced step may take this many times its estimate
UNKNOWN_STEPS = 8  # the first steps may be of any length: nothing is known of this model on this machine yet
UNKNOWN_S = 120.0
PREPARE_S = 3.0  # after the start, when idle, what a first grammar needs is made ready: it blocks for a moment
BOOK_CHECK_S = 5.0  # idle moments between two checks of the page books


def exit_with_parent(stream: BinaryIO, address: str) -> None:
    """Leave when the parent's end of standard input closes, and take along the folder it can no longer remove."""
    stream.read()
    remove_orphaned(address)
    os._exit(0)


class Loop:
    """Messages in, turns, deltas out. Owns the pipe; the core owns everything else."""

    def __init__(self, core: EngineCore, pipe: CorePipe) -> None:
        self.core = core
        self.pipe = pipe
        self._next_tick = 0.0
        self._next_check = 0.0
        self._prepare_at = time.monotonic() + PREPARE_S
        core.announce = self.announce

    def run(self) -> None:
        """Serve until told to stop. An exception here is the engine's end; the caller reports it."""
        while self.messages():
            if self.core.has_work:
                deltas = self.core.turn()
                if deltas:
                    self.pipe.send(Deltas(deltas))
            now = time.monotonic()
            if now >= self._next_tick:
                self.pipe.send(Tick())
                self.pipe.send(StatsReply(self.stats()))
                self._next_tick = now + TICK_S
            if not self.core.has_work and now >= self._prepare_at:
                self.core.nursery.prepare()
            if not self.core.has_work and now >= self._next_check:
                self.core.check_books()
                self._next_check = now + BOOK_CHECK_S

    def announce(self, expected_s: float) -> None:
        """Before a launch: tell the supervisor when the silence that follows may be long (R4)."""
        if self.core.steps < UNKNOWN_STEPS:
            self.pipe.send(Tick(busy_s=UNKNOWN_S))
        elif expected_s > DECLARED_S:
            self.pipe.send(Tick(busy_s=PATIENCE * expected_s))

    def messages(self) -> bool:
        """Act on what has arrived, waiting for it when idle; False when told to stop."""
        message = self.pipe.receive(0.0 if self.core.has_work else TICK_S)
        while message is not None:
            if isinstance(message, Stop):
                return False
            self.act(message)
            message = self.pipe.receive(0.0)
        return True

    def act(self, message: ToCore) -> None:
        """One message that is not Stop."""
        if isinstance(message, Add):
            self.core.add(message.specs)
        elif isinstance(message, Abort):
            self.core.abort(message.ids)
        elif isinstance(message, Control):
            self.pipe.send(self.core.control(message))
        elif isinstance(message, AskTimelines):
            self.pipe.send(self.core.timelines(message))
        elif isinstance(message, ResetCache):
            pages = self.core.scheduler.cache.forget()
            self.pipe.send(CacheReset(message.number, pages))
        elif isinstance(message, AskStats):
            self.pipe.send(StatsReply(self.stats(), message.number))

    def stats(self) -> Stats:
        """The core's, and what the pipe had to drop."""
        return msgspec.structs.replace(self.core.stats(), frames_dropped=self.pipe.dropped)


def serve(launch: Launch) -> int:
    """Build the core and run it; the exit code."""
    pipe = CorePipe(launch.address)
    try:
        checkpoint = dataclasses.replace(Checkpoint.resolve(launch.config.model.model), name=launch.name)
        core, info = build_core(
            launch.config, checkpoint, lambda what, done, total: pipe.send(Loading(what, done, total))
        )
        pipe.send(Ready(info))
        # What the start has made lives as long as the process: looking for garbage among it takes a tenth of a second.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # a step makes thousands of objects and no cycles
        gc.enable()
        Loop(core, pipe).run()
        return 0
    except OctavoError as error:
        pipe.send(Failed(error.message, error.field))
        return 1
    except Exception as error:
        # A process edge: whatever it was, the supervisor must hear of it and the log must have the trace.
        logger.exception("the engine ends")
        pipe.send(Failed(f"{type(error).__name__}: {error}"))
        return 1
    finally:
        pipe.close()


def main() -> None:
    """Process entry."""
    # The end is the parent's business: it drains, then stops us. Service managers signal every process of a service.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    stdin = sys.stdin.buffer
    launch = read_launch(stdin)
    log.configure(launch.log_level)
    threading.Thread(target=exit_with_parent, args=(stdin, launch.address), daemon=True).start()
    gc.disable()  # until `serve` is ready
    code = serve(launch)
    sys.stderr.flush()
    os._exit(code)  # torch's threads have nothing left to say


if __name__ == "__main__":
    main()
