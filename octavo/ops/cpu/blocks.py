"""Weights in GGUF's blocks, repacked from the file's bytes without ever being dense."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from octavo.ops.cpu.linear import WEIGHT_KINDS, NativePacked, allocate
from octavo.ops.linear import linear_kernel
from octavo.platforms import native
from octavo.weights.blocks import GGUFBlocks
from octavo.weights.weight import Weight


class BlocksNative:
    """The block types that have a kernel; the others become dense."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        if not isinstance(weight, GGUFBlocks):
            return "takes GGUF's blocks"
        name = weight.kind.lower()
        if name not in WEIGHT_KINDS or not native.load().has_format(WEIGHT_KINDS[name]):
            return f"has no kernel for {weight.kind}"
        return None

    def pack(
        self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False
    ) -> NativePacked:
        blocks = [part for part in parts if isinstance(part, GGUFBlocks)]
        library = native.load()
        out_features = sum(part.shape[0] for part in blocks)
        kind = blocks[0].kind.lower()
        packed = allocate(kind, out_features, blocks[0].shape[1], gated, library.block_panel_bytes)
        given = [(part.data.data_ptr(), part.data.stride(0), part.shape[0]) for part in blocks]
        library.pack_blocks(native.team(), packed.weight, given)
        return packed


linear_kernel("cpu", BlocksNative())
