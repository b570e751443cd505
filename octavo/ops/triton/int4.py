"""W4A16: four-bit weights in groups, widened in registers, with the activations as they are.

In memory a weight is panels of 64 rows, each of groups, each one contiguous [64, group / 8] of 32-bit words:

    panel 0                                      panel 1
    [64, group / 8]  [64, group / 8]  …          [64, group / 8]  …
     group 0          group 1                     group 0

A word holds eight columns 0 1 2 … 7 as nibbles 0 2 4 6 1 3 5 7, from the lowest: so that a shift and a mask leave two
neighbors in its halves, and one OR makes numbers of them (product.py). Scales lie [G, rows], in the narrowest format
that holds them exactly. From DENSE_FROM tokens on a product spends its time multiplying: the weight is made dense, and
cuBLAS multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from octavo import spec
from octavo.ops.linear import gate, linear_kernel
from octavo.ops.quantized import Activations, Quantized
from octavo.ops.triton.product import PADDED, PANEL, Matrix, codes_of, multiply
from octavo.weights.integers import GroupInt
from octavo.weights.weight import Weight

GROUPS = (128, 64, 32)
DENSE_FROM = 512  # tokens
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Int4Triton:
    """Takes four bits in groups of 32, 64 or 128, with zero points or without."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        if not isinstance(weight, GroupInt):
            return "takes int4 weights"
        if weight.regrouped(GROUPS).group not in GROUPS:
            return f"takes groups of {', '.join(map(str, GROUPS))}, not {weight.group}"
        return None if dtype in DTYPES else f"takes {', '.join(map(str, DTYPES))}, not {dtype}"

    def pack(
        self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False
    ) -> Int4Packed:
        whole = GroupInt.stack([part.regrouped(GROUPS) for part in parts if isinstance(part, GroupInt)])
        num = 2 if gated else 1
        codes = in_panels(whole.codes.to(device), whole.group, num)
        scales = narrowest(by_group(whole.scales.to(device), num))
        zeros = None if whole.zeros is None else by_group(whole.zeros.to(device), num)
        features, in_features = whole.shape[0] // num, whole.shape[1]
        rows = scales.shape[1] // num
        return Int4Packed(Matrix(codes, in_features, features, rows, num, "int4", scales, zeros, whole.group), dtype)


@dataclass(frozen=True, slots=True)
class Int4Packed:
    """A four-bit weight in panels, one matrix or gate and up."""

    matrix: Matrix
    dtype: torch.dtype
    takes: torch.dtype | None = None

    def run(self, x: Activations, bias: Tensor | None) -> Tensor:
        assert not isinstance(x, Quantized), "takes plain activations"
        if len(x) >= DENSE_FROM:
            return F.linear(x, self.dense(x.dtype), bias)
        return multiply(x, None, self.matrix, bias, None, x.dtype)

    def gated(
        self, x: Activations, bias: Tensor | None, activation: spec.Activation, takes: torch.dtype | None = None
    ) -> Activations:
        assert not isinstance(x, Quantized), "takes plain activations"
        if len(x) >= DENSE_FROM or takes is not None:
            return gate(self.run(x, bias), activation, takes)
        return multiply(x, None, self.matrix, bias, activation, x.dtype)

    def embed(self, ids: Tensor) -> Tensor:
        return rows_of(self.matrix, ids, self.dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The values [O, I], gate | up of two matrices."""
        return rows_of(self.matrix, None, dtype)


def in_panels(codes: Tensor, group: int, num: int = 1) -> Tensor:
    """Codes [num · O, I] uint8, 0..15, as they lie in memory: [panels, G, 64, group / 8] int32, padded with zeros."""
    rows, columns = codes.shape[0] // num, codes.shape[1]
    padded = F.pad(codes.view(num, rows, columns), (0, -columns % group, 0, -rows % PADDED))
    nibbles = padded.view(-1, PANEL, padded.shape[2] // group, group // 8, 4, 2).transpose(4, 5)
    octets = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    words = octets.contiguous().flatten(4).view(torch.int32).squeeze(-1)
    return words.transpose(1, 2).contiguous()


def by_group(values: Tensor, num: int = 1) -> Tensor:
    """What rows have for each group [num · O, G], as [G, num · rows], padded with zeros as the codes are."""
    rows, groups = values.shape[0] // num, values.shape[1]
    padded = F.pad(values.view(num, rows, groups), (0, 0, 0, -rows % PADDED))
    return padded.flatten(0, 1).T.contiguous()


def narrowest(scales: Tensor) -> Tensor:
    """The scales in float16 or bfloat16 where that holds every one of them exactly."""
    for dtype in (torch.float16, torch.bfloat16):
        narrow = scales.to(dtype)
        if torch.equal(narrow.float(), scales):
            return narrow
    return scales


def rows_of(matrix: Matrix, ids: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Rows of a four-bit weight at ids [T] int32, all of them in order without ids; [T, I] of `dtype`."""
    count = matrix.num * matrix.features if ids is None else len(ids)
    out = torch.empty((count, matrix.in_features), dtype=dtype, device=matrix.values.device)
    if count == 0:
        return out
    grid = (triton.cdiv(matrix.in_features, matrix.group), triton.cdiv(count, PANEL))
    _rows[grid](
        matrix.values,
        matrix.scales,
        matrix.zeros,
        ids,
        out,
        count,
        matrix.in_features,
        matrix.features,
        matrix.rows,
        matrix.num * matrix.rows,
        GROUP=matrix.group,
        BN=PANEL,
        num_warps=4,
    )
    return out


@triton.jit(do_not_specialize=["count"])
def _rows(
    codes, scales, zeros, ids, out, count, in_features, features, num_rows, width, GROUP: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """One group's columns of BN rows of rows_of(), as (code - zero) · scale in float32."""
    PANEL_ROWS: tl.constexpr = 64
    WORDS: tl.constexpr = GROUP // 8
    group, tile, num_groups = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    place = tile * BN + tl.arange(0, BN)
    inside = place < count
    feature = place
    if ids is not None:
        feature = tl.load(ids + place, mask=inside, other=0)
    feature = tl.where(inside, feature, 0)
    row = feature % features + feature // features * num_rows
    at = ((row // PANEL_ROWS).to(tl.int64) * num_groups + group) * (PANEL_ROWS * WORDS) + row % PANEL_ROWS * WORDS
    codes = codes_of(tl.load(codes + at[:, None] + tl.arange(0, WORDS)[None, :]), tl.float32)
    zero = tl.full((BN,), 8, tl.float32)
    if zeros is not None:
        zero = tl.load(zeros + group * width + row).to(tl.float32)
    values = (codes - zero[:, None]) * tl.load(scales + group * width + row).to(tl.float32)[:, None]
    column = group * GROUP + tl.arange(0, GROUP)
    target = out + place.to(tl.int64)[:, None] * in_features + column[None, :]
    tl.store(target, values.to(out.dtype.element_ty), mask=inside[:, None] & (column < in_features)[None, :])


linear_kernel("triton", Int4Triton())
