"""An engine process as its parent holds it: started in one call, so that it is at work while its parent prepares."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading

from octavo import env


class Child:
    """`python -m octavo.engine.process`, given its launch frame. Belongs to the running event loop."""

    def __init__(self, frame: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "octavo.engine.process"],
            stdin=subprocess.PIPE,
            bufsize=0,
            env=env.child(),
            start_new_session=True,  # Ctrl-C in a terminal goes to the whole group, and this one's end is ours to say
        )
        self.pid = self._process.pid
        threading.Thread(target=self._reap, name="octavo-reaper", daemon=True).start()
        assert self._process.stdin is not None
        self._stdin = self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which `wait` tells
            self._stdin.write(frame)

    def _reap(self) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody asks any more
            self._loop.call_soon_threadsafe(self._tell, code)

    def _tell(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    async def wait(self) -> int:
        """Its exit code once it has ended; negative: the signal that killed it."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End it at once, and its hold on its parent. Safe to call twice."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._stdin.close()
