"""Checkpoints of AWQ (AutoAWQ's "gemm" version): words along the outputs, interleaved for its GPU kernel.

Layout, all transposed: qweight [I, O / 8], qzeros [G, O / 8], scales [G, O]. The nibbles of a word, from the lowest,
are its outputs 0 2 4 6 1 3 5 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from octavo.errors import UnsupportedModel
from octavo.quant.online import GROUPS
from octavo.quant.words import nibbles
from octavo.weights.integers import GroupInt
from octavo.weights.source import WeightSource
from octavo.weights.weight import StoredFormat, Weight

NIBBLE_OF = (0, 4, 1, 5, 2, 6, 3, 7)  # of output 8 n + i in its word


class AWQFormat:
    """`qweight`, `qzeros` and `scales`; a module without `qweight` is dense."""

    method = "AWQ"
    holds = frozenset(("int4",))
    extras = ()

    def __init__(self, config: Mapping[str, Any]) -> None:
        """UnsupportedModel for widths and layouts that octavo does not read."""
        bits = config.get("bits", config.get("w_bit"))
        version = str(config.get("version", "gemm")).lower()
        if bits != 4 or version != "gemm":
            raise UnsupportedModel(
                f"the checkpoint is quantized by AWQ to {bits} bits, version {version}; octavo reads 4 bits, gemm",
                "model",
            )

    def read(self, source: WeightSource, name: str) -> Weight:
        stem = f"{name}." if name else ""
        if not source.has(f"{stem}qweight"):
            return StoredFormat().read(source, name)
        scales = source.read(f"{stem}scales").float().T.contiguous()
        codes = _in_order(source.read(f"{stem}qweight"))
        zeros = _in_order(source.read(f"{stem}qzeros")) if source.has(f"{stem}qzeros") else None
        return GroupInt(codes, scales, zeros, -(-codes.shape[1] // scales.shape[1])).regrouped(GROUPS)


def _in_order(words: Tensor) -> Tensor:
    """[R, O / 8] int32 -> [O, R] uint8."""
    split = nibbles(words).view(*words.shape, 8)
    return split[:, :, torch.tensor(NIBBLE_OF)].flatten(1).T.contiguous()
