"""LocalExecutor: a device in this process, called directly."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from octavo.engine.executors.executor import DeviceLost, Mask
from octavo.messages import BatchMessage, StepResult
from octavo.platforms.cuda import is_lost
from octavo.worker.runner import ModelRunner, Pending
from octavo.worker.worker import Worker


@contextlib.contextmanager
def watched() -> Generator[None]:
    """Tell a device that is lost from a step that has failed."""
    try:
        yield
    except RuntimeError as error:
        if is_lost(error):
            raise DeviceLost(f"the GPU is lost: {str(error).splitlines()[0]}") from error
        raise


class LocalStep:
    """One step of a worker in this process."""

    def __init__(self, runner: ModelRunner, pending: Pending) -> None:
        self._runner = runner
        self._pending = pending

    def sample(self, mask: Mask | None) -> None:
        """Queue the choice of the next tokens; `mask` has one row per emitting row."""
        assert mask is None or len(mask) == self._pending.num_masked, (mask.shape, self._pending.num_masked)
        with watched():
            self._runner.sample(self._pending, mask)

    def result(self) -> StepResult:
        """What the step produced."""
        with watched():
            return self._runner.result(self._pending)


class LocalExecutor:
    """An Executor over a worker whose caches are allocated. An exception of a step is that step's alone."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def launch(self, batch: BatchMessage) -> LocalStep:
        """Run a step's forward pass (on a GPU, queue it)."""
        runner = self._worker.runner
        if runner is None:
            raise RuntimeError("launch on a worker that has no caches: call Worker.allocate first")
        with watched():
            return LocalStep(runner, runner.launch(batch))

    def stop(self) -> None:
        """Let go of caches and rows."""
        self._worker.close()
