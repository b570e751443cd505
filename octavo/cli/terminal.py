"""The terminal's side of a conversation: lines are read and Ctrl-C is heard here, while an event loop runs beside."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import AsyncGenerator, Coroutine
from types import TracebackType
from typing import Any, TypeVar

with contextlib.suppress(ImportError):  # a Python built without it
    import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]  gives input() its history and arrow keys

T = TypeVar("T")

STOP_S = 5.0  # what was interrupted gets this long to tell the engine or the server


class Beside:
    """An event loop in a thread of its own, so that the engine is heard while the main thread waits for a person."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="octavo-loop", daemon=True)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result. Ctrl-C cancels it, and is raised when it has ended."""
        ended = threading.Event()

        async def work() -> T:
            try:
                return await coroutine
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(STOP_S)
            raise


def ask() -> str | None:
    """A line somebody typed; None at the end of input, or at Ctrl-C."""
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        sys.stdout.write("\n")
        return None


def harmless(text: str) -> str:
    """Text without control characters but newline and tab: a model's output must not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


async def stream(pieces: AsyncGenerator[str, None], shown: list[str]) -> float:
    """Write the pieces as they come, and append them to `shown`; returns the seconds to the first."""
    started = time.monotonic()
    first = 0.0
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            first = first or time.monotonic()
            shown.append(piece)
            sys.stdout.write(harmless(piece) if sys.stdout.isatty() else piece)
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return max(0.0, first - started)
