"""Rows of dense tables, by token or by position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from octavo.ops.cpu.linear import EmbedPackedNode
from octavo.ops.cpu.pointwise import MapNode
from octavo.ops.cpu.record import is_recording
from octavo.ops.registry import implements
from octavo.ops.tape import Node, Recorder, Ref, StepInput, fill
from octavo.platforms import native

TABLES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@dataclass(kw_only=True, eq=False)
class EmbedNode(Node):
    """scale · table[tokens or positions]."""

    name = "embed"
    table: Tensor
    by_position: bool
    scale: float = 1.0

    def append(self, tape: native.Tape, max_rows: int) -> None:
        library = native.load()
        embed = fill(
            library.Embed(),
            table=self.table.data_ptr(),
            kind=TABLES[self.table.dtype],
            by_position=int(self.by_position),
            columns=self.table.shape[1],
            out=library.Matrix(self.out.address, self.out.stride),
            scale=self.scale,
        )
        tape.embed(embed)


def embed(table: Tensor, ids: Tensor | StepInput) -> Tensor | Ref:
    """As ops.embed; the table keeps its own type and the result is float32."""
    table = table.contiguous()
    if isinstance(ids, StepInput):
        out = ids.recorder.new(table.shape[1])
        return ids.recorder.emit(EmbedNode(out=out, table=table, by_position=ids.name == "positions"))
    recorder = Recorder(max(1, len(ids)))
    out = embed(table, recorder.tokens)
    assert isinstance(out, Ref)
    program = recorder.compile((out,))
    ids = ids.to(torch.int32).contiguous()
    program.run(fill(native.load().Step(), num_tokens=len(ids), tokens=ids.data_ptr()))
    return out.tensor(len(ids)).clone()


implements("embed", "cpu", (torch.float32,))(embed)


def scale(x: Tensor | Ref, factor: float) -> Tensor | Ref:
    """As ops.scale; right after a look-up it costs nothing."""
    if not is_recording((x,)):
        assert isinstance(x, Tensor)
        return x * factor
    assert isinstance(x, Ref)
    maker = x.recorder.nodes[-1] if x.recorder.nodes else None
    if isinstance(maker, EmbedNode | EmbedPackedNode) and maker.out is x:
        maker.scale *= factor
        return x
    return x.recorder.emit(MapNode(out=x.recorder.new(*x.shape), x=x, map="scale", value=factor))


implements("scale", "cpu", (torch.float32,))(scale)
