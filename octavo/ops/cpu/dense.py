"""Weights held value by value, as panels of float32, bfloat16 or float16."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from octavo.ops.cpu.linear import NativePacked, allocate
from octavo.platforms import native
from octavo.weights.weight import Dense, Weight

KINDS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
SOURCES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class DenseNative:
    """Takes dense weights; any other kind as the dense weight it stands for, where no kernel knows it better."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        return None if dtype in KINDS else f"holds {', '.join(map(str, KINDS))}, not {dtype}"

    def pack(
        self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False
    ) -> NativePacked:
        values = [part.values if isinstance(part, Dense) else part.dequantize(dtype) for part in parts]
        values = [each if each.stride(1) == 1 else each.contiguous() for each in values]
        library = native.load()
        out_features = sum(part.shape[0] for part in parts)
        packed = allocate(KINDS[dtype], out_features, parts[0].shape[1], gated, library.panel_bytes)
        library.pack_float(
            native.team(),
            packed.weight,
            [(each.data_ptr(), SOURCES[each.dtype], each.stride(0), each.shape[0]) for each in values],
        )
        return packed


DENSE = DenseNative()  # takes every kind, so it is registered behind the others
