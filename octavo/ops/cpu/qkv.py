"""Norms, bounds and rotation of queries and keys: nodes of their own, which native attention takes over."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from octavo.ops.cpu.norm import head_rms_norm, rms_norm
from octavo.ops.cpu.pointwise import call, clip, concat, rotate
from octavo.ops.qkv import QKNorm
from octavo.ops.registry import implements
from octavo.ops.tape import Ref


@implements("prepare_qkv", "cpu", (torch.float32,))
def prepare_qkv(
    qkv: Ref,
    heads: int,
    norm: QKNorm | None,
    clip_to: float | None,
    angles: Ref | None,
    cache: Tensor | None,
    slots: Tensor | None,
    scales: Tensor | None = None,
) -> tuple[Ref, Ref, Ref]:
    """As ops.prepare_qkv. In a recording nothing is written: that is the attention node's."""
    assert scales is None, "no cache of float8"
    rotated = (qkv.shape[-2] + heads) // 2
    qk, v = qkv[:, :rotated], qkv[:, rotated:]
    if norm is not None:
        qk = _normalized(qk, heads, norm)
    if clip_to is not None:
        qk, v = clip(qk, clip_to), clip(v, clip_to)
    if angles is not None:
        qk = rotate(qk, angles)
    q, k = qk[:, :heads], qk[:, heads:]
    if cache is not None:  # of tensors, for an attention backend that leaves writing to this
        call("write_cache", cache, slots, k, v)
    return q, k, v


def _normalized(qk: Ref, heads: int, norm: QKNorm) -> Ref:
    if norm.span == "head":
        return head_rms_norm(qk, norm.weight, norm.eps)
    q = rms_norm(qk[:, :heads].flatten(1), norm.weight[:heads].flatten(), norm.eps)
    k = rms_norm(qk[:, heads:].flatten(1), norm.weight[heads:].flatten(), norm.eps)
    return cast(Ref, concat([q, k])).view(-1, *norm.weight.shape)
