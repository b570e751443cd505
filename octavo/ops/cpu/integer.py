"""Integer weights: eight bits per output feature, four bits in groups, their activations rounded per token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from octavo.ops.cpu.linear import NativePacked, allocate
from octavo.ops.linear import linear_kernel
from octavo.platforms import native
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.weight import Weight

GROUPS = (128, 64, 32)  # inputs per scale that the kernels know
HAS_ZERO_POINTS = 1  # csrc/kernels/quantize.h
W4A16 = "w4a16"  # ops backend that is put first to have int4 weights meet bfloat16 activations


class Int8Native:
    """W8A8: products of whole numbers, exact before they are scaled."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        return None if isinstance(weight, ScaledInt8) else "takes int8 weights"

    def pack(
        self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False
    ) -> NativePacked:
        weights = [part for part in parts if isinstance(part, ScaledInt8)]
        codes = [weight.codes.contiguous() for weight in weights]
        scales = [weight.scales.contiguous() for weight in weights]
        library = native.load()
        out_features = sum(len(each) for each in codes)
        packed = allocate("int8", out_features, codes[0].shape[1], gated, library.code_panel_bytes)
        given = [(c.data_ptr(), s.data_ptr(), 0, len(c)) for c, s in zip(codes, scales, strict=True)]
        library.pack_codes(native.team(), packed.weight, given)
        return packed


class Int4Native:
    """Four bits in groups, with int8 activations (W4A8) or bfloat16 ones (W4A16)."""

    def __init__(self, bfloat16_activations: bool) -> None:
        self.bfloat16_activations = bfloat16_activations

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        return None if isinstance(weight, GroupInt) else "takes int4 weights"

    def pack(
        self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False
    ) -> NativePacked:
        weights = [part.regrouped(GROUPS) for part in parts if isinstance(part, GroupInt)]
        has_zeros = any(weight.zeros is not None for weight in weights)
        codes = [weight.codes.contiguous() for weight in weights]
        scales = [weight.scales.contiguous() for weight in weights]
        zeros = [weight.zero_points.contiguous() if has_zeros else None for weight in weights]
        library = native.load()
        out_features = sum(len(each) for each in codes)
        kind = "int4_bf16" if self.bfloat16_activations else "int4"
        packed = allocate(
            kind,
            out_features,
            codes[0].shape[1],
            gated,
            library.code_panel_bytes,
            group=weights[0].group,
            flags=HAS_ZERO_POINTS if has_zeros else 0,
        )
        given = [
            (c.data_ptr(), s.data_ptr(), 0 if z is None else z.data_ptr(), len(c))
            for c, s, z in zip(codes, scales, zeros, strict=True)
        ]
        library.pack_codes(native.team(), packed.weight, given)
        return packed


linear_kernel("cpu", Int8Native())
linear_kernel("cpu", Int4Native(bfloat16_activations=False))
linear_kernel(W4A16, Int4Native(bfloat16_activations=True))
