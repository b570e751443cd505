"""Linear layers over packed weights: the node that a tape gets, and the memory that weights are packed into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo import spec
from octavo.ops.activation import GATED
from octavo.ops.cpu.norm import NormNode
from octavo.ops.cpu.pointwise import ACTIVATIONS, call
from octavo.ops.cpu.record import at_once
from octavo.ops.quantized import Activations
from octavo.ops.tape import Node, Recorder, Ref, StepInput, fill, zeros
from octavo.platforms import native, reserve

# csrc/kernels/linear.h
WEIGHT_KINDS = {
    name: number
    for number, name in enumerate(
        "f32 bf16 f16 int8 int4 int4_bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k iq4_nl".split()
    )
}

PANEL = 32  # features of a panel
# Products in float32 round differently; the others also round their activations, to bfloat16 or to eight bits.
TOLERANCES = {WEIGHT_KINDS["f32"]: 1e-4, WEIGHT_KINDS["bf16"]: 2e-2, WEIGHT_KINDS["f16"]: 1e-3}


@dataclass(kw_only=True, eq=False)
class LinearNode(Node):
    """residual + bias + weight · norm(x); or activation(gate) · up of an interleaved weight."""

    name = "linear"
    x: Ref
    packed: NativePacked
    bias: Tensor | None = None
    activation: spec.Activation | None = None
    norm: NormNode | None = None
    residual: Ref | None = None

    def may_write_over(self) -> Ref | None:
        # x is read as a whole, by all members, while out is written.
        return None if self.residual is None or self.residual.buffer is self.x.buffer else self.residual

    def add_residual(self, residual: Ref, out: Ref) -> bool:
        """Also add `residual`, into `out`; False when this node cannot."""
        if self.residual is not None or self.activation is not None:
            return False
        self.residual, self.out = residual, out
        return True

    def fuse(self, recording: Recorder) -> None:
        maker = recording.producer(self.x)
        if not isinstance(maker, NormNode) or not maker.is_plain_rms or maker.out.columns != self.x.columns:
            return
        readers = recording.readers(self.x)
        if maker.out.buffer in recording.pinned or not all(isinstance(reader, LinearNode) for reader in readers):
            return
        for reader in readers:
            assert isinstance(reader, LinearNode)
            reader.norm, reader.x = maker, maker.x
        recording.drop(maker)

    def reference(self, rows: int) -> Tensor | None:
        assert self.norm is None and self.residual is None, "records are compared before they are fused"
        product = F.linear(self.x.tensor(rows), self.packed.dense(), self.bias)
        return product if self.activation is None else call(GATED[self.activation], product)

    @property
    def tolerance(self) -> float:
        return TOLERANCES.get(self.packed.weight.kind, 0.1)

    @property
    def weight_bytes(self) -> int:
        return self.packed.memory.nbytes

    def append(self, tape: native.Tape, max_rows: int) -> None:
        bias, norm, residual = self.bias, self.norm, self.residual
        arguments = fill(
            native.load().Linear(),
            weight=self.packed.weight,
            x=self.x.address,
            x_stride=self.x.stride,
            out=self.out.address,
            out_stride=self.out.stride,
            bias=0 if bias is None else bias.data_ptr(),
            residual=0 if residual is None else residual.address,
            residual_stride=0 if residual is None else residual.stride,
            norm_weight=0 if norm is None else norm.weight.data_ptr(),
            norm_eps=0.0 if norm is None else norm.eps,
            activation=ACTIVATIONS[self.activation],
        )
        tape.linear(arguments, max_rows)


@dataclass(kw_only=True, eq=False)
class EmbedPackedNode(Node):
    """scale · rows of a packed weight at the step's tokens."""

    name = "embed_packed"
    packed: NativePacked
    scale: float = 1.0

    def append(self, tape: native.Tape, max_rows: int) -> None:
        arguments = fill(
            native.load().EmbedPacked(),
            weight=self.packed.weight,
            out=self.out.address,
            out_stride=self.out.stride,
            scale=self.scale,
        )
        tape.embed_packed(arguments)


@dataclass(frozen=True)
class NativePacked:
    """A weight in panels: `weight` describes `memory`, which it points into.

    In a recording its methods take and give Refs, which stand for tensors.
    """

    weight: native.PackedWeight
    memory: Tensor

    @property
    def takes(self) -> torch.dtype | None:
        """None: its kernels round activations on the way."""
        return None

    def run(self, x: Activations | Ref, bias: Tensor | None) -> Tensor:
        """As Packed.run."""
        return self._multiply(x, bias, None)

    def gated(
        self, x: Activations | Ref, bias: Tensor | None, activation: spec.Activation, takes: torch.dtype | None = None
    ) -> Tensor:
        """As Packed.gated."""
        return self._multiply(x, bias, activation)

    def embed(self, ids: Tensor | StepInput) -> Tensor:
        """As Packed.embed; float32."""
        if isinstance(ids, StepInput):
            assert ids.name == "tokens", ids.name
            out = ids.recorder.new(self.weight.in_features)
            return cast(Tensor, ids.recorder.emit(EmbedPackedNode(out=out, packed=self)))
        recorder = Recorder(max(1, len(ids)))
        out = cast(Ref, self.embed(recorder.tokens))
        program = recorder.compile((out,))
        ids = ids.to(torch.int32).contiguous()
        program.run(fill(native.load().Step(), num_tokens=len(ids), tokens=ids.data_ptr()))
        return out.tensor(len(ids)).clone()

    def dense(self) -> Tensor:
        """The values that the panels denote, [O, I] float32; gate | up of interleaved ones in their own order."""
        weight, count = self.weight, self.weight.num_panels * PANEL
        fields = {
            name: getattr(weight, name) for name in ("panels", "panel_bytes", "kind", "in_features", "group", "flags")
        }
        plain = fill(native.load().PackedWeight(), out_features=count, interleaved=0, **fields)  # as the panels stand
        rows = NativePacked(plain, self.memory).embed(torch.arange(count, dtype=torch.int32))
        if weight.interleaved:
            halves = rows.view(-1, 2, PANEL // 2, weight.in_features).transpose(0, 1).flatten(1, 2)
            return halves[:, : weight.out_features // 2].flatten(0, 1)
        return rows[: weight.out_features]

    def _multiply(self, x: Activations | Ref, bias: Tensor | None, activation: spec.Activation | None) -> Tensor:
        assert bool(self.weight.interleaved) == (activation is not None), "gate and up are interleaved, and only they"
        bias = None if bias is None else bias.float().contiguous()

        def record(x: Ref) -> Ref:
            out = x.recorder.new(self.weight.out_features // (1 if activation is None else 2))
            return x.recorder.emit(LinearNode(out=out, x=x, packed=self, bias=bias, activation=activation))

        return cast(Tensor, record(x)) if isinstance(x, Ref) else at_once(record, (x,), ())


def allocate(
    kind: str,
    out_features: int,
    in_features: int,
    gated: bool,
    panel_bytes: Callable[[native.PackedWeight], int],
    **format: int,
) -> NativePacked:
    """Memory for a packed weight [O, I], not filled yet; `format` has the kind's own fields (group, flags)."""
    library = native.load()
    weight = fill(
        library.PackedWeight(),
        kind=WEIGHT_KINDS[kind],
        out_features=out_features,
        in_features=in_features,
        interleaved=int(gated),
        **format,
    )
    weight.panel_bytes = panel_bytes(weight)
    return filled(weight)


def filled(weight: native.PackedWeight) -> NativePacked:
    """A described weight with memory for its panels."""
    num_bytes = weight.panel_bytes * weight.num_panels
    part = reserve.take(num_bytes)
    memory = (
        zeros(num_bytes)
        if part is None
        else torch.frombuffer(part[0], dtype=torch.uint8, count=num_bytes, offset=part[1])
    )
    weight.panels = memory.data_ptr()
    return NativePacked(weight, memory)
