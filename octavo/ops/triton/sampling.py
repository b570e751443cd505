"""Tokens from logits on a GPU: the likeliest, or a draw behind temperature, min-p, top-k and top-p.

A row is worked on in stretches of tokens, one program each, however many rows there are. Filters are thresholds, and
their border is found by sums over the tokens above a few pivots: `survey` looks at the whole row, `narrow` between the
two pivots that enclose the border, until what lies between them fits a list, which `settle` finishes alone.

    best ─▶ take ─▶ survey ─▶ narrow ─▶ narrow ─▶ settle ─▶ keep ─▶ pick    rows that need no search skip to `keep`,
                                └─ or list ─┘                               rows that are not random end at `take`

All sums are of integers: no result depends on the order of additions, on stretches, or on other rows. Nothing here
looks at a value on the host. What a row asks for is its record in a table [*, 6] of 64-bit fields.

For rows with top-k or top-p, `best`, `survey` and, where the border is among many tokens, `narrow` and `keep` read all
logits once: 78 MB at V = 151,936 and 128 rows, 18 us at 4.3 TB/s. Where all tokens are in the survey's window, e^x and
eight pivots are some 80 instructions for each of 19.4 million logits, 55 us at 28 T/s. So the estimate, which no GPU
has confirmed, is 0.1 to 0.2 ms for 128 rows, and 30 us for one: nine launches of 2 to 4 us, and a search in a list.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.weights import (
    LEAST_KEY,
    NO_TOKEN,
    key_of,
    ordered,
    packed,
    token_of,
    uniform,
    value_of,
    weight,
)

# Fields of a record.
RANDOM, TEMPERATURE, TOP_K, TOP_P, FLOOR, SEED = (tl.constexpr(i) for i in range(6))
RECORD = tl.constexpr(6)
# Fields of a search: the border is in [LO, HI), or LO if MODE is DONE; COUNT and SUM are of tokens not below LO or HI.
# LISTED tokens are in the list, and the BASE of them is above it.
MODE, LO, HI, LO_COUNT, HI_COUNT, LO_SUM, HI_SUM, WANTED, LISTED, BASE_COUNT, BASE_SUM = (
    tl.constexpr(i) for i in range(11)
)
SEARCH = tl.constexpr(12)  # even, so that every record lies at a multiple of 16 bytes
DONE, BY_COUNT, BY_SUM = (tl.constexpr(i) for i in range(3))
PIVOTS = tl.constexpr(8)
WINDOW = tl.constexpr(32.0)  # temperatures below the largest logit: 2^43 e^-32 < 1, so no token below has any weight


@dataclass(frozen=True)
class Tiling:
    """Tokens of a stretch, of what `settle` looks at in one go, and of its list: powers of two."""

    stretch: int = 4096
    tile: int = 1024
    listed: int = 4096


TILING = Tiling()


# ---- the likeliest
@triton.jit
def best_kernel(logits_ptr, best_ptr, logits_stride, vocab_size, STRETCH: tl.constexpr):
    """The best token of each stretch, packed: best [L, C]."""
    stretch, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token = stretch * STRETCH + tl.arange(0, STRETCH)
    x = tl.load(logits_ptr + row * logits_stride + token, mask=token < vocab_size, other=float("-inf"))
    best = tl.where(token < vocab_size, packed(ordered(x), token), NO_TOKEN)
    tl.store(best_ptr + row * tl.num_programs(0) + stretch, tl.max(best, 0))


@triton.jit
def best_of_row(best_ptr, row, num_stretches, STRETCHES: tl.constexpr):
    """The best of all stretches of a row, packed."""
    at = tl.arange(0, STRETCHES)
    return tl.max(tl.load(best_ptr + row * num_stretches + at, mask=at < num_stretches, other=NO_TOKEN), 0)


@triton.jit
def is_finite(x):
    """Whether x is a number, and no infinity."""
    return (x == x) & (tl.abs(x) < float("inf"))


@triton.jit
def take_kernel(best_ptr, ids_ptr, top_ptr, problems_ptr, num_stretches, STRETCHES: tl.constexpr):
    """Each row's likeliest token, its logit, and whether that is no finite number."""
    row = tl.program_id(0).to(tl.int64)
    best = best_of_row(best_ptr, row, num_stretches, STRETCHES)
    top = value_of(key_of(best))
    tl.store(ids_ptr + row, token_of(best))
    tl.store(top_ptr + row, top)
    tl.store(problems_ptr + row, tl.where(is_finite(top), 0, 1).to(tl.int8))


# ---- the border of the filters
@triton.jit
def logits_row(at_ptr, i):
    """The row of logits of draw i, int64."""
    row = i.to(tl.int64)
    if at_ptr is not None:
        row = tl.load(at_ptr + i).to(tl.int64)
    return row


@triton.jit
def record_of(rows_ptr, i):
    """The first field of the record of draw i."""
    record = i.to(tl.int64)
    if rows_ptr is not None:
        record = tl.load(rows_ptr + i).to(tl.int64)
    return record * RECORD


@triton.jit
def lowest_kept(floats_ptr, record, top, temperature):
    """The key of the least logit that has weight and passes min-p."""
    floor = top + tl.load(floats_ptr + record + FLOOR).to(tl.float32)
    return tl.maximum(tl.maximum(ordered(floor), ordered(top - WINDOW * temperature)), LEAST_KEY)


@triton.jit
def surveyed(j, lowest, top, temperature):
    """The key of pivot j of the survey: 1, 3, 6, 10, … temperatures below the top, at last `lowest`."""
    distance = (j + 1) * (j + 2) * 0.5
    key = tl.maximum(ordered(top - distance * temperature), lowest)
    return tl.where(j == PIVOTS - 1, lowest, key)


@triton.jit
def between(j, lo, hi):
    """The key of pivot j between two keys: every other one spread as logits are, so that pivots part the tokens, the
    others as keys are, so that a search ends soon even around 0, where keys are dense.
    """
    part = 2 * j + 1
    low, high = value_of(lo.to(tl.int32)), value_of(tl.minimum(hi, 2139095039).to(tl.int32))
    share = part * (0.5 / PIVOTS)  # exact, for a scalar as for all pivots at once
    linear = ordered(low * (1.0 - share) + high * share).to(tl.int64)
    key = tl.where(j % 2 == 0, linear, lo + (hi - lo) * part // (2 * PIVOTS))
    return tl.minimum(tl.maximum(key, lo + 1), hi - 1)


@triton.jit
def narrowed(lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, pivots, counts, sums):
    """The bounds of a search after the counts and sums of tokens not below some pivots are known."""
    reached = tl.where(mode == BY_COUNT, counts, sums) >= wanted
    if mode != DONE:
        lo = tl.maximum(lo, tl.max(tl.where(reached, pivots, lo), 0))
        lo_count = tl.minimum(lo_count, tl.min(tl.where(reached, counts, lo_count), 0))
        lo_sum = tl.minimum(lo_sum, tl.min(tl.where(reached, sums, lo_sum), 0))
        hi = tl.minimum(hi, tl.min(tl.where(reached, hi, pivots), 0))
        hi_count = tl.maximum(hi_count, tl.max(tl.where(reached, hi_count, counts), 0))
        hi_sum = tl.maximum(hi_sum, tl.max(tl.where(reached, hi_sum, sums), 0))
    return lo, hi, lo_count, hi_count, lo_sum, hi_sum


@triton.jit
def advanced(lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, top_p, above):
    """The search, or the one for top-p that follows it, or DONE; `above` is the key above the row's largest."""
    measured = tl.where(mode == BY_COUNT, lo_count, lo_sum)
    is_found = (hi - lo <= 1) | (lo_count - hi_count <= 1) | (measured <= wanted)
    follows = is_found & (mode == BY_COUNT) & (top_p < 1)
    share = tl.ceil(top_p * lo_sum.to(tl.float64)).to(tl.int64)
    wanted = tl.where(follows, tl.maximum(share, 1), wanted)
    hi = tl.where(follows, above, hi)
    hi_count = tl.where(follows, 0, hi_count)
    hi_sum = tl.where(follows, 0, hi_sum)
    mode = tl.where(follows, BY_SUM, tl.where(is_found, DONE, mode))
    return hi, hi_count, hi_sum, wanted, mode


@triton.jit
def load_search(search_ptr):
    """All fields of a search but those about its list."""
    lo, hi = tl.load(search_ptr + LO), tl.load(search_ptr + HI)
    lo_count, hi_count = tl.load(search_ptr + LO_COUNT), tl.load(search_ptr + HI_COUNT)
    lo_sum, hi_sum = tl.load(search_ptr + LO_SUM), tl.load(search_ptr + HI_SUM)
    return lo, hi, lo_count, hi_count, lo_sum, hi_sum, tl.load(search_ptr + WANTED), tl.load(search_ptr + MODE)


@triton.jit
def store_search(search_ptr, lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode):
    """The same fields, stored."""
    tl.store(search_ptr + LO, lo)
    tl.store(search_ptr + HI, hi)
    tl.store(search_ptr + LO_COUNT, lo_count)
    tl.store(search_ptr + HI_COUNT, hi_count)
    tl.store(search_ptr + LO_SUM, lo_sum)
    tl.store(search_ptr + HI_SUM, hi_sum)
    tl.store(search_ptr + WANTED, wanted)
    tl.store(search_ptr + MODE, mode)


@triton.jit
def is_limited(table_ptr, floats_ptr, record, top, vocab_size):
    """Whether a draw's border has to be searched: it has top-k or top-p, and logits that are numbers."""
    top_k = tl.load(table_ptr + record + TOP_K)
    limits = ((top_k > 0) & (top_k < vocab_size)) | (tl.load(floats_ptr + record + TOP_P) < 1)
    return limits & (tl.load(table_ptr + record + RANDOM) != 0) & is_finite(top)


@triton.jit
def measure(weights, key, inside, pivot, totals_ptr):
    """Add the number and the weight of the tokens not below a pivot to the row's totals."""
    above = inside & (key >= pivot)
    tl.atomic_add(totals_ptr, tl.sum(above.to(tl.int32), 0).to(tl.int64), sem="relaxed")
    tl.atomic_add(totals_ptr + 1, tl.sum(tl.where(above, weights, 0), 0), sem="relaxed")


@triton.jit
def survey_kernel(
    logits_ptr,
    at_ptr,
    rows_ptr,
    table_ptr,
    floats_ptr,
    best_ptr,
    top_ptr,
    totals_ptr,
    logits_stride,
    vocab_size,
    STRETCH: tl.constexpr,
):
    """Measure each stretch at the first pivots: totals [n, PIVOTS, 2]."""
    stretch, i = tl.program_id(0), tl.program_id(1)
    row, record = logits_row(at_ptr, i), record_of(rows_ptr, i)
    top, temperature = tl.load(top_ptr + row), tl.load(floats_ptr + record + TEMPERATURE).to(tl.float32)
    if is_limited(table_ptr, floats_ptr, record, top, vocab_size):
        lowest = lowest_kept(floats_ptr, record, top, temperature)
        highest = key_of(tl.load(best_ptr + row * tl.num_programs(0) + stretch))
        if highest >= lowest:
            token = stretch * STRETCH + tl.arange(0, STRETCH)
            inside = token < vocab_size
            x = tl.load(logits_ptr + row * logits_stride + token, mask=inside, other=float("-inf"))
            key, weights = ordered(x), weight(x, top, temperature)
            for j in range(PIVOTS):
                pivot = surveyed(j, lowest, top, temperature)
                if highest >= pivot:
                    measure(weights, key, inside, pivot, totals_ptr + (i * PIVOTS + j) * 2)


@triton.jit
def load_survey(floats_ptr, record, top, temperature, totals_ptr):
    """The pivots of the survey, and how many and how heavy the tokens not below them are."""
    j = tl.arange(0, PIVOTS)
    lowest = lowest_kept(floats_ptr, record, top, temperature)
    pivots = surveyed(j, lowest, top, temperature).to(tl.int64)
    return pivots, tl.load(totals_ptr + j * 2), tl.load(totals_ptr + j * 2 + 1)


@triton.jit
def begun(table_ptr, floats_ptr, record, top, temperature, vocab_size, totals_ptr):
    """The search of a draw after the survey."""
    pivots, counts, sums = load_survey(floats_ptr, record, top, temperature, totals_ptr)
    above = ordered(top).to(tl.int64) + 1
    lo, hi = tl.min(pivots, 0), above
    lo_count, lo_sum = tl.max(counts, 0), tl.max(sums, 0)
    hi_count, hi_sum = lo_count * 0, lo_sum * 0
    top_k, top_p = tl.load(table_ptr + record + TOP_K), tl.load(floats_ptr + record + TOP_P)
    # Without top-k, one that keeps all: then top-p follows it in every row.
    wanted = tl.where((top_k > 0) & (top_k < vocab_size), top_k, lo_count)
    mode = top_k * 0 + BY_COUNT
    return continued(lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, pivots, counts, sums, top_p, above)


@triton.jit
def continued(lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, pivots, counts, sums, top_p, above):
    """The search after some pivots are measured; when they end the one for top-k, they serve that for top-p too."""
    for _ in tl.static_range(2):
        lo, hi, lo_count, hi_count, lo_sum, hi_sum = narrowed(
            lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, pivots, counts, sums
        )
        hi, hi_count, hi_sum, wanted, mode = advanced(
            lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, top_p, above
        )
    return lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode


@triton.jit
def narrow_kernel(
    logits_ptr,
    at_ptr,
    rows_ptr,
    table_ptr,
    floats_ptr,
    best_ptr,
    top_ptr,
    totals_ptr,
    search_ptr,
    next_totals_ptr,
    next_search_ptr,
    list_ptr,
    num_listed_ptr,
    logits_stride,
    vocab_size,
    IS_FIRST: tl.constexpr,
    STRETCH: tl.constexpr,
    LIST: tl.constexpr,
):
    """Go on with each search as its totals say: list what is left of the row, or measure it at closer pivots."""
    stretch, i = tl.program_id(0), tl.program_id(1)
    row, record = logits_row(at_ptr, i), record_of(rows_ptr, i)
    top, temperature = tl.load(top_ptr + row), tl.load(floats_ptr + record + TEMPERATURE).to(tl.float32)
    if is_limited(table_ptr, floats_ptr, record, top, vocab_size):
        totals_ptr += i * PIVOTS * 2
        search_ptr += i * SEARCH
        next_search_ptr += i * SEARCH
        top_p = tl.load(floats_ptr + record + TOP_P)
        if IS_FIRST:
            lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode = begun(
                table_ptr, floats_ptr, record, top, temperature, vocab_size, totals_ptr
            )
            before, base_count, base_sum = lo_count * 0, lo_count * 0, lo_sum * 0
        else:
            lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, before, base_count, base_sum = resumed(
                search_ptr, totals_ptr, top_p, ordered(top).to(tl.int64) + 1
            )
        searches = (mode != DONE) & (before == 0)
        is_whole = lo_count <= LIST
        fits = is_whole | (lo_count - hi_count <= LIST)
        if searches & fits:
            base_count, base_sum = tl.where(is_whole, 0, hi_count), tl.where(is_whole, 0, hi_sum)
        listed = tl.where(searches & fits, lo_count - base_count, before)
        if stretch == 0:
            store_search(next_search_ptr, lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode)
            tl.store(next_search_ptr + LISTED, listed)
            tl.store(next_search_ptr + BASE_COUNT, base_count)
            tl.store(next_search_ptr + BASE_SUM, base_sum)
        highest = key_of(tl.load(best_ptr + row * tl.num_programs(0) + stretch))
        if searches & (highest >= lo):
            token = stretch * STRETCH + tl.arange(0, STRETCH)
            inside = token < vocab_size
            x = tl.load(logits_ptr + row * logits_stride + token, mask=inside, other=float("-inf"))
            key = ordered(x)
            if fits:
                chosen = (inside & (key >= lo) & (is_whole | (key < hi))).to(tl.int32)
                first = tl.atomic_add(num_listed_ptr + i, tl.sum(chosen, 0).to(tl.int64), sem="relaxed")
                place = first + tl.cumsum(chosen, 0) - 1
                tl.store(list_ptr + i.to(tl.int64) * LIST + place, x, mask=chosen != 0)
            else:
                weights = weight(x, top, temperature)
                for j in range(PIVOTS):
                    pivot = between(j, lo, hi)
                    if highest >= pivot:
                        measure(weights, key, inside, pivot, next_totals_ptr + (i * PIVOTS + j) * 2)


@triton.jit
def resumed(search_ptr, totals_ptr, top_p, above):
    """A search after its pivots were measured, and what is listed of it; a search with a list is as it was."""
    lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode = load_search(search_ptr)
    listed = tl.load(search_ptr + LISTED)
    if (mode != DONE) & (listed == 0):
        j = tl.arange(0, PIVOTS)
        counts, sums = tl.load(totals_ptr + j * 2), tl.load(totals_ptr + j * 2 + 1)
        lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode = continued(
            lo,
            hi,
            lo_count,
            hi_count,
            lo_sum,
            hi_sum,
            wanted,
            mode,
            between(j, lo, hi),
            counts,
            sums,
            top_p,
            above,
        )
    base_count, base_sum = tl.load(search_ptr + BASE_COUNT), tl.load(search_ptr + BASE_SUM)
    return lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, listed, base_count, base_sum


@triton.jit
def settle_kernel(
    logits_ptr,
    at_ptr,
    rows_ptr,
    table_ptr,
    floats_ptr,
    top_ptr,
    totals_ptr,
    search_ptr,
    list_ptr,
    border_ptr,
    logits_stride,
    vocab_size,
    TILE: tl.constexpr,
    LIST: tl.constexpr,
):
    """Finish each search, in its list, or in the row where that is too long: border [n], the least key that is kept."""
    i = tl.program_id(0)
    row, record = logits_row(at_ptr, i), record_of(rows_ptr, i)
    top, temperature = tl.load(top_ptr + row), tl.load(floats_ptr + record + TEMPERATURE).to(tl.float32)
    border = lowest_kept(floats_ptr, record, top, temperature).to(tl.int64)
    if is_limited(table_ptr, floats_ptr, record, top, vocab_size):
        above, top_p = ordered(top).to(tl.int64) + 1, tl.load(floats_ptr + record + TOP_P)
        lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, listed, base_count, base_sum = resumed(
            search_ptr + i * SEARCH, totals_ptr + i * PIVOTS * 2, top_p, above
        )
        began = mode
        while mode != DONE:
            # A list that begins below the largest logit serves the search that it was made for.
            in_list = (listed > 0) & ((base_count == 0) | (mode == began))
            pivots = between(tl.arange(0, PIVOTS), lo, hi)
            counts = tl.where(in_list, base_count, 0) + tl.zeros([PIVOTS], tl.int64)
            sums = tl.where(in_list, base_sum, 0) + tl.zeros([PIVOTS], tl.int64)
            list_size = tl.where(in_list, listed, 0).to(tl.int32)
            row_size = tl.where(in_list, 0, vocab_size).to(tl.int32)
            size = list_size + row_size
            for first in range(0, size, TILE):
                at = first + tl.arange(0, TILE)
                # One of the two loads reads nothing.
                from_list = tl.load(list_ptr + i.to(tl.int64) * LIST + at, mask=at < list_size, other=0.0)
                from_row = tl.load(logits_ptr + row * logits_stride + at, mask=at < row_size, other=0.0)
                x = from_list + from_row
                reached = (at < size)[None, :] & (ordered(x).to(tl.int64)[None, :] >= pivots[:, None])
                counts += tl.sum(reached.to(tl.int32), 1).to(tl.int64)
                sums += tl.sum(tl.where(reached, weight(x, top, temperature)[None, :], 0), 1)
            lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode = continued(
                lo, hi, lo_count, hi_count, lo_sum, hi_sum, wanted, mode, pivots, counts, sums, top_p, above
            )
        border = lo
    tl.store(border_ptr + i, border.to(tl.int32))


# ---- the draw
@triton.jit
def keep_kernel(
    logits_ptr,
    at_ptr,
    rows_ptr,
    table_ptr,
    floats_ptr,
    best_ptr,
    top_ptr,
    border_ptr,
    kept_ptr,
    logits_stride,
    vocab_size,
    STRETCH: tl.constexpr,
):
    """The weight of the tokens that the filters keep, by stretch: kept [n, C]."""
    stretch, i = tl.program_id(0), tl.program_id(1)
    num_stretches = tl.num_programs(0)
    row, record = logits_row(at_ptr, i), record_of(rows_ptr, i)
    if tl.load(table_ptr + record + RANDOM) != 0:
        border = tl.load(border_ptr + i)
        kept = tl.zeros([], tl.int64)
        if key_of(tl.load(best_ptr + row * num_stretches + stretch)) >= border:
            top, temperature = tl.load(top_ptr + row), tl.load(floats_ptr + record + TEMPERATURE).to(tl.float32)
            weights = kept_weights(
                logits_ptr + row * logits_stride, stretch, vocab_size, border, top, temperature, STRETCH
            )
            kept = tl.sum(weights, 0)
        tl.store(kept_ptr + i.to(tl.int64) * num_stretches + stretch, kept)


@triton.jit
def kept_weights(logits_ptr, stretch, vocab_size, border, top, temperature, STRETCH: tl.constexpr):
    """The weights of a stretch's tokens, 0 for those below the border."""
    token = stretch * STRETCH + tl.arange(0, STRETCH)
    x = tl.load(logits_ptr + token, mask=token < vocab_size, other=float("-inf"))
    return tl.where((token < vocab_size) & (ordered(x) >= border), weight(x, top, temperature), 0)


@triton.jit
def pick_kernel(
    logits_ptr,
    at_ptr,
    rows_ptr,
    positions_ptr,
    table_ptr,
    floats_ptr,
    top_ptr,
    border_ptr,
    kept_ptr,
    ids_ptr,
    logits_stride,
    vocab_size,
    num_stretches,
    STRETCHES: tl.constexpr,
    STRETCH: tl.constexpr,
):
    """Each random draw's token: where the weights, added up in order of tokens, first exceed a random part of all."""
    i = tl.program_id(0)
    row, record = logits_row(at_ptr, i), record_of(rows_ptr, i)
    if tl.load(table_ptr + record + RANDOM) != 0:
        at = tl.arange(0, STRETCHES)
        kept = tl.load(kept_ptr + i.to(tl.int64) * num_stretches + at, mask=at < num_stretches, other=0)
        total = tl.sum(kept, 0)
        number = uniform(tl.load(table_ptr + record + SEED), tl.load(positions_ptr + i).to(tl.int64))
        target = tl.minimum((number * total.to(tl.float64)).to(tl.int64), total - 1)
        passed = (tl.cumsum(kept, 0) <= target) & (at < num_stretches)
        stretch = tl.minimum(tl.sum(passed.to(tl.int32), 0), num_stretches - 1)
        target -= tl.sum(tl.where(at < stretch, kept, 0), 0)
        top, temperature = tl.load(top_ptr + row), tl.load(floats_ptr + record + TEMPERATURE).to(tl.float32)
        border = tl.load(border_ptr + i)
        weights = kept_weights(logits_ptr + row * logits_stride, stretch, vocab_size, border, top, temperature, STRETCH)
        within = tl.sum((tl.cumsum(weights, 0) <= target).to(tl.int32), 0)
        tl.store(ids_ptr + row, tl.minimum(stretch * STRETCH + within, vocab_size - 1).to(tl.int64))


# ---- launches
def best(logits: Tensor, tiling: Tiling = TILING) -> Tensor:
    """The best token of each stretch of logits [L, V] float32, packed with its key: [L, C] int64."""
    assert logits.dtype == torch.float32 and logits.stride(1) == 1, (logits.dtype, logits.stride())
    rows, vocab_size = logits.shape
    num_stretches = triton.cdiv(vocab_size, tiling.stretch)
    found = torch.empty((rows, num_stretches), dtype=torch.int64, device=logits.device)
    if rows:
        best_kernel[(num_stretches, rows)](
            logits, found, logits.stride(0), vocab_size, STRETCH=tiling.stretch, num_warps=8, enable_fp_fusion=False
        )
    return found


def take(best: Tensor, ids: Tensor, top: Tensor, problems: Tensor) -> None:
    """Write each row's likeliest token into ids [L] int64, its logit into top [L] float32, and into problems [L] int8
    whether that is no finite number.
    """
    rows, num_stretches = best.shape
    if rows:
        padded = triton.next_power_of_2(num_stretches)
        take_kernel[(rows,)](best, ids, top, problems, num_stretches, STRETCHES=padded, num_warps=1)


def draw(
    logits: Tensor,
    best: Tensor,
    top: Tensor,
    table: Tensor,
    positions: Tensor,
    ids: Tensor,
    at: Tensor | None = None,
    rows: Tensor | None = None,
    tiling: Tiling = TILING,
) -> None:
    """Replace the tokens ids [L] int64 of n rows, which are their likeliest, by random ones where their records say so.

    Draw i is from row at[i] of logits [L, V] with record rows[i] of table [*, 6] int64, each i itself where there is no
    such tensor, at positions [n]. best is best(logits), top what `take` makes of it.
    """
    assert table.dtype == torch.int64 and table.is_contiguous(), (table.dtype, table.stride())
    num, num_stretches = positions.shape[0], best.shape[1]
    if not num:
        return
    border = borders(logits, best, top, table, num, at, rows, tiling)
    kept = torch.empty((num, num_stretches), dtype=torch.int64, device=logits.device)
    source, parameters = (logits, at, rows), (table, table.view(torch.float64))
    shape = (logits.stride(0), logits.shape[1])
    wide = {"STRETCH": tiling.stretch, "num_warps": 8, "enable_fp_fusion": False}
    keep_kernel[(num_stretches, num)](*source, *parameters, best, top, border, kept, *shape, **wide)
    padded = triton.next_power_of_2(num_stretches)
    pick_kernel[(num,)](
        *source, positions, *parameters, top, border, kept, ids, *shape, num_stretches, STRETCHES=padded, **wide
    )


def borders(
    logits: Tensor,
    best: Tensor,
    top: Tensor,
    table: Tensor,
    num: int,
    at: Tensor | None = None,
    rows: Tensor | None = None,
    tiling: Tiling = TILING,
) -> Tensor:
    """The key [num] int32 of the least logit that the filters of each draw keep; arguments as in `draw`."""
    device, num_stretches = logits.device, best.shape[1]
    width = num * PIVOTS.value * 2
    zeros = torch.zeros(3 * width + num, dtype=torch.int64, device=device)
    *totals, num_listed = zeros.split([width, width, width, num])
    searches = torch.empty((2, num, SEARCH.value), dtype=torch.int64, device=device)
    listed = torch.empty((num, tiling.listed), dtype=torch.float32, device=device)
    border = torch.empty(num, dtype=torch.int32, device=device)
    source, parameters = (logits, at, rows), (table, table.view(torch.float64))
    shape = (logits.stride(0), logits.shape[1])
    grid = (num_stretches, num)
    wide = {"STRETCH": tiling.stretch, "num_warps": 8, "enable_fp_fusion": False}
    survey_kernel[grid](*source, *parameters, best, top, totals[0], *shape, **wide)
    for turn in range(2):
        narrow_kernel[grid](
            *source,
            *parameters,
            best,
            top,
            totals[turn],
            searches[1 - turn],
            totals[turn + 1],
            searches[turn],
            listed,
            num_listed,
            *shape,
            IS_FIRST=turn == 0,
            LIST=tiling.listed,
            **wide,
        )
    settle_kernel[(num,)](
        *source,
        *parameters,
        top,
        totals[2],
        searches[1],
        listed,
        border,
        *shape,
        TILE=tiling.tile,
        LIST=tiling.listed,
        num_warps=8,
        enable_fp_fusion=False,
    )
    return border
