"""Queries, keys and values between their product and attention: norms, bounds, rotation and the cache in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.ops.qkv import QKNorm
from octavo.ops.quantized import LIMITS
from octavo.ops.registry import implements
from octavo.ops.triton.elementary import rounded

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE = 1024  # channels of a program, unless a norm needs more: heads are as many as make them


@triton.jit
def normalized_piece(x, scale, weight_ptr, head, at, mask, dim: tl.constexpr, is_normed, DTYPE: tl.constexpr):
    """Some channels of normalized heads; those of the others as they are."""
    weight = tl.load(weight_ptr + head[:, None] * dim + at[None, :], mask=mask & is_normed, other=0.0)
    return tl.where(is_normed, rounded(x * scale * weight, DTYPE), x)


@triton.jit
def bounded(x, bound, DTYPE: tl.constexpr):
    return rounded(tl.where(x > bound, bound, tl.where(x < -bound, -bound, x)), DTYPE)


@triton.jit
def store_piece(
    x, out_ptr, out_at, out_mask, cache_ptr, cache_at, cache_mask, scale, SCALED: tl.constexpr, LIMIT: tl.constexpr
):
    tl.store(out_ptr + out_at, x.to(out_ptr.dtype.element_ty), mask=out_mask)
    if cache_ptr is not None:
        if SCALED:
            x = x / scale
        if LIMIT is not None:
            x = tl.where(x > LIMIT, LIMIT, tl.where(x < -LIMIT, -LIMIT, x))
        tl.store(cache_ptr + cache_at, x.to(cache_ptr.dtype.element_ty), mask=cache_mask)


@triton.jit
def prepare_kernel(
    x_ptr,
    out_ptr,
    weight_ptr,
    angles_ptr,
    cache_ptr,
    slots_ptr,
    scales_ptr,
    x_row,
    x_head,
    out_row,
    out_head,
    angles_row,
    cache_part,
    cache_page,
    cache_offset,
    cache_head,
    page_size,
    heads,
    kv_heads,
    eps,
    bound,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    WHOLE: tl.constexpr,
    BOUNDED: tl.constexpr,
    STORED: tl.constexpr,
    LIMIT: tl.constexpr,
    TILE: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
):
    """TILE heads of one token; with WHOLE all of its queries, keys or values. Heads are q | k | v.

    A head's channels are two halves of HALF that are rotated against each other, then REST that pass; no thread reads
    a channel that another one writes. Pointers of what is left out are None; out may be x. STORED says what goes there:
    all, qk or nothing.
    """
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    dim: tl.constexpr = 2 * HALF + REST
    normed = heads + kv_heads
    if WHOLE:
        first = tl.where(part == 0, 0, heads + (part - 1) * kv_heads)
        count = tl.where(part == 0, heads, kv_heads)
    else:
        first = part * TILE
        count = normed + kv_heads - first
    head = first + tl.arange(0, TILE)
    is_here = (tl.arange(0, TILE) < count)[:, None]
    is_normed = is_here & (head < normed)[:, None]
    x_ptr += token * x_row
    x_at = head[:, None] * x_head
    half_at = tl.arange(0, HALF_BLOCK)
    half = is_here & (half_at < HALF)[None, :]
    rest_at = tl.arange(0, REST_BLOCK)
    rest = is_here & (rest_at < REST)[None, :]
    if HALF > 0:
        a = tl.load(x_ptr + x_at + half_at[None, :], mask=half, other=0.0).to(tl.float32)
        b = tl.load(x_ptr + x_at + (HALF + half_at)[None, :], mask=half, other=0.0).to(tl.float32)
    if REST > 0:
        c = tl.load(x_ptr + x_at + (2 * HALF + rest_at)[None, :], mask=rest, other=0.0).to(tl.float32)

    if weight_ptr is not None:
        squares = tl.zeros((TILE,), tl.float32)
        if HALF > 0:
            squares += tl.sum(a * a, 1) + tl.sum(b * b, 1)
        if REST > 0:
            squares += tl.sum(c * c, 1)
        if WHOLE:
            scale = tl.rsqrt(tl.sum(squares, 0) / (count * dim) + eps)
        else:
            scale = tl.rsqrt(squares / dim + eps)[:, None]
        if HALF > 0:
            a = normalized_piece(a, scale, weight_ptr, head, half_at, half, dim, is_normed, dtype)
            b = normalized_piece(b, scale, weight_ptr, head, HALF + half_at, half, dim, is_normed, dtype)
        if REST > 0:
            c = normalized_piece(c, scale, weight_ptr, head, 2 * HALF + rest_at, rest, dim, is_normed, dtype)
    if BOUNDED:
        if HALF > 0:
            a, b = bounded(a, bound, dtype), bounded(b, bound, dtype)
        if REST > 0:
            c = bounded(c, bound, dtype)
    if HALF > 0:
        angles_ptr += token * angles_row
        cos = tl.load(angles_ptr + half_at, mask=half_at < HALF, other=1.0)[None, :]
        sin = tl.load(angles_ptr + HALF + half_at, mask=half_at < HALF, other=0.0)[None, :]
        turned_a = rounded(a * cos - b * sin, dtype)
        turned_b = rounded(b * cos + a * sin, dtype)
        a, b = tl.where(is_normed, turned_a, a), tl.where(is_normed, turned_b, b)

    if STORED == "all":
        is_changed = is_here
    else:
        is_changed = is_normed if STORED == "qk" else is_here & False
    out_ptr += token * out_row
    out_at = head[:, None] * out_head
    cache_at = x_at
    is_cached = is_here
    scaled: tl.constexpr = scales_ptr is not None
    scale = tl.full((TILE, 1), 1.0, tl.float32)
    if cache_ptr is not None:
        slot = tl.load(slots_ptr + token).to(tl.int64)
        page = slot // page_size
        is_value = head >= normed
        own = head - heads - tl.where(is_value, kv_heads, 0)
        start = page * cache_page + (slot - page * page_size) * cache_offset
        cache_at = (start + tl.where(is_value, 1, 0).to(tl.int64) * cache_part + own.to(tl.int64) * cache_head)[:, None]
        is_cached = is_here & (head >= tl.where(slot >= 0, heads, normed + kv_heads))[:, None]
        if scaled:
            # Keys' scales, then values', as the heads stand behind the queries.
            scale = tl.load(scales_ptr + (head - heads)[:, None], mask=is_cached, other=1.0)
    if HALF > 0:
        at = half_at[None, :]
        store_piece(
            a, out_ptr, out_at + at, half & is_changed, cache_ptr, cache_at + at, half & is_cached, scale, scaled, LIMIT
        )
        at += HALF
        store_piece(
            b, out_ptr, out_at + at, half & is_changed, cache_ptr, cache_at + at, half & is_cached, scale, scaled, LIMIT
        )
    if REST > 0:
        at = 2 * HALF + rest_at[None, :]
        store_piece(
            c, out_ptr, out_at + at, rest & is_changed, cache_ptr, cache_at + at, rest & is_cached, scale, scaled, LIMIT
        )


def _launch(
    x: Tensor,
    out: Tensor,
    heads: int,
    kv_heads: int,
    norm: QKNorm | None = None,
    bound: float | None = None,
    angles: Tensor | None = None,
    cache: Tensor | None = None,
    slots: Tensor | None = None,
    scales: Tensor | None = None,
) -> None:
    """x, out [T, heads + 2 kv_heads, D], which may be the same."""
    tokens, total, dim = x.shape
    if not tokens:
        return
    half = 0 if angles is None else angles.shape[1] // 2
    rest = dim - 2 * half
    half_block, rest_block = (triton.next_power_of_2(max(size, 1)) for size in (half, rest))
    channels = (2 * half_block if half else 0) + (rest_block if rest else 0)
    whole = norm is not None and norm.span == "all"
    if whole:
        tile, parts = triton.next_power_of_2(max(heads, kv_heads)), 3
    else:
        tile = min(max(TILE // triton.next_power_of_2(channels), 1), triton.next_power_of_2(total))
        parts = triton.cdiv(total, tile)
    if out is not x or bound is not None:
        stored = "all"
    else:
        stored = "qk" if half or norm is not None else "nothing"
    prepare_kernel[(tokens, parts)](
        x,
        out,
        None if norm is None else norm.weight,
        angles,
        cache,
        slots,
        scales,
        x.stride(0),
        x.stride(1),
        out.stride(0),
        out.stride(1),
        0 if angles is None else angles.stride(0),
        *((0, 0, 0, 0) if cache is None else cache.stride()[:4]),
        1 if cache is None else cache.shape[2],
        heads,
        kv_heads,
        0.0 if norm is None else norm.eps,
        0.0 if bound is None else bound,
        HALF=half,
        REST=rest,
        WHOLE=whole,
        BOUNDED=bound is not None,
        STORED=stored,
        LIMIT=LIMITS[torch.float8_e4m3fn] if cache is not None and cache.dtype == torch.float8_e4m3fn else None,
        TILE=tile,
        HALF_BLOCK=half_block,
        REST_BLOCK=rest_block,
        num_warps=min(max(tile * channels // 256, 1), 16),
    )


@implements("prepare_qkv", "triton", DTYPES)
def prepare_qkv(
    qkv: Tensor,
    heads: int,
    norm: QKNorm | None,
    clip_to: float | None,
    angles: Tensor | None,
    cache: Tensor | None,
    slots: Tensor | None,
    scales: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As ops.prepare_qkv, in place."""
    assert qkv.stride(2) == 1 and (cache is None or cache.stride(4) == 1), (qkv.stride(), cache)
    assert scales is None or scales.is_contiguous(), scales
    kv_heads = (qkv.shape[1] - heads) // 2
    if norm is not None or clip_to is not None or angles is not None or cache is not None:
        _launch(qkv, qkv, heads, kv_heads, norm, clip_to, angles, cache, slots, scales)
    q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
    return q, k, v


@implements("rotate", "triton", DTYPES)
def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """As ops.rotate."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(x if x.stride(2) == 1 else x.contiguous(), out, x.shape[1], 0, angles=angles)
    return out


@implements("head_rms_norm", "triton", DTYPES)
def head_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ops.head_rms_norm."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(x if x.stride(2) == 1 else x.contiguous(), out, x.shape[1], 0, QKNorm(weight, eps))
    return out


@triton.jit
def write_kernel(
    k_ptr,
    v_ptr,
    cache_ptr,
    slots_ptr,
    k_row,
    k_head,
    v_row,
    v_head,
    cache_part,
    cache_page,
    cache_offset,
    cache_head,
    page_size,
    kv_heads,
    dim,
    LIMIT: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """TILE heads of one token's keys, or of its values."""
    token = tl.program_id(0).to(tl.int64)
    is_value = tl.program_id(1)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    head, at = tl.program_id(2) * TILE + tl.arange(0, TILE), tl.arange(0, BLOCK)
    mask = (head < tl.where(slot >= 0, kv_heads, 0))[:, None] & (at < dim)[None, :]
    if is_value == 0:
        x = tl.load(k_ptr + token * k_row + head[:, None] * k_head + at[None, :], mask=mask, other=0.0)
    else:
        x = tl.load(v_ptr + token * v_row + head[:, None] * v_head + at[None, :], mask=mask, other=0.0)
    x = x.to(tl.float32)
    if LIMIT is not None:
        x = tl.where(x > LIMIT, LIMIT, tl.where(x < -LIMIT, -LIMIT, x))
    page = slot // page_size
    start = page * cache_page + (slot - page * page_size) * cache_offset + is_value.to(tl.int64) * cache_part
    cache_at = start + head.to(tl.int64)[:, None] * cache_head + at[None, :]
    tl.store(cache_ptr + cache_at, x.to(cache_ptr.dtype.element_ty), mask=mask)


@implements("write_cache", "triton", DTYPES)
def write_cache(cache: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As ops.write_cache."""
    assert k.stride(2) == v.stride(2) == cache.stride(4) == 1, (k.stride(), v.stride(), cache.stride())
    tokens, kv_heads, dim = k.shape
    if tokens:
        block = triton.next_power_of_2(dim)
        tile = min(max(TILE // block, 1), triton.next_power_of_2(kv_heads))
        write_kernel[(tokens, 2, triton.cdiv(kv_heads, tile))](
            k,
            v,
            cache,
            slots,
            k.stride(0),
            k.stride(1),
            v.stride(0),
            v.stride(1),
            *cache.stride()[:4],
            cache.shape[2],
            kv_heads,
            dim,
            LIMIT=LIMITS[torch.float8_e4m3fn] if cache.dtype == torch.float8_e4m3fn else None,
            TILE=tile,
            BLOCK=block,
            num_warps=min(max(tile * block // 256, 1), 8),
        )
    return cache
