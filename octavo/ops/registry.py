"""Which operations exist, who implements each, and which implementation `octavo.ops.<name>` is."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from octavo import log
from octavo.errors import StartupError

P = ParamSpec("P")
R = TypeVar("R")
Case = Mapping[str, object]
Inputs = Callable[[Case, torch.Generator], tuple[object, ...]]
OpFunction = Callable[..., object]

REFERENCE = "reference"
logger = log.get(__name__)


@dataclass(frozen=True)
class Implementation:
    """One way to compute an op. `dtypes` are the activation types it takes; empty means any."""

    backend: str
    function: OpFunction
    dtypes: tuple[torch.dtype, ...] = ()

    def refuses(self, dtype: torch.dtype | None) -> str | None:
        """Why this implementation cannot serve a model of `dtype`; None when it can."""
        if dtype is None or not self.dtypes or dtype in self.dtypes:
            return None
        return f"takes {', '.join(map(str, self.dtypes))}, not {dtype}"


@dataclass(frozen=True)
class Op:
    """An operation: its cases, how to draw inputs for one, and the tolerance (absolute and relative) per dtype."""

    name: str
    cases: tuple[Case, ...]
    inputs: Inputs
    tolerance: Mapping[torch.dtype, float]
    implementations: dict[str, Implementation] = field(default_factory=dict)


_OPS: dict[str, Op] = {}


def shapes(**axes: tuple[object, ...]) -> tuple[Case, ...]:
    """Every combination of the axes' values, as cases."""
    return tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def op(
    cases: tuple[Case, ...], inputs: Inputs, tolerance: Mapping[torch.dtype, float]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare an op by its torch reference; the function's name is the op's."""

    def declare(reference: Callable[P, R]) -> Callable[P, R]:
        implementation = Implementation(REFERENCE, reference)
        _OPS[reference.__name__] = Op(reference.__name__, cases, inputs, tolerance, {REFERENCE: implementation})
        return reference

    return declare


def implements(
    name: str, backend: str, dtypes: tuple[torch.dtype, ...] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function as `backend`'s implementation of op `name`, for activations of `dtypes`."""

    def register(function: Callable[P, R]) -> Callable[P, R]:
        _OPS[name].implementations[backend] = Implementation(backend, function, dtypes)
        return function

    return register


def reference(name: str) -> OpFunction:
    """The torch reference of op `name`."""
    return _OPS[name].implementations[REFERENCE].function


def all_ops() -> tuple[Op, ...]:
    """Every declared op, in order of declaration."""
    return tuple(_OPS.values())


def bind(platform_ops: tuple[str, ...], dtype: torch.dtype | None = None) -> dict[str, str]:
    """Make each `octavo.ops.<name>` the first of the platform's backends that takes `dtype`, and return which.

    Called once, before a model is built: afterwards a call costs one attribute look-up and no dispatch.
    """
    for backend in platform_ops:
        if backend != REFERENCE:
            _import_backend(backend)
    namespace = sys.modules["octavo.ops"]
    bound: dict[str, str] = {}
    for each in _OPS.values():
        chosen = _choose(each, platform_ops, dtype)
        setattr(namespace, each.name, chosen.function)
        bound[each.name] = chosen.backend
    return bound


def _import_backend(backend: str) -> None:
    try:
        importlib.import_module(f"octavo.ops.{backend}")
    except ModuleNotFoundError as error:
        raise StartupError(f"ops backend {backend!r} cannot be imported: {error}", "ops") from error


def _choose(each: Op, backends: tuple[str, ...], dtype: torch.dtype | None) -> Implementation:
    for backend in backends:
        candidate = each.implementations.get(backend)
        if candidate is None:
            continue
        reason = candidate.refuses(dtype)
        if reason is None:
            return candidate
        logger.info("ops.%s: %s %s; using the next", each.name, backend, reason)
    return each.implementations[REFERENCE]


def draw(shape: tuple[int, ...], case: Case, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """A normal tensor of the case's dtype, for an op's inputs."""
    dtype = case.get("dtype", torch.float32)
    assert isinstance(dtype, torch.dtype), dtype
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def size(case: Case, axis: str) -> int:
    """An integer axis of a case."""
    value = case[axis]
    assert isinstance(value, int), (axis, value)
    return value
