"""Jobs: batches that run, in the rows that nobody else wants; after a crash each goes on behind its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from octavo import log
from octavo.serve.batches.journal import Journal, mark
from octavo.serve.batches.lines import Task, answer, caller_of, explain, lines_of, not_answered, read_task, survey
from octavo.serve.batches.store import Batch, File, Shelves
from octavo.serve.service import Service

logger = log.get(__name__)

AT_ONCE = 8  # batches that share the free rows; others wait for one of them to end
LOOK_S = 0.05  # how often a full engine is looked at again
NOTE_S = 1.0  # between two notes of a batch's progress
EXPIRED = "the batch ended before this line was started: its completion window was over"


class Slots:
    """How many lines may run: as many as the engine has rows that requests at the door leave free, one at least."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.used = 0

    @property
    def room(self) -> int:
        """Lines that may run now."""
        info = self.service.llm.info
        return max(1, (info.max_num_seqs if info else 1) - self.service.inside)

    async def take(self, unless: Callable[[], bool]) -> bool:
        """Wait for a place; False, and no place, once `unless` holds."""
        while self.used >= self.room and not unless():
            await asyncio.sleep(LOOK_S)
        if unless():
            return False
        self.used += 1
        return True

    def give(self) -> None:
        """Give a place back."""
        self.used -= 1


@dataclass
class Job:
    """A batch that runs. Its answers and errors go to two journals that become files at the end."""

    owner: str
    batch: Batch
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    stopped: str | None = None  # why no more lines are started: a failure of the server's
    running: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def number(self) -> str:
        """What the ids of its outcomes begin with."""
        return self.batch.id.removeprefix("batch_")[:16]


class Jobs:
    """All running batches of a server."""

    def __init__(self, service: Service, shelves: Shelves) -> None:
        self.service = service
        self.shelves = shelves
        self.slots = Slots(service)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._jobs: dict[str, Job] = {}
        self._resumed = False

    def resume(self) -> None:
        """Go on with what an earlier server left; once."""
        if not self._resumed:
            self._resumed = True
            for owner, batch in self.shelves.unfinished():
                self.start(owner, batch)

    def start(self, owner: str, batch: Batch) -> None:
        """Run a batch that is on the shelf."""
        job = self._jobs[batch.id] = Job(owner, batch, cancelled=batch.status == "cancelling")
        job.task = asyncio.create_task(self._run(job))

    def get(self, owner: str, id: str) -> Batch | None:
        """The owner's batch, if it runs."""
        job = self._jobs.get(id)
        return job.batch if job is not None and job.owner == owner else None

    async def cancel(self, owner: str, id: str) -> Batch | None:
        """Start no more lines of a batch; those that run are finished."""
        job = self._jobs.get(id)
        if job is None or job.owner != owner:
            return None
        if not job.cancelled:
            job.cancelled = True
            job.batch.now("cancelling")
            await self._note(job)
        return job.batch

    async def _run(self, job: Job) -> None:
        try:
            async with self._turns:
                if await self._accepted(job):
                    await self._answer(job)
        except Exception as error:  # the server's own failure must not leave a batch that is never finished
            logger.exception("batch %s failed", job.batch.id)
            self._fail(job, [{"code": "server_error", "message": f"the server failed: {type(error).__name__}"}])
        finally:
            await self._note(job)
            self._jobs.pop(job.batch.id, None)

    async def _accepted(self, job: Job) -> bool:
        """Read the input once; whether it can be answered."""
        batch, limits = job.batch, self.service.limits
        if batch.status not in ("validating", "cancelling") and batch.request_counts.total:
            return True  # it was accepted before a restart
        path = self.shelves.path(batch.input_file_id)
        found = await asyncio.to_thread(survey, path, limits, batch.endpoint)
        if found.errors:
            self._fail(job, [explain(number, error) for number, error in found.errors])
            return False
        batch.request_counts.total = found.count
        if not job.cancelled:
            batch.now("in_progress")
        await self._note(job)
        return True

    async def _answer(self, job: Job) -> None:
        batch = job.batch
        batch.output_file_id = batch.output_file_id or f"file-{job.number}-output"
        batch.error_file_id = batch.error_file_id or f"file-{job.number}-errors"
        await self._note(job)
        good = Journal(self.shelves.path(batch.output_file_id), job.number)
        with contextlib.closing(good):
            bad = Journal(self.shelves.path(batch.error_file_id), job.number)
            with contextlib.closing(bad):
                notes = asyncio.create_task(self._note_regularly(job, good, bad))
                try:
                    await self._start_lines(job, good, bad)
                    if job.running:
                        await asyncio.wait(job.running)
                finally:
                    notes.cancel()
                await self._finish(job, good, bad)

    async def _start_lines(self, job: Job, good: Journal, bad: Journal) -> None:
        """Start every line without an outcome, until there are none, or the batch is over."""
        limits, path = self.service.limits, self.shelves.path(job.batch.input_file_id)
        for number, line in lines_of(path, limits):
            if number in good.done or number in bad.done:
                continue
            task = read_task(line, number, limits)
            if not await self.slots.take(unless=lambda: job.cancelled or job.stopped is not None):
                return
            if time.time() >= job.batch.expires_at:
                self.slots.give()
                bad.append(number, not_answered(mark(job.number, number), task, "batch_expired", EXPIRED))
                continue
            running = asyncio.create_task(self._one(job, task, good, bad))
            job.running.add(running)
            running.add_done_callback(job.running.discard)

    async def _one(self, job: Job, task: Task, good: Journal, bad: Journal) -> None:
        try:
            found = await answer(self.service, task, caller_of(self.service, job.owner), mark(job.number, task.number))
            (good if found.good else bad).append(task.number, found.line)
        except OSError as error:
            job.stopped = f"the results could not be written: {error.strerror or error}"
        finally:
            self.slots.give()

    async def _finish(self, job: Job, good: Journal, bad: Journal) -> None:
        """Make the journals files that can be read, and say how it ended."""
        batch, counts = job.batch, job.batch.request_counts
        counts.completed, counts.failed = len(good.done), len(bad.done)
        if job.stopped is None and not job.cancelled:
            batch.now("finalizing")
            await self._note(job)
        with suppress(OSError):
            await self.shelves.do(lambda: (good.sync(), bad.sync()))
        for journal, name in ((good, "output_file_id"), (bad, "error_file_id")):
            if journal.num_bytes:
                await self._keep(job.owner, getattr(batch, name), journal)
            else:
                journal.path.unlink(missing_ok=True)
                setattr(batch, name, None)
        if job.stopped is not None:
            self._fail(job, [{"code": "server_error", "message": job.stopped}])
        elif job.cancelled:
            batch.now("cancelled")
        else:
            batch.now("expired" if time.time() >= batch.expires_at and counts.failed else "completed")

    async def _keep(self, owner: str, id: str, journal: Journal) -> None:
        file = File(
            id=id, bytes=journal.num_bytes, created_at=int(time.time()), filename=f"{id}.jsonl", purpose="batch_output"
        )
        await self.shelves.do(lambda: self.shelves.put_file(owner, file))

    def _fail(self, job: Job, errors: list[dict[str, object]]) -> None:
        job.batch.errors = {"object": "list", "data": errors}
        job.batch.now("failed")

    async def _note(self, job: Job) -> None:
        await self.shelves.do(lambda: self.shelves.put_batch(job.owner, job.batch))

    async def _note_regularly(self, job: Job, good: Journal, bad: Journal) -> None:
        while True:
            await asyncio.sleep(NOTE_S)
            counts = job.batch.request_counts
            if (counts.completed, counts.failed) != (len(good.done), len(bad.done)):
                counts.completed, counts.failed = len(good.done), len(bad.done)
                await self._note(job)
