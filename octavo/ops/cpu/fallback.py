"""Ops that have no native kernel: in a recording they become a call of their torch reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from octavo import log
from octavo.ops.registry import REFERENCE, Op, all_ops, implements
from octavo.ops.tape import PythonNode, Ref

logger = log.get(__name__)


def _calls_python(op: Op) -> Callable[..., object]:
    reference = op.implementations[REFERENCE].function

    def record_or_run(*args: object) -> object:
        refs = [arg for arg in args if isinstance(arg, Ref)]
        if not refs:
            return reference(*args)
        recorder = refs[0].recorder
        sample = [torch.zeros(2, *arg.shape) if isinstance(arg, Ref) else arg for arg in args]
        result = reference(*sample)
        assert isinstance(result, Tensor), (
            f"ops.{op.name} returns {type(result).__name__}, so it needs a node of its own"
        )
        logger.warning("ops.%s has no native kernel; torch computes it in every step, slower", op.name)
        out = recorder.new(*result.shape[1:])
        return recorder.emit(PythonNode(out=out, op=op.name, function=reference, args=args))  # type: ignore[arg-type]

    return record_or_run


def cover(names: frozenset[str]) -> None:
    """Register the fallback for every op that the CPU lacks, but for `names`, which no model calls on a CPU."""
    for op in all_ops():
        if "cpu" not in op.implementations and op.name not in names:
            implements(op.name, "cpu", (torch.float32,))(_calls_python(op))
