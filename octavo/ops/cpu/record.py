"""How a native op meets its caller: symbolic values are recorded, tensors are recorded for themselves alone and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from octavo.ops.registry import implements
from octavo.ops.tape import Recorder, Ref, StepInput
from octavo.platforms import native

P = ParamSpec("P")
R = TypeVar("R")


def records(name: str, inputs: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a recording function as the CPU's op `name`; its first `inputs` arguments are values of the step."""

    def register(function: Callable[P, R]) -> Callable[P, R]:
        def record_or_run(*args: object) -> object:
            if is_recording(args):
                return function(*args)  # type: ignore[arg-type, call-arg]
            return at_once(function, args[:inputs], args[inputs:])

        implements(name, "cpu", (torch.float32,))(record_or_run)
        return record_or_run  # type: ignore[return-value]

    return register


def is_recording(args: tuple[object, ...]) -> bool:
    """Whether a call belongs to a recording."""
    return any(isinstance(arg, Ref | StepInput) for arg in args)


def at_once(function: Callable[..., object], values: tuple[object, ...], rest: tuple[object, ...]) -> Tensor:
    """Record `function` on tensors [T, …] alone, run it, and return its result."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    assert len(tensors) == len(values), [type(value) for value in values]
    rows = tensors[0].shape[0]
    recorder = Recorder(max(rows, 1))
    refs = [recorder.external(*tensor.shape[1:]) for tensor in tensors]
    out = function(*refs, *rest)
    assert isinstance(out, Ref), type(out)
    program = recorder.compile((out,))
    for ref, tensor in zip(refs, tensors, strict=True):
        ref.tensor(rows).copy_(tensor)
    step = native.load().Step()
    step.num_tokens = rows
    program.run(step)
    return out.tensor(rows).clone()
