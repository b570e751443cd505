"""Norms of rows and of heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from octavo.ops.cpu.pointwise import add, call, matrix
from octavo.ops.cpu.record import records
from octavo.ops.registry import implements
from octavo.ops.tape import Node, Ref, fill
from octavo.platforms import native

KINDS = ("rms", "layer")


@dataclass(kw_only=True, eq=False)
class NormNode(Node):
    """(residual +) norm(x) · weight + bias, over each of `heads` spans of a row."""

    name = "norm"
    x: Ref
    weight: Tensor
    bias: Tensor | None
    eps: float
    kind: str
    heads: int = 1
    residual: Ref | None = None

    @property
    def is_plain_rms(self) -> bool:
        """Whether it is a root-mean-square norm of whole rows and nothing more."""
        return self.kind == "rms" and self.heads == 1 and self.bias is None and self.residual is None

    def may_write_over(self) -> Ref | None:
        return self.residual

    def add_residual(self, residual: Ref, out: Ref) -> bool:
        """Also add `residual`, into `out`; False when this node already adds another."""
        if self.residual is not None or self.heads > 1:
            return False
        self.residual, self.out = residual, out
        return True

    def reference(self, rows: int) -> Tensor | None:
        assert self.residual is None, "records are compared before they are fused"
        x = self.x.tensor(rows)
        if self.kind == "layer":
            return call("layer_norm", x, self.weight, self.bias, self.eps)
        return call("head_rms_norm" if self.heads > 1 else "rms_norm", x, self.weight, self.eps)

    def append(self, tape: native.Tape, max_rows: int) -> None:
        arguments = fill(
            native.load().Norm(),
            x=matrix(self.x),
            out=matrix(self.out),
            residual=matrix(self.residual),
            weight=self.weight.data_ptr(),
            bias=0 if self.bias is None else self.bias.data_ptr(),
            kind=KINDS.index(self.kind),
            heads=self.heads,
            columns=self.x.columns // self.heads,
            eps=self.eps,
        )
        tape.norm(arguments)


def _emit(x: Ref, weight: Tensor, bias: Tensor | None, eps: float, kind: str, heads: int = 1) -> Ref:
    weight = weight.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    out = x.recorder.new(*x.shape)
    return x.recorder.emit(NormNode(out=out, x=x, weight=weight, bias=bias, eps=eps, kind=kind, heads=heads))


@records("rms_norm", 1)
def rms_norm(x: Ref, weight: Tensor, eps: float) -> Ref:
    """As ops.rms_norm."""
    return _emit(x, weight, None, eps, "rms")


@records("head_rms_norm", 1)
def head_rms_norm(x: Ref, weight: Tensor, eps: float) -> Ref:
    """As ops.head_rms_norm."""
    return _emit(x, weight, None, eps, "rms", heads=x.shape[0])


@records("layer_norm", 1)
def layer_norm(x: Ref, weight: Tensor, bias: Tensor | None, eps: float) -> Ref:
    """As ops.layer_norm."""
    return _emit(x, weight, bias, eps, "layer")


# What a GPU launches at once is recorded as what it is made of: nodes fuse on the way as their kernels like it.


@implements("add_rms_norm", "cpu", (torch.float32,))
def add_rms_norm(x: Ref, y: Ref, weight: Tensor, eps: float) -> tuple[Ref, Ref]:
    """As ops.add_rms_norm."""
    total = add(x, y)
    return total, rms_norm(total, weight, eps)


@implements("add_layer_norm", "cpu", (torch.float32,))
def add_layer_norm(x: Ref, y: Ref, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Ref, Ref]:
    """As ops.add_layer_norm."""
    total = add(x, y)
    return total, layer_norm(total, weight, bias, eps)


@implements("rms_norm_add", "cpu", (torch.float32,))
def rms_norm_add(x: Ref, y: Ref, weight: Tensor, eps: float) -> Ref:
    """As ops.rms_norm_add."""
    return add(x, rms_norm(y, weight, eps))


@implements("rms_norm_add_rms_norm", "cpu", (torch.float32,))
def rms_norm_add_rms_norm(
    x: Ref, y: Ref, inner: Tensor, inner_eps: float, weight: Tensor, eps: float
) -> tuple[Ref, Ref]:
    """As ops.rms_norm_add_rms_norm."""
    total = rms_norm_add(x, y, inner, inner_eps)
    return total, rms_norm(total, weight, eps)
