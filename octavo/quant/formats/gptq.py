"""Checkpoints of GPTQ (AutoGPTQ, GPTQModel, AutoRound): words along the inputs, scales and zero points per group.

Layout, all transposed: qweight [I / 8, O], a word holds eight inputs; qzeros [G, O / 8], a word holds eight outputs;
scales [G, O]; g_idx [I], each input's group. The first version of the format stores zero points minus one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from octavo.errors import StartupError, UnsupportedModel
from octavo.quant.online import GROUPS
from octavo.quant.words import unpack
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.source import WeightSource
from octavo.weights.weight import StoredFormat, Weight


class GPTQFormat:
    """`qweight`, `qzeros`, `scales` and perhaps `g_idx`; a module without `qweight` is dense."""

    method = "GPTQ"
    extras = ()

    def __init__(self, config: Mapping[str, Any]) -> None:
        """UnsupportedModel for widths that octavo does not read."""
        bits = config.get("bits")
        self.zero_offset = 0 if config.get("checkpoint_format") == "gptq_v2" else 1
        if bits not in (4, 8):
            raise UnsupportedModel(
                f"the checkpoint is quantized by GPTQ to {bits} bits; octavo reads 4, and 8 per channel", "model"
            )
        self.bits: int = bits
        self.holds = frozenset((f"int{bits}",))

    def read(self, source: WeightSource, name: str) -> Weight:
        stem = f"{name}." if name else ""
        if not source.has(f"{stem}qweight"):
            return StoredFormat().read(source, name)
        scales = source.read(f"{stem}scales").float().T.contiguous()
        codes = unpack(source.read(f"{stem}qweight").T, self.bits)
        zeros = unpack(source.read(f"{stem}qzeros"), self.bits).T[: codes.shape[0]]
        zeros = zeros + self.zero_offset & (1 << self.bits) - 1
        group = -(-codes.shape[1] // scales.shape[1])
        try:
            if source.has(f"{stem}g_idx"):
                _check_order(source.read(f"{stem}g_idx"), group)
            if self.bits == 8:
                return _eight_bits(codes, scales, zeros)
        except ValueError as error:
            raise StartupError(f"{source.prefix}{stem}qweight cannot be read: {error}", "model") from None
        return GroupInt(codes, scales, None if bool((zeros == 8).all()) else zeros.contiguous(), group).regrouped(
            GROUPS
        )


def _check_order(groups: Tensor, group: int) -> None:
    """ValueError unless input i belongs to group i // group."""
    if not torch.equal(groups.long(), torch.arange(len(groups)) // group):
        raise ValueError(
            "its groups are scattered over the inputs (desc_act); octavo reads checkpoints with desc_act=false"
        )


def _eight_bits(codes: Tensor, scales: Tensor, zeros: Tensor) -> ScaledInt8:
    if scales.shape[1] != 1 or not bool((zeros == 128).all()):
        raise ValueError(
            "it is 8-bit in groups or with zero points; octavo reads 8 bits with one scale a row, symmetric"
        )
    return ScaledInt8((codes ^ 128).view(torch.int8), scales[:, 0].contiguous())
