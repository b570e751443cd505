"""Journal: a results file that is only appended to, whole lines at a time, and says after a crash what is in it."""

from __future__ import annotations

import os
import re
from pathlib import Path

ID = re.compile(rb'\{"id":"batch_req_([0-9a-f]{16})_([0-9]{1,10})"')
BLOCK = 2**20


def mark(batch: str, number: int) -> str:
    """The id of the outcome of line `number`. `batch` is 16 hexadecimal digits that no other batch has."""
    return f"batch_req_{batch}_{number}"


class Journal:
    """The results of one batch in one file. What is written stays after the process dies; `sync` also outlives power.

    Opening one cuts off the line that a crash left unfinished. `done` are the numbers of the lines it answers.
    ValueError when it holds anything else than outcomes of `batch`.
    """

    def __init__(self, path: Path, batch: str) -> None:
        self.path = path
        self.done: set[int] = set()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._end = self._read(batch.encode())
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
        except BaseException:
            os.close(self._file)
            raise

    def _read(self, batch: bytes) -> int:
        """Fill `done`; the length of the whole lines."""
        end = 0
        with open(self._file, "rb", buffering=BLOCK, closefd=False) as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                found = ID.match(line)
                if found is None or found[1] != batch:
                    raise ValueError(f"{self.path.name} has lines that are not answers to this input")
                self.done.add(int(found[2]))
                end += len(line)
        return end

    def append(self, number: int, line: bytes) -> None:
        """Add the outcome of line `number`. OSError, and no part of the line in the file, when there is no room."""
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
            raise
        self._end += len(line)
        self.done.add(number)

    @property
    def num_bytes(self) -> int:
        """The file's length."""
        return self._end

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
