"""Mixture of experts: routing, and the experts' products over tokens sorted by expert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo import spec
from octavo.ops.cpu.linear import NativePacked
from octavo.ops.cpu.pointwise import ACTIVATIONS, call, matrix
from octavo.ops.registry import implements
from octavo.ops.tape import Node, Recorder, Ref, fill
from octavo.platforms import native


@dataclass(kw_only=True, eq=False)
class RouteNode(Node):
    """The likeliest experts of each token: `out` holds their int32 numbers, `weights` their shares."""

    name = "route"
    logits: Ref
    weights: Ref
    renormalize: bool

    def reads(self) -> Iterator[Ref]:
        yield self.logits

    def writes(self) -> Iterator[Ref]:
        yield self.out
        yield self.weights

    def append(self, tape: native.Tape, max_rows: int) -> None:
        arguments = fill(
            native.load().Route(),
            logits=matrix(self.logits),
            ids=self.out.address,
            weights=self.weights.address,
            num_experts=self.logits.columns,
            top_k=self.out.columns,
            renormalize=int(self.renormalize),
        )
        tape.route(arguments)


@dataclass(kw_only=True, eq=False)
class ExpertsNode(Node):
    """(residual +) the weighed sum of each token's experts."""

    name = "experts"
    x: Ref
    ids: Ref
    weights: Ref
    gate_up: tuple[NativePacked, ...]
    down: tuple[NativePacked, ...]
    activation: spec.Activation
    residual: Ref | None = None
    addresses: tuple[Tensor, ...] = ()

    def may_write_over(self) -> Ref | None:
        return self.residual

    def add_residual(self, residual: Ref, out: Ref) -> bool:
        """Also add `residual`, into `out`; False when this node already adds another."""
        if self.residual is not None:
            return False
        self.residual, self.out = residual, out
        return True

    def reference(self, rows: int) -> Tensor | None:
        assert self.residual is None, "records are compared before they are fused"
        ids = self.ids.tensor(rows).contiguous().view(torch.int32).long()
        arguments = self.gate_up, self.down, ids, self.weights.tensor(rows), self.activation
        return call("expert_mlps", self.x.tensor(rows), *arguments)

    @property
    def tolerance(self) -> float:
        return 0.1

    def append(self, tape: native.Tape, max_rows: int) -> None:
        self.addresses = tuple(
            torch.tensor([each.weight.panels for each in side]) for side in (self.gate_up, self.down)
        )
        arguments = fill(
            native.load().Experts(),
            x=matrix(self.x),
            out=matrix(self.out),
            residual=matrix(self.residual),
            ids=self.ids.address,
            weights=self.weights.address,
            gate_up=self.gate_up[0].weight,
            down=self.down[0].weight,
            gate_up_panels=self.addresses[0].data_ptr(),
            down_panels=self.addresses[1].data_ptr(),
            num_experts=len(self.down),
            top_k=self.ids.columns,
            activation=ACTIVATIONS[self.activation],
        )
        tape.experts(arguments, max_rows)


def route(logits: Tensor | Ref, top_k: int, renormalize: bool) -> tuple[Tensor | Ref, Tensor | Ref]:
    """As ops.route; recorded ids are int32 in the cells of float32."""
    if isinstance(logits, Ref):
        recorder = logits.recorder
        node = RouteNode(out=recorder.new(top_k), weights=recorder.new(top_k), logits=logits, renormalize=renormalize)
        return recorder.emit(node), node.weights
    rows = len(logits)
    recorder = Recorder(max(rows, 1))
    given = recorder.external(logits.shape[1])
    ids, weights = route(given, top_k, renormalize)
    assert isinstance(ids, Ref) and isinstance(weights, Ref), (type(ids), type(weights))
    program = recorder.compile((ids, weights))
    given.tensor(rows).copy_(logits)
    program.run(fill(native.load().Step(), num_tokens=rows))
    return ids.tensor(rows).contiguous().view(torch.int32).long(), weights.tensor(rows).clone()


def expert_mlps(
    x: Tensor | Ref,
    gate_up: Sequence[NativePacked],
    down: Sequence[NativePacked],
    ids: Tensor | Ref,
    weights: Tensor | Ref,
    activation: spec.Activation,
) -> Tensor | Ref:
    """As ops.expert_mlps; each side's weights are of one kind."""
    if isinstance(x, Ref):
        assert isinstance(ids, Ref) and isinstance(weights, Ref), (type(ids), type(weights))
        for side in (gate_up, down):
            assert len({(each.weight.kind, each.weight.panel_bytes) for each in side}) == 1, "experts are held alike"
        node = ExpertsNode(
            out=x.recorder.new(*x.shape),
            x=x,
            ids=ids,
            weights=weights,
            gate_up=tuple(gate_up),
            down=tuple(down),
            activation=activation,
        )
        return x.recorder.emit(node)
    return call("expert_mlps", x, gate_up, down, ids, weights, activation)


implements("route", "cpu", (torch.float32,))(route)
implements("expert_mlps", "cpu", (torch.float32,))(expert_mlps)
