"""Reloader: files that are read again while the server runs, when they change, on SIGHUP, or when an admin asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octavo import log
from octavo.errors import OctavoError

logger = log.get(__name__)

WATCH_S = 1.0

Stamp = tuple[tuple[int, int, int], ...]


@dataclass
class Watched:
    """Files that belong together, and what reads them. A version that cannot be used changes nothing."""

    what: str
    paths: tuple[Path, ...]
    load: Callable[[], None]
    stamp: Stamp = ()

    def __post_init__(self) -> None:
        self.stamp = stamps(self.paths)


class Reloader:
    """Keeps watched files current."""

    def __init__(self) -> None:
        self.watched: list[Watched] = []

    def add(self, what: str, paths: tuple[Path, ...], load: Callable[[], None]) -> None:
        """Have `load` called when one of `paths` changes. Its OctavoErrors are logged; what was there stays."""
        self.watched.append(Watched(what, paths, load))

    async def watch(self) -> None:
        """Look for changes every second, for ever."""
        while self.watched:
            await asyncio.sleep(WATCH_S)
            for one in self.watched:
                if stamps(one.paths) != one.stamp:
                    read(one)

    def now(self) -> dict[str, str]:
        """Read all files again; what each said: "ok" or why the old version stays."""
        return {one.what: read(one) for one in self.watched}


def read(one: Watched) -> str:
    """Load one; "ok" or the reason it stays as it was."""
    one.stamp = stamps(one.paths)
    try:
        one.load()
    except OctavoError as error:
        logger.error("the %s stay as they were: %s", one.what, error.message)
        return error.message
    logger.info("the %s were read again", one.what)
    return "ok"


def stamps(paths: tuple[Path, ...]) -> Stamp:
    """What changes when a file is written or replaced: its inode, size and time."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)
