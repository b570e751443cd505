"""Operations on single values: activations, bounds, sums, rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from octavo import spec
from octavo.ops.activation import GATED, PLAIN
from octavo.ops.cpu.record import records
from octavo.ops.registry import implements, reference
from octavo.ops.tape import Node, Recorder, Ref, fill
from octavo.platforms import native

Mapping = Literal["activation", "gated", "scale", "clip", "softcap", "copy"]
MAPS: tuple[Mapping, ...] = ("activation", "gated", "scale", "clip", "softcap", "copy")
ACTIVATIONS: dict[spec.Activation | None, int] = {
    None: 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4, "relu2": 5,
}  # fmt: skip


def matrix(ref: Ref | None) -> native.Tape:
    """A value as a kernel sees it: where its first row is, and how far the next one."""
    library = native.load()
    return library.Matrix() if ref is None else library.Matrix(ref.address, ref.stride)


def call(op: str, *args: object) -> Tensor:
    """The torch reference of an op."""
    result: Tensor = reference(op)(*args)  # type: ignore[assignment]
    return result


@dataclass(kw_only=True, eq=False)
class MapNode(Node):
    """f(x), value by value; "gated" reads gate | up."""

    name = "map"
    x: Ref
    map: Mapping
    activation: spec.Activation | None = None
    value: float = 0.0

    def may_write_over(self) -> Ref | None:
        return None if self.map == "gated" else self.x

    def reference(self, rows: int) -> Tensor | None:
        x = self.x.tensor(rows).flatten(1)
        if self.map in ("activation", "gated"):
            assert self.activation is not None
            names = PLAIN if self.map == "activation" else GATED
            return call(names[self.activation], x).view(rows, *self.out.shape)
        out = x if self.map == "copy" else call(self.map, x, self.value)
        return out.view(rows, *self.out.shape)

    def append(self, tape: native.Tape, max_rows: int) -> None:
        arguments = fill(
            native.load().Map(),
            x=matrix(self.x),
            out=matrix(self.out),
            map=MAPS.index(self.map),
            activation=ACTIVATIONS[self.activation],
            value=self.value,
            columns=self.out.columns,
        )
        tape.map(arguments)


@dataclass(kw_only=True, eq=False)
class AddNode(Node):
    """x + y. What made y adds x itself when it can."""

    name = "add"
    x: Ref
    y: Ref

    def may_write_over(self) -> Ref | None:
        return self.x

    def fuse(self, recording: Recorder) -> None:
        maker = recording.producer(self.y)
        adds = getattr(maker, "add_residual", None)  # only nodes whose kernel has the addition define it
        if adds is None or maker is None or maker.out.columns != self.y.columns:
            return
        if self.x.buffer is self.y.buffer or not recording.is_made_before(self.x, maker):
            return
        if recording.only_reader(self.y, self) and adds(self.x, self.out):
            recording.drop(self)

    def reference(self, rows: int) -> Tensor | None:
        return call("add", self.x.tensor(rows), self.y.tensor(rows))

    def append(self, tape: native.Tape, max_rows: int) -> None:
        arguments = fill(
            native.load().Add(), x=matrix(self.x), y=matrix(self.y), out=matrix(self.out), columns=self.out.columns
        )
        tape.add(arguments)


@dataclass(kw_only=True, eq=False)
class RotateNode(Node):
    """Channel pairs turned by their token's angles."""

    name = "rotate"
    x: Ref
    angles: Ref

    def may_write_over(self) -> Ref | None:
        return self.x if self.x.first == 0 and self.x.columns == self.x.buffer.columns else None

    def reference(self, rows: int) -> Tensor | None:
        return call("rotate", self.x.tensor(rows), self.angles.tensor(rows))

    def append(self, tape: native.Tape, max_rows: int) -> None:
        arguments = fill(
            native.load().Rotate(),
            x=matrix(self.x),
            out=matrix(self.out),
            angles=self.angles.address,
            heads=self.x.shape[0],
            head_dim=self.x.shape[1],
            rotated=self.angles.columns,
        )
        assert self.angles.stride == self.angles.columns
        tape.rotate(arguments)


@records("add", 2)
def add(x: Ref, y: Ref) -> Ref:
    """As ops.add."""
    return x.recorder.emit(AddNode(out=x.recorder.new(*x.shape), x=x, y=y))


@records("rotate", 2)
def rotate(x: Ref, angles: Ref) -> Ref:
    """As ops.rotate."""
    return x.recorder.emit(RotateNode(out=x.recorder.new(*x.shape), x=x, angles=angles))


@records("clip", 1)
def clip(x: Ref, bound: float) -> Ref:
    """As ops.clip."""
    return x.recorder.emit(MapNode(out=x.recorder.new(*x.shape), x=x, map="clip", value=bound))


@records("softcap", 1)
def softcap(x: Ref, cap: float) -> Ref:
    """As ops.softcap."""
    return x.recorder.emit(MapNode(out=x.recorder.new(*x.shape), x=x, map="softcap", value=cap))


def _activations() -> None:
    def plain(activation: spec.Activation) -> None:
        @records(PLAIN[activation], 1)
        def _(x: Ref) -> Ref:
            return x.recorder.emit(MapNode(out=x.recorder.new(*x.shape), x=x, map="activation", activation=activation))

    def gated(activation: spec.Activation) -> None:
        @records(GATED[activation], 1)
        def _(x: Ref) -> Ref:
            out = x.recorder.new(x.columns // 2)
            return x.recorder.emit(MapNode(out=out, x=x, map="gated", activation=activation))

    for name in PLAIN:
        plain(name)
        gated(name)


_activations()


def copy(x: Ref, out: Ref) -> Ref:
    """Put x where `out` is."""
    return x.recorder.emit(MapNode(out=out, x=x, map="copy"))


def concat(parts: list[Tensor] | list[Ref]) -> Tensor | Ref:
    """As ops.concat."""
    refs = [part for part in parts if isinstance(part, Ref)]
    return beside(refs) if refs else torch.cat([part for part in parts if isinstance(part, Tensor)], -1)


implements("concat", "cpu", (torch.float32,))(concat)


def beside(parts: list[Ref]) -> Ref:
    """The parts side by side, [T, sum of columns]: what made them writes into the whole where it can."""
    recorder = parts[0].recorder
    whole = recorder.new(sum(part.columns for part in parts))
    first = 0
    for part in parts:
        place = Ref(recorder, whole.buffer, first, part.shape)
        maker = recorder.producer(part)
        if maker is not None and maker.out.buffer is part.buffer and maker.out.columns == part.columns:
            assert not recorder.readers(part), "a part that is read elsewhere has to stay where it is"
            maker.out = place
        else:
            copy(part, place)
        first += part.columns
    return whole
