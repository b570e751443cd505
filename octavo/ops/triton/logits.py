"""What a step does to logits on a GPU before tokens are chosen, and tells of them: masks, edits, log-probabilities."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.sampling import TILING, Tiling, best_of_row
from octavo.ops.triton.weights import NO_TOKEN, key_of, ordered, packed, token_of, value_of, weight

# An edit in the words that `edit` is given: its kind, where its ids and its floats begin among the words, how many they
# are, and its penalties, float32.
KIND, IDS, FLOATS, COUNT, PRESENCE, FREQUENCY, REPETITION = (tl.constexpr(i) for i in range(7))
EDIT = tl.constexpr(8)
KEEP_ONLY, EXCLUDE, ADD, PENALIZE = (tl.constexpr(i) for i in range(4))
EDITED = tl.constexpr(4)  # words of an edited row: the row, its first edit, the one behind its last, 0
BLOCK = 1024


# ---- what changes logits
@triton.jit
def mask_kernel(logits_ptr, mask_ptr, logits_stride, mask_stride, vocab_size, STRETCH: tl.constexpr):
    stretch, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token = stretch * STRETCH + tl.arange(0, STRETCH)
    inside = token < vocab_size
    word = tl.load(mask_ptr + row * mask_stride + token // 32, mask=inside, other=-1)
    excluded = inside & (((word >> (token % 32)) & 1) == 0)
    tl.store(logits_ptr + row * logits_stride + token, float("-inf"), mask=excluded)


@triton.jit
def edit_kernel(logits_ptr, words_ptr, floats_ptr, kept_ptr, logits_stride, vocab_size, BLOCK: tl.constexpr):
    """All edits of one row, in their order; words and floats are the same memory."""
    row_ptr = words_ptr + tl.program_id(0) * EDITED
    logits_ptr += tl.load(row_ptr).to(tl.int64) * logits_stride
    for edit in range(tl.load(row_ptr + 1), tl.load(row_ptr + 2)):
        edit_ptr = words_ptr + edit * EDIT
        kind, count = tl.load(edit_ptr + KIND), tl.load(edit_ptr + COUNT)
        ids_at = tl.load(edit_ptr + IDS)
        ids_ptr, given_ptr = words_ptr + ids_at, floats_ptr + tl.load(edit_ptr + FLOATS)
        parameters_ptr = floats_ptr + edit * EDIT
        if kind == KEEP_ONLY:
            for first in range(0, count, BLOCK):
                at = first + tl.arange(0, BLOCK)
                token = tl.load(ids_ptr + at, mask=at < count, other=0)
                kept = tl.load(logits_ptr + token, mask=at < count, other=0.0)
                tl.store(kept_ptr + ids_at + at, kept, mask=at < count)
            tl.debug_barrier()
            for first in range(0, vocab_size, BLOCK):
                token = first + tl.arange(0, BLOCK)
                tl.store(logits_ptr + token, float("-inf"), mask=token < vocab_size)
            tl.debug_barrier()
        for first in range(0, count, BLOCK):
            at = first + tl.arange(0, BLOCK)
            token = tl.load(ids_ptr + at, mask=at < count, other=0)
            x = tl.load(logits_ptr + token, mask=at < count, other=0.0)
            if kind == KEEP_ONLY:
                x = tl.load(kept_ptr + ids_at + at, mask=at < count, other=0.0)
            elif kind == EXCLUDE:
                x = tl.zeros_like(x) + float("-inf")
            else:
                given = tl.load(given_ptr + at, mask=at < count, other=0.0)
                if kind == ADD:
                    x += given
                else:
                    x = penalized(x, given, parameters_ptr)
            tl.store(logits_ptr + token, x, mask=at < count)
        tl.debug_barrier()  # another thread may change these logits next


@triton.jit
def penalized(x, times, parameters_ptr):
    """Logits lowered as torch_logits.penalize does."""
    repetition = tl.load(parameters_ptr + REPETITION) + tl.zeros_like(x)
    x = tl.where(x > 0, tl.div_rn(x, repetition), x * repetition)
    x = x - tl.load(parameters_ptr + FREQUENCY) * times
    return x - tl.load(parameters_ptr + PRESENCE) * (times > 0).to(tl.float32)


def mask(logits: Tensor, mask: Tensor, tiling: Tiling = TILING) -> None:
    """Exclude tokens of logits [L, V]: bit i of a row's mask [L, ceil(V / 32)] int32, least first, allows token i."""
    rows, vocab_size = logits.shape
    assert mask.dtype == torch.int32 and mask.stride(1) == 1 and mask.shape[1] * 32 >= vocab_size, mask.shape
    grid = (triton.cdiv(vocab_size, tiling.stretch), rows)
    mask_kernel[grid](logits, mask, logits.stride(0), mask.stride(0), vocab_size, STRETCH=tiling.stretch, num_warps=8)


def edit(logits: Tensor, words: Tensor, num_rows: int) -> None:
    """Edit rows of logits [L, V] as words [W] int32 say: first EDITED of them for each row, then what these name."""
    assert words.dtype == torch.int32 and logits.stride(1) == 1, (words.dtype, logits.stride())
    kept = torch.empty(words.shape, dtype=torch.float32, device=words.device)
    edit_kernel[(num_rows,)](
        logits,
        words,
        words.view(torch.float32),
        kept,
        logits.stride(0),
        logits.shape[1],
        BLOCK=BLOCK,
        num_warps=4,
        enable_fp_fusion=False,
    )


# ---- log-probabilities
@triton.jit(do_not_specialize=["count"])
def tell_kernel(
    logits_ptr,
    at_ptr,
    tokens_ptr,
    best_ptr,
    parts_ptr,
    candidates_ptr,
    logits_stride,
    vocab_size,
    count,
    STRETCHES: tl.constexpr,
    STRETCH: tl.constexpr,
):
    """Of each stretch its weight, how many logits are above the token's, and the best `count`."""
    stretch, i = tl.program_id(0), tl.program_id(1)
    num_stretches = tl.num_programs(0)
    row = tl.load(at_ptr + i)
    own = tl.load(logits_ptr + row * logits_stride + tl.load(tokens_ptr + i))
    top = value_of(key_of(best_of_row(best_ptr, row, num_stretches, STRETCHES)))
    token = stretch * STRETCH + tl.arange(0, STRETCH)
    inside = token < vocab_size
    x = tl.load(logits_ptr + row * logits_stride + token, mask=inside, other=float("-inf"))
    part = i.to(tl.int64) * num_stretches + stretch
    tl.store(parts_ptr + part * 2, tl.sum(tl.where(inside, weight(x, top, 1.0), 0), 0))
    tl.store(parts_ptr + part * 2 + 1, tl.sum((inside & (x > own)).to(tl.int32), 0).to(tl.int64))
    left = tl.where(inside, packed(ordered(x), token), NO_TOKEN)
    for j in range(count):
        best = tl.max(left, 0)
        tl.store(candidates_ptr + part * count + j, best)
        left = tl.where(left == best, NO_TOKEN, left)


@triton.jit(do_not_specialize=["count"])
def rank_kernel(
    logits_ptr,
    at_ptr,
    tokens_ptr,
    best_ptr,
    parts_ptr,
    candidates_ptr,
    ids_ptr,
    values_ptr,
    ranks_ptr,
    weights_ptr,
    logits_stride,
    num_stretches,
    count,
    STRETCHES: tl.constexpr,
):
    """Merge what the stretches told: ids of the token and of the best `count`, their logits less the row's largest, the
    token's rank, and the whole weight.
    """
    i = tl.program_id(0).to(tl.int64)
    row, own = tl.load(at_ptr + i), tl.load(tokens_ptr + i)
    top = value_of(key_of(best_of_row(best_ptr, row, num_stretches, STRETCHES))).to(tl.float64)
    tl.store(ids_ptr + i * (count + 1), own)
    logit = tl.load(logits_ptr + row * logits_stride + own)
    tl.store(values_ptr + i * (count + 1), logit.to(tl.float64) - top)
    stretch = tl.arange(0, STRETCHES)
    is_stretch = stretch < num_stretches
    part = i * num_stretches + stretch
    tl.store(weights_ptr + i, tl.sum(tl.load(parts_ptr + part * 2, mask=is_stretch, other=0), 0))
    tl.store(ranks_ptr + i, tl.sum(tl.load(parts_ptr + part * 2 + 1, mask=is_stretch, other=0), 0) + 1)
    taken = tl.zeros([STRETCHES], tl.int32)  # of each stretch's candidates
    for j in range(count):
        is_left = is_stretch & (taken < count)
        first = tl.load(candidates_ptr + part * count + taken, mask=is_left, other=NO_TOKEN)
        best = tl.max(first, 0)
        tl.store(ids_ptr + i * (count + 1) + 1 + j, token_of(best))
        tl.store(values_ptr + i * (count + 1) + 1 + j, value_of(key_of(best)).to(tl.float64) - top)
        taken += (is_left & (first == best)).to(tl.int32)


def tell(
    logits: Tensor, best: Tensor, at: Tensor, tokens: Tensor, count: int, tiling: Tiling = TILING
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [n, 1 + count], log-probabilities [n, 1 + count] float64 and ranks [n] as TopLogprobs has them.

    They are of tokens [n] int64 and of the `count` <= V likeliest, equal ones by token, in rows at [n] int64 of logits
    [L, V]; best is sampling.best(logits).
    """
    device, num, num_stretches = logits.device, at.shape[0], best.shape[1]
    assert at.dtype == tokens.dtype == torch.int64, (at.dtype, tokens.dtype)
    parts = torch.empty((num, num_stretches, 2), dtype=torch.int64, device=device)
    candidates = torch.empty((num, num_stretches, max(count, 1)), dtype=torch.int64, device=device)
    ids = torch.empty((num, 1 + count), dtype=torch.int64, device=device)
    values = torch.empty((num, 1 + count), dtype=torch.float64, device=device)
    ranks = torch.empty(num, dtype=torch.int64, device=device)
    weights = torch.empty(num, dtype=torch.int64, device=device)
    if num:
        padded = triton.next_power_of_2(num_stretches)
        tell_kernel[(num_stretches, num)](
            logits,
            at,
            tokens,
            best,
            parts,
            candidates,
            logits.stride(0),
            logits.shape[1],
            count,
            STRETCHES=padded,
            STRETCH=tiling.stretch,
            num_warps=8,
            enable_fp_fusion=False,
        )
        rank_kernel[(num,)](
            logits,
            at,
            tokens,
            best,
            parts,
            candidates,
            ids,
            values,
            ranks,
            weights,
            logits.stride(0),
            num_stretches,
            count,
            STRETCHES=padded,
            num_warps=1,
        )
    return ids, values - (weights.double() * 2.0**-43).log()[:, None], ranks
