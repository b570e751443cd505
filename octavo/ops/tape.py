"""Recording a step: the ordinary model code runs once on symbolic values, and becomes a list of native records.

    ops.rms_norm(x, …)      x is a Ref       →  recorder.emit(Node)      →  passes  →  Program: one native call per step

A Ref stands for float32 rows, one per token of the step; control flow in `forward` runs at record time only. An op
without a native kernel becomes a node that calls its torch reference: slow, correct, logged once.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from octavo.platforms import native

HUGE_PAGE = 2**21


@dataclass(eq=False)
class Buffer:
    """Memory for `columns` float32 per token. `tensor` [max rows, columns] is given when the program is laid out."""

    columns: int
    tensor: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Ref:
    """A value of the step being recorded: [T, *shape] float32, in a buffer's columns from `first`.

    Rows are `buffer.columns` apart, their inner axes contiguous.
    """

    recorder: Recorder
    buffer: Buffer
    first: int
    shape: tuple[int, ...]

    @property
    def columns(self) -> int:
        """Values per token."""
        return torch.Size(self.shape).numel()

    def view(self, *shape: int | tuple[int, ...]) -> Ref:
        """The same values under another shape, whose first axis, the tokens, is -1."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        assert wanted[0] == -1, wanted
        inner = tuple(int(n) for n in wanted[1:])  # type: ignore[arg-type]
        assert torch.Size(inner).numel() == self.columns, (inner, self.shape)
        return Ref(self.recorder, self.buffer, self.first, inner)

    def flatten(self, start: int) -> Ref:
        """[T, columns]."""
        assert start == 1, start
        return Ref(self.recorder, self.buffer, self.first, (self.columns,))

    def float(self) -> Ref:
        """Itself: values are float32 already."""
        return self

    def __getitem__(self, index: tuple[slice, slice]) -> Ref:
        """[:, a:b]: part of the axis after the tokens."""
        tokens, part = index
        assert tokens == slice(None), index
        start, stop, step = part.indices(self.shape[0])
        assert step == 1, index
        inner = torch.Size(self.shape[1:]).numel()
        return Ref(self.recorder, self.buffer, self.first + start * inner, (stop - start, *self.shape[1:]))

    def tensor(self, rows: int) -> Tensor:
        """The first `rows` rows in the program's memory, once it is laid out."""
        assert self.buffer.tensor is not None
        part = self.buffer.tensor[:rows, self.first : self.first + self.columns]
        return part.unflatten(1, self.shape) if len(self.shape) > 1 else part

    @property
    def address(self) -> int:
        """Of the first row's first value."""
        assert self.buffer.tensor is not None
        return self.buffer.tensor.data_ptr() + 4 * self.first

    @property
    def stride(self) -> int:
        """Values from one row to the next."""
        return self.buffer.columns


@dataclass(frozen=True, eq=False)
class StepInput:
    """Token ids or positions of the step being recorded, [T] int32."""

    recorder: Recorder
    name: Literal["tokens", "positions"]


@dataclass(kw_only=True, eq=False)
class Node:
    """One operation of a recording: Ref fields are what it reads, `out` is what it writes."""

    name: ClassVar[str]
    out: Ref

    def reads(self) -> Iterator[Ref]:
        """The values it needs."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Ref) and each.name != "out":
                yield value

    def writes(self) -> Iterator[Ref]:
        """The values it makes."""
        yield self.out

    def may_write_over(self) -> Ref | None:
        """An input whose memory `out` may take when nobody else needs it: each cell is read before it is written."""
        return None

    def fuse(self, recording: Recorder) -> None:
        """Take over neighbors that this node's kernel computes on the way."""

    def append(self, tape: native.Tape, max_rows: int) -> None:
        """Add the native record."""
        raise NotImplementedError

    def reference(self, rows: int) -> Tensor | None:
        """What torch computes from this node's inputs in memory, [rows, *shape]; None: nothing to compare with."""
        return None

    @property
    def tolerance(self) -> float:
        """How far the kernel may be from `reference`, relative to the largest value of the row."""
        return 1e-4

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters that the kernel reads, whatever the number of rows."""
        return 0


@dataclass(kw_only=True, eq=False)
class PythonNode(Node):
    """An op that has no kernel: its torch reference on tensors over the program's memory."""

    name = "python"
    op: str
    function: Callable[..., Tensor]
    args: tuple[object, ...]

    def reads(self) -> Iterator[Ref]:
        return (arg for arg in self.args if isinstance(arg, Ref))

    def call(self, rows: int) -> None:
        """Compute and store."""
        args = [arg.tensor(rows) if isinstance(arg, Ref) else arg for arg in self.args]
        self.out.tensor(rows).copy_(self.function(*args))


class Recorder:
    """Nodes in order, as the model's code emits them.

    A step will have at most `max_rows` tokens of `max_seqs` sequences with `max_pages` pages each.
    """

    def __init__(self, max_rows: int, max_seqs: int = 1, max_pages: int = 1) -> None:
        self.max_rows = max_rows
        self.max_seqs = max_seqs
        self.max_pages = max_pages
        self.nodes: list[Node] = []
        self.tokens = StepInput(self, "tokens")
        self.positions = StepInput(self, "positions")
        self.pinned: list[Buffer] = []

    def new(self, *shape: int) -> Ref:
        """A value in a buffer of its own."""
        return Ref(self, Buffer(torch.Size(shape).numel()), 0, shape)

    def external(self, *shape: int) -> Ref:
        """A value that is there before the step runs: its memory is never shared."""
        ref = self.new(*shape)
        self.pinned.append(ref.buffer)
        return ref

    def emit(self, node: Node) -> Ref:
        """Append a node; returns its output."""
        self.nodes.append(node)
        return node.out

    def producer(self, value: Ref) -> Node | None:
        """The one node that made the buffer `value` is in; None when there are several."""
        makers = [node for node in self.nodes if any(ref.buffer is value.buffer for ref in node.writes())]
        return makers[0] if len(makers) == 1 else None

    def readers(self, value: Ref) -> list[Node]:
        """The nodes that read any part of the buffer."""
        return [node for node in self.nodes if any(ref.buffer is value.buffer for ref in node.reads())]

    def only_reader(self, value: Ref, reader: Node) -> bool:
        """Whether nobody but `reader` needs the buffer."""
        return self.readers(value) == [reader] and value.buffer not in self.pinned

    def is_made_before(self, value: Ref, node: Node) -> bool:
        """Whether the buffer `value` is in is complete when `node` runs."""
        later = self.nodes[self.nodes.index(node) :]
        return not any(ref.buffer is value.buffer for each in later for ref in each.writes())

    def drop(self, node: Node) -> None:
        """Take a node out: another one has taken it over."""
        self.nodes.remove(node)

    def compile(self, results: tuple[Ref, ...], fuse: bool = True) -> Program:
        """Fuse, lay out memory, and record; `results` stay readable after a run."""
        self.pinned += [ref.buffer for ref in results]
        if fuse:
            for node in list(self.nodes):
                if node in self.nodes:
                    node.fuse(self)
        arena = lay_out(self.nodes, self.pinned, self.max_rows)
        return Program(self.nodes, self.max_rows, arena)


def lay_out(nodes: list[Node], pinned: list[Buffer], max_rows: int) -> Tensor:
    """Give every buffer its place in one arena; a place is taken again when its last reader has run."""
    last: dict[Buffer, int] = {}
    for index, node in enumerate(nodes):
        for ref in (*node.writes(), *node.reads()):
            last[ref.buffer] = index
    for buffer in pinned:
        last[buffer] = len(nodes)
    places: dict[Buffer, int] = {}
    sizes: list[int] = []  # columns of each place
    free: list[int] = []

    def take(buffer: Buffer) -> None:
        fitting = [place for place in free if sizes[place] >= buffer.columns]
        if fitting:
            places[buffer] = min(fitting, key=lambda place: sizes[place])
            free.remove(places[buffer])
        else:
            places[buffer] = len(sizes)
            sizes.append(-(-buffer.columns // 16) * 16)

    for buffer in pinned:
        if buffer not in places:
            take(buffer)
    for index, node in enumerate(nodes):
        over = node.may_write_over()
        for ref in node.writes():
            if ref.buffer in places:
                continue
            if over is not None and over.buffer not in pinned and last[over.buffer] == index:
                places[ref.buffer] = places[over.buffer]
            else:
                take(ref.buffer)
        kept = {places[buffer] for buffer, end in last.items() if end > index and buffer in places}
        ended = {places[buffer] for buffer, end in last.items() if end == index and buffer in places}
        free += sorted(ended - kept)
    arena = zeros(sum(sizes) * max_rows * 4 + 64 * len(sizes)).view(torch.float32)
    starts = [0]
    for columns in sizes:
        starts.append(starts[-1] + columns * max_rows)
    for buffer, place in places.items():
        memory = arena[starts[place] : starts[place] + buffer.columns * max_rows]
        buffer.tensor = memory.view(max_rows, buffer.columns)
    return arena


def zeros(num_bytes: int) -> Tensor:
    """Zeroed bytes in the system's huge pages where it has them; taken as they are touched."""
    # Private: shared memory is never in huge pages by default, and reading weights is a third slower without.
    memory = mmap.mmap(-1, max(num_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if num_bytes >= HUGE_PAGE:
        with contextlib.suppress(AttributeError, OSError):  # a system without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


class Program:
    """A recorded step: native records, cut where a node must run in Python."""

    def __init__(self, nodes: list[Node], max_rows: int, arena: Tensor) -> None:
        self.nodes = nodes
        self.max_rows = max_rows
        self.arena = arena
        self.tape = native.tape()
        self.segments: list[tuple[int, int] | PythonNode] = []
        self.native_nodes: list[Node] = []  # the node of each record
        first = 0
        for node in nodes:
            if isinstance(node, PythonNode):
                if len(self.tape) > first:
                    self.segments.append((first, len(self.tape)))
                self.segments.append(node)
                first = len(self.tape)
            else:
                node.append(self.tape, max_rows)
                self.native_nodes.append(node)
                assert len(self.native_nodes) == len(self.tape), f"{node.name} must be one record"
        if len(self.tape) > first:
            self.segments.append((first, len(self.tape)))

    def run(self, step: native.Step) -> None:
        """Run for a step of at most `max_rows` tokens."""
        assert step.num_tokens <= self.max_rows, (step.num_tokens, self.max_rows)
        for segment in self.segments:
            if isinstance(segment, PythonNode):
                segment.call(step.num_tokens)
            else:
                self.tape.run(step, *segment)

    def walk(self, step: native.Step) -> Iterator[Node]:
        """Run node by node: each is yielded before it runs."""
        record = 0
        for node in self.nodes:
            yield node
            if isinstance(node, PythonNode):
                node.call(step.num_tokens)
            else:
                self.tape.run(step, record, record + 1)
                record += 1


def fill(record: Any, **values: object) -> Any:
    """A native argument structure with its fields set."""
    for name, value in values.items():
        setattr(record, name, value)
    return record
