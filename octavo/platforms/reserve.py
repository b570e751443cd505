"""Memory for weights, asked of the system by a thread while the process is still importing its libraries.

A system clears every page that it hands out, and a virtual machine may have to fetch it from its host first, which
takes seconds for a gigabyte. While libraries are imported, a core is idle.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from collections.abc import Generator

CHUNK = 16 * 2**20  # bytes touched at once
HUGE_PAGE = 2**21
PAGE = 4096


class Reserve:
    """Zeroed memory in huge pages where there are any. Parts are taken from its front and never come back."""

    def __init__(self, num_bytes: int) -> None:
        self.memory = mmap.mmap(-1, num_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(AttributeError, OSError):  # a system without huge pages
            self.memory.madvise(mmap.MADV_HUGEPAGE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self._taken = -self._address % HUGE_PAGE  # where the next part begins
        self._stop = self._taken + num_bytes
        self._touched = self._touching = self._taken  # the thread is writing between the two
        self._moved = threading.Condition()
        self._is_still = False
        threading.Thread(target=self._touch, name="octavo-reserve", daemon=True).start()

    def take(self, num_bytes: int) -> int | None:
        """Offset of `num_bytes` in `memory` that nobody else has, on a page of its own; None when they are not left."""
        with self._moved:
            start, stop = self._taken, self._taken + -(-num_bytes // PAGE) * PAGE
            if stop > self._stop:
                return None
            self._taken = stop
            # It writes zeros, which must not fall on what the new owner writes.
            self._moved.wait_for(lambda: stop <= self._touched or self._touching <= start)
        return start

    @contextlib.contextmanager
    def still(self) -> Generator[int]:
        """Nothing is asked for meanwhile; the bytes that were, when nothing has been taken yet."""
        first = self._taken
        with self._moved:
            self._is_still = True
            self._moved.wait_for(lambda: self._touched == self._touching)
        try:
            yield self._touched - first
        finally:
            with self._moved:
                self._is_still = False
                self._moved.notify_all()

    def close(self) -> None:
        """Give back what nobody took."""
        with self._moved:
            self._stop = self._taken
            self._moved.wait_for(lambda: self._touched == self._touching)
        left = len(self.memory) - self._taken
        if left and hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED, self._taken, left)

    def _touch(self) -> None:
        while True:
            with self._moved:
                self._touched = self._touching = max(self._touching, self._taken)
                self._moved.notify_all()
                self._moved.wait_for(lambda: not self._is_still)
                start = self._touched = max(self._touching, self._taken)
                self._touching = max(start, min(start + CHUNK, self._stop))
                self._moved.notify_all()
                count = self._touching - start
            if not count:
                return
            ctypes.memset(self._address + start, 0, count)  # the interpreter is free meanwhile


_current: Reserve | None = None


@contextlib.contextmanager
def kept(num_bytes: int) -> Generator[None]:
    """Have `take` answer from a reserve of `num_bytes`; what is left of it at the end is given back. 0: none."""
    global _current
    with contextlib.suppress(OSError):  # the system gives out no such range; the plan says what does not fit
        _current = Reserve(num_bytes) if num_bytes else None
    try:
        yield
    finally:
        if _current is not None:
            _current.close()
        _current = None


@contextlib.contextmanager
def still() -> Generator[int]:
    """Measure the process's memory here: the bytes of it that are the reserve's, which will be the weights'."""
    if _current is None:
        yield 0
    else:
        with _current.still() as num_bytes:
            yield num_bytes


def take(num_bytes: int) -> tuple[mmap.mmap, int] | None:
    """A part of the reserve: the mapping and the offset in it; None when there is no reserve, or not that much left."""
    reserve = _current
    if reserve is None:
        return None
    offset = reserve.take(num_bytes)
    return None if offset is None else (reserve.memory, offset)
