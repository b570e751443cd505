"""Paged attention of a step that mixes prompt chunks and decodes, cut into items by attention_plan.py.

Two kernels: `attend` runs one program per item and KV head, `merge` adds up the rows that were cut along their context.
Nothing is added atomically. Scores are in base 2: log2(e) is part of the scale, and exp2 is what the hardware has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.triton.attention_plan import Cut, Work
from octavo.ops.triton.attention_tiles import block_dim

LOG2E = 1.4426950408889634
MERGES = 8192  # programs of a merge: mostly they find nothing to do, which together takes a few microseconds


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    work: Work,
    cut: Cut,
    scale: float,
    softcap: float | None = None,
    scales: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of q [T, N, D] over the pages of keys, values [pages, P, K, D]; returns [T, N, D].

    page_table [S, max_pages] int32. scales [2, K] float32 are what the stored keys and values of each head must be
    multiplied with. sinks [N] float32 are scores of a key without a value. The rows of q may stand in longer ones; all
    else is contiguous.
    """
    heads, tuned = cut.heads, cut.tuning
    assert q.stride(2) == 1 and q.stride(1) == heads.head_dim, q.stride()
    assert keys.is_contiguous() and values.is_contiguous() and scale > 0, (keys.stride(), values.stride(), scale)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if softcap is None:
        factor, cap = scale * LOG2E, 1.0
    else:
        factor, cap = 2.0 * scale / softcap * LOG2E, softcap * LOG2E
    common = {
        "SHARE": heads.share,
        "D": heads.head_dim,
        "BLOCK_D": block_dim(heads.head_dim),
        "SCALED": scales is not None,
        "SINKS": sinks is not None,
    }
    tile = tuned.narrow if work.is_narrow else tuned.wide
    attend_kernel[(work.items.shape[0] * heads.num_kv_heads,)](
        q,
        keys,
        values,
        page_table,
        work.items,
        out,
        work.partial,
        work.state,
        scales,
        sinks,
        factor,
        cap,
        q.stride(0),
        page_table.stride(0),
        NARROW_ROWS=tuned.narrow.rows,
        NARROW_KEYS=tuned.narrow.keys,
        WIDE_ROWS=0 if work.is_narrow else tuned.wide.rows,
        WIDE_KEYS=tuned.wide.keys,
        KV_HEADS=heads.num_kv_heads,
        PAGE=keys.shape[1],
        WINDOW=cut.window or 0,
        CAPPED=softcap is not None,
        DOT=product_dtype(q, keys),
        PRECISION="ieee",
        num_warps=tile.warps,
        num_stages=tile.stages,
        **common,
    )
    if work.is_cut:
        each = triton.cdiv(q.shape[0] * heads.num_heads, MERGES)
        merge_kernel[(q.shape[0], triton.cdiv(heads.num_heads, each))](
            work.lines,
            work.partial,
            work.state,
            out,
            scales,
            sinks,
            each,
            HEADS=heads.num_heads,
            PIECES=16,
            num_warps=4,
            **common,
        )
    return out


def product_dtype(q: Tensor, keys: Tensor) -> tl.dtype:
    """What the products take. float16 holds every float8_e4m3fn, and the hardware converts to it in one instruction.

    Triton's interpreter has no products of bfloat16.
    """
    if q.dtype == torch.float32 or triton.knobs.runtime.interpret:
        return tl.float32
    return tl.bfloat16 if q.dtype == torch.bfloat16 and keys.dtype == torch.bfloat16 else tl.float16


@triton.jit
def slots_of(table, block, end, KEYS: tl.constexpr, PAGE: tl.constexpr):
    """Slots [KEYS] int64 of the block's keys, or one slot, the first, where a page holds whole blocks.

    Positions from `end` on get whatever page 0 holds: they are not to be read.
    """
    if PAGE % KEYS == 0:
        page = tl.load(table + (block * KEYS) // PAGE, mask=block * KEYS < end, other=0)
        return page.to(tl.int64) * PAGE + (block * KEYS) % PAGE
    else:
        key = block * KEYS + tl.arange(0, KEYS)
        page = tl.load(table + key // PAGE, mask=key < end, other=0)
        return page.to(tl.int64) * PAGE + key % PAGE


@triton.jit
def attend_blocks(
    q,
    acc,
    maximum,
    total,
    keys,
    values,
    table,
    position,
    begin,
    skip,
    skip_to,
    end,
    oldest,
    newest,
    factor,
    cap,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SLOT: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    MASKED: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Go over blocks begin:skip and skip_to:end. MASKED: some query does not see some key, and keys outside of
    oldest:newest are not read; else every query sees every key.
    """
    n = tl.arange(0, KEYS)
    d = tl.arange(0, BLOCK_D)
    head = skip - begin
    block = tl.where(head > 0, begin, skip_to)
    slot = slots_of(table, block, newest, KEYS, PAGE)
    for i in range(head + end - skip_to):
        key = block * KEYS + n
        if PAGE % KEYS == 0:
            offset = ((slot + n) * SLOT)[:, None] + d[None, :]
        else:
            offset = (slot * SLOT)[:, None] + d[None, :]
        # Looked up one block ahead: pages read where they are used would take a stage of the pipeline for themselves.
        following = tl.where(i + 1 < head, begin + i + 1, skip_to + i + 1 - head)
        next_slot = slots_of(table, following, newest, KEYS, PAGE)
        if MASKED:
            is_read = ((key >= oldest) & (key < newest))[:, None] & (d < D)[None, :]
            k = tl.load(keys + offset, mask=is_read, other=0.0)
            v = tl.load(values + offset, mask=is_read, other=0.0)
        elif D != BLOCK_D:
            is_read = (d < D)[None, :] & (n >= 0)[:, None]
            k = tl.load(keys + offset, mask=is_read, other=0.0)
            v = tl.load(values + offset, mask=is_read, other=0.0)
        else:
            k = tl.load(keys + offset)
            v = tl.load(values + offset)
        score = tl.dot(q, tl.trans(k.to(DOT)), input_precision=PRECISION)
        if CAPPED:
            # c · tanh(x) = c - 2c / (e^2x + 1)
            score = cap - 2.0 * cap / (tl.exp2(score * factor) + 1.0)
        if MASKED:
            is_seen = key[None, :] <= position[:, None]
            if WINDOW > 0:
                is_seen = is_seen & (key[None, :] > position[:, None] - WINDOW)
            score = tl.where(is_seen, score, float("-inf"))
        if CAPPED:
            highest = tl.maximum(maximum, tl.max(score, 1))
        else:
            highest = tl.maximum(maximum, tl.max(score, 1) * factor)
        anchor = highest
        if MASKED:
            anchor = tl.where(highest == float("-inf"), 0.0, highest)
        if CAPPED:
            weight = tl.exp2(score - anchor[:, None])
        else:
            weight = tl.exp2(score * factor - anchor[:, None])
        shrink = tl.exp2(maximum - anchor)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(DOT), v.to(DOT), acc * shrink[:, None], input_precision=PRECISION)
        maximum = highest
        slot = next_slot
        block = following
    return acc, maximum, total


@triton.jit
def attend_item(
    item,
    q,
    keys,
    values,
    tables,
    out,
    partial,
    state,
    scales,
    sinks,
    factor,
    cap,
    kv_head,
    q_stride,
    table_stride,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SHARE: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SLOT: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SCALED: tl.constexpr,
    SINKS: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One item of one KV head: the result of its tokens, or their lines."""
    token = tl.load(item + 1)
    count = tl.load(item + 2)
    first = tl.load(item + 3)
    row = tl.load(item + 4)
    begin = tl.load(item + 5)
    end = tl.load(item + 6)
    line = tl.load(item + 7)

    m = tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    query = m // SHARE
    head = kv_head * SHARE + m % SHARE
    is_live = query < count
    position = first + query
    at = (token + query).to(tl.int64)
    is_element = is_live[:, None] & (d < D)[None, :]
    q_tile = tl.load(q + (at * q_stride + head * D)[:, None] + d[None, :], mask=is_element, other=0.0).to(DOT)
    if SCALED:
        # A cache of scaled numbers: the keys' scale goes into the scores, the values' into the result.
        factor = factor * tl.load(scales + kv_head)
    acc = tl.full((ROWS, BLOCK_D), 0.0, tl.float32)
    maximum = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.full((ROWS,), 0.0, tl.float32)

    newest = first + count  # exclusive
    oldest = newest * 0
    low = begin
    if WINDOW > 0:
        oldest = tl.maximum(first - (WINDOW - 1), 0)
        # Blocks from here on are within the window of the last query, and so of all.
        low = tl.minimum(tl.maximum((tl.maximum(newest - WINDOW, 0) + KEYS - 1) // KEYS, begin), end)
    high = tl.minimum(tl.maximum((first + 1) // KEYS, low), end)
    table = tables + row.to(tl.int64) * table_stride
    keys = keys + kv_head * D
    values = values + kv_head * D
    if ROWS > 16:
        acc, maximum, total = attend_blocks(
            q_tile, acc, maximum, total, keys, values, table, position, low, low, low, high, oldest, newest, factor,
            cap, KEYS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, False, DOT, PRECISION,
        )  # fmt: skip
        acc, maximum, total = attend_blocks(
            q_tile, acc, maximum, total, keys, values, table, position, begin, low, high, end, oldest, newest, factor,
            cap, KEYS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, True, DOT, PRECISION,
        )  # fmt: skip
    else:
        # Masks cost nothing where the memory is waited for, and one loop fills its pipeline once.
        acc, maximum, total = attend_blocks(
            q_tile, acc, maximum, total, keys, values, table, position, begin, begin, begin, end, oldest, newest,
            factor, cap, KEYS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, True, DOT, PRECISION,
        )  # fmt: skip

    if line < 0:
        if SINKS:
            sink = tl.load(sinks + head, mask=is_live, other=0.0) * 1.4426950408889634
            highest = tl.maximum(maximum, sink)
            shrink = tl.exp2(maximum - highest)
            acc = acc * shrink[:, None]
            total = total * shrink + tl.exp2(sink - highest)
        result = acc / tl.where(total > 0.0, total, 1.0)[:, None]
        if SCALED:
            result = result * tl.load(scales + SLOT // D + kv_head)
        place = out + (at * (HEADS * D) + head * D)[:, None] + d[None, :]
        tl.store(place, result.to(out.dtype.element_ty), mask=is_element)
    else:
        number = (line + query).to(tl.int64) * HEADS + head
        tl.store(partial + (number * D)[:, None] + d[None, :], acc, mask=is_element)
        tl.store(state + number * 2, maximum, mask=is_live)
        tl.store(state + number * 2 + 1, total, mask=is_live)


@triton.jit(do_not_specialize=["table_stride"])
def attend_kernel(
    q,
    keys,
    values,
    tables,
    items,
    out,
    partial,
    state,
    scales,
    sinks,
    factor,
    cap,
    q_stride,
    table_stride,
    NARROW_ROWS: tl.constexpr,
    NARROW_KEYS: tl.constexpr,
    WIDE_ROWS: tl.constexpr,
    WIDE_KEYS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SHARE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SCALED: tl.constexpr,
    SINKS: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program i: item i // K of KV head i % K, so that heads that stand side by side in memory are read together.

    WIDE_ROWS is 0 where there are no wide items. Shapes as in `attend`.
    """
    program = tl.program_id(0)
    item = items + (program // KV_HEADS) * 8
    kv_head = program % KV_HEADS
    kind = tl.load(item)
    if tl.load(item + 2) == 0:
        return
    HEADS: tl.constexpr = KV_HEADS * SHARE
    SLOT: tl.constexpr = KV_HEADS * D
    if kind == 1:
        attend_item(
            item, q, keys, values, tables, out, partial, state, scales, sinks, factor, cap, kv_head, q_stride,
            table_stride, NARROW_ROWS, NARROW_KEYS, SHARE, HEADS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, SCALED,
            SINKS, DOT, PRECISION,
        )  # fmt: skip
    if WIDE_ROWS > 0:  # noqa: SIM102 - one is decided when the kernel is compiled, the other when it runs
        if kind == 2:
            attend_item(
                item, q, keys, values, tables, out, partial, state, scales, sinks, factor, cap, kv_head, q_stride,
                table_stride, WIDE_ROWS, WIDE_KEYS, SHARE, HEADS, D, BLOCK_D, SLOT, PAGE, WINDOW, CAPPED, SCALED,
                SINKS, DOT, PRECISION,
            )  # fmt: skip


@triton.jit(do_not_specialize=["heads_each"])
def merge_kernel(
    lines,
    partial,
    state,
    out,
    scales,
    sinks,
    heads_each,
    HEADS: tl.constexpr,
    SHARE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SCALED: tl.constexpr,
    SINKS: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Program (t, i): heads i · heads_each and on of token t, from its lines in order, PIECES at a time."""
    token = tl.program_id(0)
    place = lines + token * 3
    first = tl.load(place)
    stride = tl.load(place + 1)
    count = tl.load(place + 2)
    if count == 0:
        return
    d = tl.arange(0, BLOCK_D)
    piece = tl.arange(0, PIECES)
    begin = tl.program_id(1) * heads_each
    for head in range(begin, tl.minimum(begin + heads_each, HEADS)):
        maximum = tl.full((), float("-inf"), tl.float32)
        for base in range(0, count, PIECES):
            number = (first + (base + piece) * stride).to(tl.int64) * HEADS + head
            found = tl.load(state + number * 2, mask=base + piece < count, other=float("-inf"))
            maximum = tl.maximum(maximum, tl.max(found, 0))
        if SINKS:
            sink = tl.load(sinks + head) * 1.4426950408889634
            maximum = tl.maximum(maximum, sink)
        anchor = tl.where(maximum == float("-inf"), 0.0, maximum)
        acc = tl.full((BLOCK_D,), 0.0, tl.float32)
        total = tl.full((), 0.0, tl.float32)
        if SINKS:
            total += tl.exp2(sink - anchor)
        for base in range(0, count, PIECES):
            is_piece = base + piece < count
            number = (first + (base + piece) * stride).to(tl.int64) * HEADS + head
            found = tl.load(state + number * 2, mask=is_piece, other=float("-inf"))
            sums = tl.load(state + number * 2 + 1, mask=is_piece, other=0.0)
            is_element = is_piece[:, None] & (d < D)[None, :]
            rows = tl.load(partial + (number * D)[:, None] + d[None, :], mask=is_element, other=0.0)
            weight = tl.exp2(found - anchor)
            total += tl.sum(weight * sums, 0)
            acc += tl.sum(weight[:, None] * rows, 0)
        result = acc / tl.where(total > 0.0, total, 1.0)
        if SCALED:
            result = result * tl.load(scales + HEADS // SHARE + head // SHARE)
        tl.store(out + (token.to(tl.int64) * HEADS + head) * D + d, result.to(out.dtype.element_ty), mask=d < D)
