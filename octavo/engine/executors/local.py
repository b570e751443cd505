"""LocalExecutor: a device in this process, called directly."""

from __future__ import annotations

from octavo.engine.executors.executor import Mask
from octavo.messages import BatchMessage, StepResult
from octavo.worker.runner import ModelRunner, Pending
from octavo.worker.worker import Worker


class LocalStep:
    """One step of a worker in this process."""

    def __init__(self, runner: ModelRunner, pending: Pending) -> None:
        self._runner = runner
        self._pending = pending

    def sample(self, mask: Mask | None) -> None:
        """Queue the choice of the next tokens; `mask` has one row per emitting row."""
        assert mask is None or len(mask) == self._pending.num_masked, (mask.shape, self._pending.num_masked)
        self._runner.sample(self._pending, mask)

    def result(self) -> StepResult:
        """What the step produced."""
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
        return LocalStep(runner, runner.launch(batch))

    def stop(self) -> None:
        """Let go of caches and rows."""
        self._worker.close()
