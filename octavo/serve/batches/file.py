"""A whole file answered at once, for `octavo run-batch`: one output file that a later run continues."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from octavo.errors import StartupError
from octavo.limits import HIGHEST, Limits
from octavo.serve.batches.journal import Journal, mark
from octavo.serve.batches.lines import Task, answer, caller_of, lines_of, read_task, survey
from octavo.serve.batches.store import Counts
from octavo.serve.service import Service

AHEAD = 2  # lines in the engine, as a multiple of its rows


def check_file(path: Path, limits: Limits) -> Counts:
    """How many lines there are; StartupError says what is wrong with the first of the wrong ones."""
    found = survey(path, without_count(limits))
    if found.errors:
        number, error = found.errors[0]
        where = f"line {number} of {path}" if number is not None else str(path)
        raise StartupError(f"{where}: {error.message}", "input_file")
    return Counts(total=found.count)


def without_count(limits: Limits) -> Limits:
    """The limits of a file that nobody sent: it may have any number of lines."""
    return dataclasses.replace(limits, batch_lines=HIGHEST)


async def answer_file(
    service: Service, source: Path, target: Path, counts: Counts, progress: Callable[[int, int], None]
) -> Counts:
    """Answer every line of a checked `source` that `target` has no answer to; `counts` are of what this run did.

    StartupError when `target` holds something else. `progress` is told how many of how many lines have an outcome.
    """
    batch = await asyncio.to_thread(digest, source)
    try:
        journal = Journal(target, batch)
    except (OSError, ValueError) as error:
        raise StartupError(
            f"{target} cannot take the answers: {error}; give another --output-file", "output_file"
        ) from None
    info = service.llm.info
    places = asyncio.Semaphore(AHEAD * (info.max_num_seqs if info else 1))
    failed = 0

    async def one(task: Task) -> None:
        nonlocal failed
        try:
            found = await answer(service, task, caller_of(service, ""), mark(batch, task.number))
            failed += not found.good
            journal.append(task.number, found.line)
            progress(len(journal.done), counts.total)
        finally:
            places.release()

    with contextlib.closing(journal):
        before = len(journal.done)
        progress(before, counts.total)
        async with asyncio.TaskGroup() as group:
            for number, line in lines_of(source, service.limits):
                if number not in journal.done:
                    await places.acquire()
                    group.create_task(one(read_task(line, number, service.limits)))
        journal.sync()
        counts.failed = failed
        counts.completed = len(journal.done) - before - failed
        assert len(journal.done) == counts.total, (before, len(journal.done), counts.total)
    return counts


def digest(path: Path) -> str:
    """What tells this input from others: 16 hexadecimal digits of its content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
