"""The tile that every linear kernel is made of: rows of a weight times tokens, whatever the weight is held as.

A tile is computed transposed, as weight [BN, BK] · x.T [BK, BM]: features, of which there are always many, fill the
long side of the matrix instructions, tokens the short one, and a weight that is widened in registers is the operand
that may stay there. Each output element is one sum over k in ascending steps of BK; with `split` > 1 the columns are
cut into as many ranges, whose float32 (or int32) sums a second kernel adds in order. Nothing else decides the order: a
row's result depends on the Config, which depends on the class of T, and on nothing else in the step.
"""

# ruff: noqa: SIM300 (a constexpr stands on the left: a dtype does not know how to compare itself with one)

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo import spec
from octavo.ops.triton.elementary import activate

PANEL = 64  # rows of a packed four-bit weight that lie together
PADDED = 128  # packed rows are padded to a multiple of this
SPLIT_BELOW = 64  # tokens up to which columns are split among programs
MAX_SPLIT = 16
COMBINED = 256  # features that one program of the second kernel adds

TL = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.int8: tl.int8,
    torch.float8_e4m3fn: tl.float8e4nv,
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight as the tile reads it: one matrix [rows, I], or two (gate, up) one behind the other.

    `features` of each matrix's rows are real; `rows` are in memory. `kind`: "plain", values [·, I] that are widened to
    the activations' type if they are not of it; or "int4", panels as int4.py makes them. `scales`: one a row
    (float32), or [G, ·] of int4 groups, or [·, ·] float32 of `block` rows and columns. `zeros` [G, ·] uint8.
    """

    values: Tensor
    in_features: int
    features: int
    rows: int
    num: int = 1
    kind: str = "plain"
    scales: Tensor | None = None
    zeros: Tensor | None = None
    group: int = 0
    block: tuple[int, int] = (0, 0)

    def step(self, config: Config) -> int:
        """Columns of one step along k."""
        return self.group if self.kind == "int4" else config.columns


@dataclass(frozen=True, slots=True)
class Config:
    """Tokens, features and columns of a tile (a gated tile has half of its features from each matrix), and splits."""

    tokens: int
    features: int
    columns: int
    warps: int = 4
    stages: int = 4
    split: int = 1


def computed(dtype: torch.dtype) -> tl.dtype:
    """The type that activations and weights are multiplied in: their own, but the interpreter has no bfloat16."""
    return tl.float32 if triton.knobs.runtime.interpret and dtype == torch.bfloat16 else TL[dtype]


@cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run side by side; without a GPU, where kernels are interpreted or only compiled, an H200's."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def configure(matrix: Matrix, num_tokens: int, x_bytes: int, device: torch.device, gated: bool) -> Config:
    """The tile for so many tokens of `x_bytes` an element; a table, not a search."""
    columns = {1: 128, 2: 64, 4: 32}[x_bytes]
    if num_tokens > SPLIT_BELOW:
        if matrix.kind == "int4":  # its codes, numbers and sums of one group stand in registers beside all sums
            return Config(64, 128, columns, warps=8, stages=3) if gated else Config(128, 64, columns, warps=8, stages=3)
        return Config(128, 128, columns, warps=8, stages=3)
    tokens = next(each for each in (16, 32, 64) if num_tokens <= each)
    features = 128 if gated or (tokens == 64 and matrix.kind != "int4") else 64
    tiles = -(-matrix.features * (2 if gated else 1) // features)
    steps = -(-matrix.in_features // matrix.step(Config(tokens, features, columns)))
    # Two programs for each multiprocessor keep its memory busy; a range of fewer than four steps is all beginning.
    wanted = min(MAX_SPLIT, 2 * multiprocessors(device) // tiles, steps // 4)
    split = 1 << max(0, wanted.bit_length() - 1)
    warps = 8 if tokens == 64 and features == 128 else 4
    return Config(tokens, features, columns, warps=warps, stages=4, split=split)


def multiply(
    x: Tensor,
    token_scales: Tensor | None,
    matrix: Matrix,
    bias: Tensor | None,
    activation: spec.Activation | None,
    dtype: torch.dtype,
    config: Config | None = None,
) -> Tensor:
    """x [T, I] times the matrix, times scales of rows and of tokens [T, 1], plus bias; gated when there are two.

    Returns [T, features] of `dtype`; with two matrices and no activation [T, 2 · features], gate | up.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    num_tokens = x.shape[0]
    gated = matrix.num == 2
    columns = matrix.features * (2 if gated and activation is None else 1)
    out = torch.empty((num_tokens, columns), dtype=dtype, device=x.device)
    if num_tokens == 0:
        return out
    config = config or configure(matrix, num_tokens, x.element_size(), x.device, gated)
    exact = x.dtype == torch.int8
    if config.split > 1:
        shape = (config.split, num_tokens, matrix.num * matrix.rows)
        target = torch.empty(shape, dtype=torch.int32 if exact else torch.float32, device=x.device)
    else:
        target = out
    per_tile = config.features // (2 if gated else 1)
    grid = (triton.cdiv(num_tokens, config.tokens), triton.cdiv(matrix.features, per_tile), config.split)
    step = matrix.step(config)
    _product[grid](
        x,
        token_scales,
        matrix.values,
        matrix.scales,
        matrix.zeros,
        bias,
        target,
        num_tokens,
        x.stride(0),
        matrix.in_features,
        matrix.features,
        matrix.rows,
        out.shape[1],
        triton.cdiv(triton.cdiv(matrix.in_features, step), config.split),
        KIND=matrix.kind,
        GROUP=matrix.group,
        BLOCK_ROWS=matrix.block[0],
        BLOCK_COLUMNS=matrix.block[1],
        GATED=gated,
        ACTIVATION=activation or "",
        SPLIT=config.split,
        EVEN=matrix.in_features % step == 0,
        DTYPE=computed(x.dtype),
        BM=config.tokens,
        BN=config.features,
        BK=step,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    if config.split > 1:
        finish(target, token_scales, row_scales(matrix), bias, out, activation, matrix)
    return out


def row_scales(matrix: Matrix) -> Tensor | None:
    """The scales that multiply whole rows; None when there are none, or the tile has applied them."""
    return matrix.scales if matrix.kind != "int4" and matrix.block[0] == 0 else None


def finish(
    sums: Tensor,
    token_scales: Tensor | None,
    scales: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    activation: spec.Activation | None,
    matrix: Matrix,
) -> None:
    """Fill out [T, ·] from sums [S, T, rows] of ranges of columns: added in order, scaled, plus bias, gated."""
    splits, num_tokens, _ = sums.shape
    if num_tokens == 0:
        return
    _finish[(num_tokens, triton.cdiv(matrix.features, COMBINED), 1 if activation else matrix.num)](
        sums,
        token_scales,
        scales,
        bias,
        out,
        num_tokens,
        matrix.features,
        matrix.rows,
        out.shape[1],
        NUM=matrix.num,
        SPLIT=splits,
        ACTIVATION=activation or "",
        BN=COMBINED,
        num_warps=4,
    )


@triton.jit
def codes_of(words, DTYPE: tl.constexpr):
    """The codes of words [BN, W] as [BN, 8 W] of DTYPE, too large by 128 in bfloat16 and by 1024 in float16.

    A word holds its even codes in the nibbles of its lower half, its odd ones in those of its upper half. A shift and
    an AND take two of them, an OR makes numbers: of a power of two so large that the code is its mantissa's low bits.
    """
    MAGIC: tl.constexpr = 0x43004300 if DTYPE == tl.bfloat16 else (0x64006400 if DTYPE == tl.float16 else 0)
    c0 = (words & 0x000F000F) | MAGIC
    c1 = ((words >> 4) & 0x000F000F) | MAGIC
    c2 = ((words >> 8) & 0x000F000F) | MAGIC
    c3 = ((words >> 12) & 0x000F000F) | MAGIC
    pairs = tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), (words.shape[0], words.shape[1] * 4))
    both = tl.reshape(tl.join(pairs.to(tl.int16), (pairs >> 16).to(tl.int16)), (words.shape[0], words.shape[1] * 8))
    if MAGIC == 0:
        return both.to(DTYPE)
    else:
        return both.to(DTYPE, bitcast=True)


@triton.jit
def biased(zeros, DTYPE: tl.constexpr):
    """Zero points 0..15 as codes_of() makes codes."""
    if DTYPE == tl.bfloat16:
        return (zeros.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
    elif DTYPE == tl.float16:
        return (zeros.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True)
    else:
        return zeros.to(tl.float32)


@triton.jit
def dot(weight, x, sums, DTYPE: tl.constexpr, BK: tl.constexpr):
    """sums + weight · x, both of DTYPE: int32 for int8, else float32, with no shortened products or sums."""
    if DTYPE == tl.float32:
        return tl.dot(weight, x, sums, input_precision="ieee")
    elif DTYPE == tl.float8e4nv:
        return tl.dot(weight, x, sums, max_num_imprecise_acc=BK)
    elif DTYPE == tl.int8:
        return tl.dot(weight, x, sums, out_dtype=tl.int32)
    else:
        return tl.dot(weight, x, sums)


@triton.jit
def accumulate_int4(
    weight, scales, zeros, rows, x, tokens, first, last, in_features, num_rows,
    GROUP: tl.constexpr, EVEN: tl.constexpr, DTYPE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Sums [BN, BM] of groups first..last of a four-bit weight; see int4.py for how it lies in memory.

    Scales are loaded a group ahead: only what a product reads is fetched early by the compiler.
    """
    PANEL_ROWS: tl.constexpr = 64
    WORDS: tl.constexpr = GROUP // 8
    num_groups = (in_features + GROUP - 1) // GROUP
    columns = tl.arange(0, GROUP)
    at = (rows // PANEL_ROWS).to(tl.int64) * num_groups * (PANEL_ROWS * WORDS) + rows % PANEL_ROWS * WORDS
    words = weight + at[:, None] + tl.arange(0, WORDS)[None, :]
    values = x + tokens[None, :] + columns[:, None]
    sums = tl.zeros((BN, BM), tl.float32)
    # A range may be empty: it begins behind the last group, whose scales are read in its place.
    begin = tl.minimum(first, num_groups - 1) * num_rows
    scale = tl.load(scales + rows + begin)
    zero = tl.full((BN,), 8, tl.uint8)
    if zeros is not None:
        zero = tl.load(zeros + rows + begin)
    for group in range(first, last):
        packed = tl.load(words + group * (PANEL_ROWS * WORDS))
        if EVEN:
            v = tl.load(values + group * GROUP)
        else:
            v = tl.load(values + group * GROUP, mask=columns[:, None] < in_features - group * GROUP, other=0.0)
        coming = tl.minimum(group + 1, last - 1) * num_rows
        next_scale = tl.load(scales + rows + coming)
        next_zero = zero
        if zeros is not None:
            next_zero = tl.load(zeros + rows + coming)
        codes = codes_of(packed, DTYPE) - biased(zero, DTYPE)[:, None]  # exact
        product = dot(codes, v.to(DTYPE), tl.zeros((BN, BM), tl.float32), DTYPE, GROUP)
        sums += product * scale.to(tl.float32)[:, None]
        scale = next_scale
        zero = next_zero
    return sums


@triton.jit
def accumulate(
    weight, scales, zeros, rows, x, tokens, first, last, in_features, num_rows,
    KIND: tl.constexpr, GROUP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    EVEN: tl.constexpr, DTYPE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Sums [BN, BM] over steps first..last of BK columns: of weight rows [BN], and of x at offsets `tokens` [BM]."""
    if KIND == "int4":
        return accumulate_int4(
            weight, scales, zeros, rows, x, tokens, first, last, in_features, num_rows, GROUP, EVEN, DTYPE, BM, BN
        )
    else:
        columns = tl.arange(0, BK)
        values = weight + rows.to(tl.int64)[:, None] * in_features + columns[None, :]
        inputs = x + tokens[None, :] + columns[:, None]
        sums = tl.zeros((BN, BM), tl.int32 if DTYPE == tl.int8 else tl.float32)
        if BLOCK_ROWS > 0:
            per_row = (in_features + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
            scale = scales + rows // BLOCK_ROWS * per_row
            own = tl.load(scale + tl.minimum(first * BK, in_features - 1) // BLOCK_COLUMNS)
        for step in range(first, last):
            start = step * BK
            if EVEN:
                w = tl.load(values + start)
                v = tl.load(inputs + start)
            else:
                left = in_features - start
                w = tl.load(values + start, mask=columns[None, :] < left, other=0.0)
                v = tl.load(inputs + start, mask=columns[:, None] < left, other=0.0)
            w, v = w.to(DTYPE), v.to(DTYPE)
            if BLOCK_ROWS > 0:
                coming = tl.load(scale + tl.minimum(start + BK, in_features - 1) // BLOCK_COLUMNS)
                sums += dot(w, v, tl.zeros((BN, BM), tl.float32), DTYPE, BK) * own[:, None]
                own = coming
            else:
                sums = dot(w, v, sums, DTYPE, BK)
        return sums


@triton.jit
def tile_rows(tile, features, num_rows, GATED: tl.constexpr, BN: tl.constexpr):
    """Features [BN] of a tile, and the rows of memory that they are; of a gated tile the second half is `up`'s."""
    HALF: tl.constexpr = BN // 2 if GATED else BN
    lane = tl.arange(0, BN)
    feature = tile * HALF + lane % HALF
    row = tl.minimum(feature, features - 1) + lane // HALF * num_rows
    return feature, row


@triton.jit
def halves(sums, BM: tl.constexpr, BN: tl.constexpr):
    """The two halves [BN / 2, BM] of a tile [BN, BM]."""
    return tl.split(tl.permute(tl.reshape(sums, (2, BN // 2, BM)), (1, 2, 0)))


@triton.jit(do_not_specialize=["num_tokens", "num_steps"])
def _product(
    x, token_scales, weight, scales, zeros, bias, out,
    num_tokens, x_stride, in_features, features, num_rows, out_stride, num_steps,
    KIND: tl.constexpr, GROUP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    GATED: tl.constexpr, ACTIVATION: tl.constexpr, SPLIT: tl.constexpr, EVEN: tl.constexpr, DTYPE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One tile of multiply(); the columns of a split are `num_steps` steps of BK."""
    # Programs that share rows of the weight come one after the other: its bytes are what costs.
    token_tile, tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    feature, row = tile_rows(tile, features, num_rows, GATED, BN)
    token = token_tile * BM + tl.arange(0, BM)
    inside = token < num_tokens
    token = tl.minimum(token, num_tokens - 1).to(tl.int64)
    total = (in_features + BK - 1) // BK
    first = tl.minimum(split * num_steps, total)
    last = tl.minimum(first + num_steps, total)
    sums = accumulate(
        weight, scales, zeros, row, x, token * x_stride, first, last, in_features, num_rows * (2 if GATED else 1),
        KIND, GROUP, BLOCK_ROWS, BLOCK_COLUMNS, EVEN, DTYPE, BM, BN, BK,
    )  # fmt: skip
    real = (feature < features)[:, None] & inside[None, :]
    if SPLIT > 1:
        width = num_rows * (2 if GATED else 1)
        at = (split.to(tl.int64) * num_tokens + token) * width
        tl.store(out + at[None, :] + row[:, None], sums, mask=real)
    else:
        values = sums.to(tl.float32)
        if KIND != "int4" and BLOCK_ROWS == 0 and scales is not None:
            values *= tl.load(scales + row)[:, None]
        if token_scales is not None:
            values *= tl.load(token_scales + token)[None, :]
        column = feature
        if GATED:  # bias and product without an activation are gate | up, features each
            column = feature + (tl.arange(0, BN) // (BN // 2)) * features
        if bias is not None:
            values += tl.load(bias + column, mask=feature < features, other=0.0).to(tl.float32)[:, None]
        if ACTIVATION != "":
            gate, up = halves(values, BM, BN)
            gated = activate(gate, ACTIVATION) * up
            column = tile * (BN // 2) + tl.arange(0, BN // 2)
            real = (column < features)[:, None] & inside[None, :]
            tl.store(out + (token * out_stride)[None, :] + column[:, None], gated.to(out.dtype.element_ty), mask=real)
        else:
            tl.store(out + (token * out_stride)[None, :] + column[:, None], values.to(out.dtype.element_ty), mask=real)


@triton.jit
def _finished(sums, token_scale, scales, bias, column, row, real, num_tokens, width, SPLIT: tl.constexpr):
    """One matrix's values [BN] of a token: the splits' sums in order, scaled, plus bias."""
    total = tl.load(sums + row, mask=real, other=0)
    for split in tl.static_range(1, SPLIT):
        total += tl.load(sums + (split * num_tokens).to(tl.int64) * width + row, mask=real, other=0)
    values = total.to(tl.float32)
    if scales is not None:
        values *= tl.load(scales + row, mask=real, other=0.0)
    values *= token_scale
    if bias is not None:
        values += tl.load(bias + column, mask=real, other=0.0).to(tl.float32)
    return values


@triton.jit(do_not_specialize=["num_tokens"])
def _finish(
    sums, token_scales, scales, bias, out, num_tokens, features, num_rows, out_stride,
    NUM: tl.constexpr, SPLIT: tl.constexpr, ACTIVATION: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Features [BN] of one token of finish(); without an activation of the matrix that axis 2 says."""
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(2)
    feature = tl.program_id(1) * BN + tl.arange(0, BN)
    real = feature < features
    width = num_rows * NUM
    own = sums + token * width
    token_scale = 1.0
    if token_scales is not None:
        token_scale = tl.load(token_scales + token)
    column = part * features + feature
    row = part * num_rows + feature
    values = _finished(own, token_scale, scales, bias, column, row, real, num_tokens, width, SPLIT)
    if ACTIVATION != "":
        other = _finished(
            own, token_scale, scales, bias, features + feature, num_rows + feature, real, num_tokens, width, SPLIT
        )
        values = activate(values, ACTIVATION) * other
    tl.store(out + token * out_stride + column, values.to(out.dtype.element_ty), mask=real)
