"""Mixture of experts: routing, and the experts' products over tokens sorted by expert, with no word to the host.

Pairs (token, slot) are sorted by expert into tiles of one expert each (grouping.py). One launch multiplies gate | up
and gates, one multiplies down and puts each pair's result where the token will look for it, one adds a token's results
in the order of its slots. A token's result does not depend on the others: each pair is one column of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo import spec
from octavo.errors import StartupError
from octavo.ops.linear import DensePacked, Packed
from octavo.ops.moe import stacker
from octavo.ops.registry import implements
from octavo.ops.triton.elementary import activate
from octavo.ops.triton.fp8 import Fp8Packed
from octavo.ops.triton.grouping import Plan, plan
from octavo.ops.triton.int4 import Int4Packed
from octavo.ops.triton.int8 import Int8Packed
from octavo.ops.triton.linear import DenseTritonPacked
from octavo.ops.triton.product import Config, Matrix, accumulate, computed, halves, tile_rows

Expert = DenseTritonPacked | Int4Packed | Int8Packed | Fp8Packed
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COMBINED = 1024  # features of a token that one program adds


@dataclass(frozen=True, slots=True)
class Stack(Sequence[Packed]):
    """Experts of one kind and size in one tensor: `first` is the first, its matrix's tensors have E in front."""

    first: Expert
    matrix: Matrix

    @staticmethod
    def of(experts: Sequence[Packed], num: int | None = None) -> Stack:
        """The experts together; StartupError when they are not alike. `num` is 2 where plain tensors are gate | up."""
        each = [known(expert, num) for expert in experts]
        first = each[0]
        if len({described(expert.matrix) for expert in each}) > 1:
            raise StartupError(
                "the experts of a layer are quantized in different ways; a GPU holds them all alike", "model"
            )

        def together(name: str) -> Tensor | None:
            parts: list[Tensor] = [part for e in each if (part := getattr(e.matrix, name)) is not None]
            if not parts:
                return None
            if name == "scales" and len({part.dtype for part in parts}) > 1:
                parts = [part.float() for part in parts]
            # torch stacks bytes, not every float8.
            if parts[0].dtype == torch.float8_e4m3fn:
                return torch.stack([part.view(torch.uint8) for part in parts]).view(parts[0].dtype)
            return torch.stack(parts)

        values = together("values")
        assert values is not None
        matrix = replace(first.matrix, values=values, scales=together("scales"), zeros=together("zeros"))
        return Stack(replace(first, matrix=part_of(matrix, 0)), matrix)

    def __len__(self) -> int:
        return len(self.matrix.values)

    @overload
    def __getitem__(self, index: int) -> Packed: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Packed]: ...

    def __getitem__(self, index: int | slice) -> Packed | Sequence[Packed]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return replace(self.first, matrix=part_of(self.matrix, index))


def known(expert: Packed, num: int | None) -> Expert:
    """The expert as one of the kinds that can be stacked."""
    if isinstance(expert, Expert):
        return expert
    if isinstance(expert, DensePacked) and num is not None:
        rows, columns = expert.weight.shape
        return DenseTritonPacked(Matrix(expert.weight, columns, rows // num, rows // num, num))
    raise StartupError(f"experts held as {type(expert).__name__} have no kernel on a GPU", "model")


def described(matrix: Matrix) -> tuple[object, ...]:
    """What experts of a stack have in common."""
    shapes = [None if each is None else each.shape for each in (matrix.values, matrix.scales, matrix.zeros)]
    return matrix.kind, matrix.num, matrix.group, matrix.block, matrix.values.dtype, *shapes


def part_of(matrix: Matrix, index: int) -> Matrix:
    """One expert's matrix of a stack's."""
    scales, zeros = (None if each is None else each[index] for each in (matrix.scales, matrix.zeros))
    return replace(matrix, values=matrix.values[index], scales=scales, zeros=zeros)


def stacked(experts: Sequence[Packed], num: int) -> Stack:
    """Experts as the kernels take them: stacked at load, in tests on the way."""
    return experts if isinstance(experts, Stack) else Stack.of(experts, num)


stacker("triton", Stack.of)


@implements("route", "triton", DTYPES)
def route(logits: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    """As ops.route; of equally likely experts the first."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    tokens, count = logits.shape
    ids = torch.empty((tokens, top_k), dtype=torch.int64, device=logits.device)
    weights = torch.empty((tokens, top_k), dtype=torch.float32, device=logits.device)
    if tokens:
        width = max(32, triton.next_power_of_2(count))
        _route[(tokens,)](
            logits,
            ids,
            weights,
            count,
            logits.stride(0),
            TOP_K=top_k,
            SLOTS=triton.next_power_of_2(top_k),
            RENORMALIZE=renormalize,
            COUNT=width,
            num_warps=min(4, max(1, width // 128)),
        )
    return ids, weights


@implements("expert_mlps", "triton", DTYPES)
def expert_mlps(
    x: Tensor,
    gate_up: Sequence[Packed],
    down: Sequence[Packed],
    ids: Tensor,
    weights: Tensor,
    activation: spec.Activation,
) -> Tensor:
    """As ops.expert_mlps; int8 and fp8 experts meet activations as they are."""
    return multiply_experts(x, gate_up, down, ids, weights, activation)


def multiply_experts(
    x: Tensor,
    gate_up: Sequence[Packed],
    down: Sequence[Packed],
    ids: Tensor,
    weights: Tensor,
    activation: spec.Activation,
    config: Config | None = None,
) -> Tensor:
    """As ops.expert_mlps, with this tile, or the one for so many tokens."""
    x = x if x.stride(1) == 1 else x.contiguous()
    tokens, top_k = ids.shape
    out = torch.empty_like(x)
    if tokens == 0:
        return out
    first, second = stacked(gate_up, 2).matrix, stacked(down, 1).matrix
    config = config or configure(tokens * top_k, first, x.element_size())
    sorted_pairs = plan(ids.contiguous(), len(first.values), config.tokens)
    inner = torch.empty((tokens * top_k, first.features), dtype=x.dtype, device=x.device)
    grouped(x, first, inner, sorted_pairs, config, gather=top_k, activation=activation)
    narrow = config.tokens <= 32 or second.kind == "int4"
    single = replace(config, features=64, warps=4) if narrow else config
    results = torch.empty((tokens * top_k, second.features), dtype=x.dtype, device=x.device)
    grouped(inner, second, results, sorted_pairs, single, scatter=True)
    grid = (tokens, triton.cdiv(x.shape[1], COMBINED))
    weights = weights.contiguous()
    _combine[grid](results, weights, out, x.shape[1], TOP_K=top_k, BN=COMBINED, num_warps=4)
    return out


def configure(pairs: int, gate_up: Matrix, x_bytes: int) -> Config:
    """The tile for so many pairs spread over the experts; its tokens are those of the plan, and of down's tile."""
    mean = -(-pairs // len(gate_up.values))
    # Four bits, the numbers they become and the sums of one group stand in registers beside all sums.
    most = 64 if gate_up.kind == "int4" else 128
    tokens = next((each for each in (16, 32, 64) if mean <= each), most)
    columns = {2: 64, 4: 32}[x_bytes]
    return Config(tokens, 128, columns, warps=8 if tokens >= 64 else 4, stages=3 if tokens >= 64 else 4)


def grouped(
    x: Tensor,
    matrix: Matrix,
    out: Tensor,
    sorted_pairs: Plan,
    config: Config,
    gather: int = 0,
    scatter: bool = False,
    activation: spec.Activation | None = None,
) -> None:
    """Fill rows of out with x times each row's own matrix.

    Rows of x are pairs in sorted order, or item // `gather` of them; rows of out are in sorted order, too, or `scatter`
    puts them back to where the items were.
    """
    gated = matrix.num == 2
    assert gated == (activation is not None), (matrix.num, activation)
    step = matrix.step(config)
    per_tile = config.features // (2 if gated else 1)
    scales, zeros = matrix.scales, matrix.zeros
    _grouped[(sorted_pairs.tiles, triton.cdiv(matrix.features, per_tile))](
        x,
        matrix.values,
        scales,
        zeros,
        out,
        sorted_pairs.order,
        sorted_pairs.ends,
        sorted_pairs.tile_number,
        sorted_pairs.tile_start,
        sorted_pairs.num_tiles,
        x.stride(0),
        out.stride(0),
        matrix.in_features,
        matrix.features,
        matrix.rows,
        matrix.values.stride(0),
        0 if scales is None else scales.stride(0),
        0 if zeros is None else zeros.stride(0),
        GATHER=gather,
        SCATTER=scatter,
        KIND=matrix.kind,
        GROUP=matrix.group,
        BLOCK_ROWS=matrix.block[0],
        BLOCK_COLUMNS=matrix.block[1],
        ACTIVATION=activation or "",
        EVEN=matrix.in_features % step == 0,
        DTYPE=computed(x.dtype),
        BM=config.tokens,
        BN=config.features,
        BK=step,
        num_warps=config.warps,
        num_stages=config.stages,
    )


@triton.jit
def _route(
    logits, ids, weights, count, stride,
    TOP_K: tl.constexpr, SLOTS: tl.constexpr, RENORMALIZE: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """One token of route()."""
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, COUNT)
    value = tl.load(logits + token * stride + expert, mask=expert < count, other=-float("inf")).to(tl.float32)
    likely = tl.exp(value - tl.max(value, 0))
    likely = likely / tl.sum(likely, 0)
    left = tl.where(expert < count, likely, -1.0)
    slot = tl.arange(0, SLOTS)
    chosen = tl.zeros((SLOTS,), tl.int32)
    shares = tl.zeros((SLOTS,), tl.float32)
    for i in tl.static_range(TOP_K):
        # Logits that are no numbers choose some expert, never one that does not exist.
        best = tl.minimum(tl.argmax(left, 0), count - 1)
        share = tl.sum(tl.where(expert == best, likely, 0.0), 0)
        chosen = tl.where(slot == i, best, chosen)
        shares = tl.where(slot == i, share, shares)
        left = tl.where(expert == best, -1.0, left)
    if RENORMALIZE:
        shares = shares / tl.sum(shares, 0)
    tl.store(ids + token * TOP_K + slot, chosen.to(tl.int64), mask=slot < TOP_K)
    tl.store(weights + token * TOP_K + slot, shares, mask=slot < TOP_K)


@triton.jit
def _grouped(
    x, weight, scales, zeros, out, order, ends, tile_number, tile_start, num_tiles,
    x_stride, out_stride, in_features, features, num_rows, weight_stride, scales_stride, zeros_stride,
    GATHER: tl.constexpr, SCATTER: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, ACTIVATION: tl.constexpr, EVEN: tl.constexpr,
    DTYPE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One tile of grouped()."""
    GATED: tl.constexpr = ACTIVATION != ""
    tile = tl.program_id(0)
    if tile >= tl.load(num_tiles):
        return
    number = tl.load(tile_number + tile)
    end = tl.load(ends + number)
    place = tl.load(tile_start + tile) + tl.arange(0, BM)
    inside = place < end
    place = tl.minimum(place, end - 1)
    pair = tl.load(order + place).to(tl.int64)
    place = place.to(tl.int64)
    source = place
    if GATHER > 0:
        source = pair // GATHER
    target = place
    if SCATTER:
        target = pair
    feature, row = tile_rows(tl.program_id(1), features, num_rows, GATED, BN)
    number = number.to(tl.int64)
    if scales is not None:
        scales += number * scales_stride
    if zeros is not None:
        zeros += number * zeros_stride
    sums = accumulate(
        weight + number * weight_stride, scales, zeros, row, x, source * x_stride, 0, (in_features + BK - 1) // BK,
        in_features, num_rows * (2 if GATED else 1),
        KIND, GROUP, BLOCK_ROWS, BLOCK_COLUMNS, EVEN, DTYPE, BM, BN, BK,
    )  # fmt: skip
    if KIND != "int4" and BLOCK_ROWS == 0 and scales is not None:
        sums *= tl.load(scales + row)[:, None]
    if GATED:
        gate, up = halves(sums, BM, BN)
        sums = activate(gate, ACTIVATION) * up
        feature = tl.program_id(1) * (BN // 2) + tl.arange(0, BN // 2)
    mask = (feature < features)[:, None] & inside[None, :]
    tl.store(out + (target * out_stride)[None, :] + feature[:, None], sums.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _combine(results, weights, out, features, TOP_K: tl.constexpr, BN: tl.constexpr):
    """Features [BN] of a token: its pairs' results by their weights, added in the order of slots."""
    token = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * BN + tl.arange(0, BN)
    mask = feature < features
    sums = tl.zeros((BN,), tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        value = tl.load(results + pair * features + feature, mask=mask, other=0.0).to(tl.float32)
        sums += value * tl.load(weights + pair)
    tl.store(out + token * features + feature, sums.to(out.dtype.element_ty), mask=mask)
