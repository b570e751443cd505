"""Attention with octavo's own kernels on a GPU: one launch for chunks and decodes alike, the same for any lengths."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from octavo import spec
from octavo.forward import ForwardBatch
from octavo.ops.triton import attention_plan as planning
from octavo.ops.triton import attention_tiles as tiles
from octavo.ops.triton.attention import attend

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 256
# Tokens of a row without a cached prefix from which on torch's kernels compute it. cuDNN's may be faster on Hopper, but
# is set up anew for every length, which must be worth it. A guess: bench/gpu/attention.py measures all of them.
FIRST_CHUNK = 8192
FUSED = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]  # never torch's plain one, whose scores are [N, n, n]
WHOLE = 2**30  # keys of a piece that no context is longer than
IN_ORDER = 16  # rows of a tile up to which blocks are added in the order of the context, masked or not


@dataclass
class TritonPlan:
    """A step's rows, and what they were cut into: once for each number of query heads that share a KV head, without
    and with `prompts`, the tokens of rows that torch may compute.
    """

    batch: ForwardBatch
    page_table: Tensor
    cache: spec.CacheSpec
    page_size: int
    prompts: tuple[slice, ...]
    works: dict[tuple[int, bool], tuple[planning.Work, planning.Cut]] = field(default_factory=dict)


class TritonAttention:
    """Cache [2, pages, P, K, D]: keys, then values; float8_e4m3fn holds them as they are (scale 1).

    A step may be recorded: plan and run read starts, lengths and pages on the device, wait for nothing, and launch what
    the shapes alone say. A recorded step of as many tokens as rows is taken for one of decodes; whatever its rows turn
    out to be, the result is right.

    Where contexts are cut follows from the whole step's work. With `whole_contexts` a row's result is bitwise the same
    whatever else is in the step and however a prompt is cut into chunks: then no context is cut, which leaves a device
    with few long rows partly idle, and chunks are computed by the tiles of decodes, which read keys more often.

    Rows of `first_chunk` tokens and more that have no cached prefix are torch's, if all of this holds: the step is not
    recorded, contexts need not be whole, no token is out of the window, scores are not bounded, and the cache holds the
    halves that keys and values are. The kernel computes the step's other rows.
    """

    records = True

    def __init__(
        self,
        tuning: tiles.Tuning | None = None,
        machine: tiles.Machine | None = None,
        whole_contexts: bool = False,
        first_chunk: int = FIRST_CHUNK,
    ) -> None:
        self.whole_contexts = whole_contexts
        self.first_chunk = first_chunk
        self._tuning = tuning
        self._machine = machine

    def refuses(self, layer: spec.Attention, dtype: torch.dtype) -> str | None:
        if dtype not in DTYPES:
            return f"takes {', '.join(map(str, DTYPES))}, not {dtype}"
        if layer.head_dim > MAX_HEAD_DIM:
            return f"heads of {layer.head_dim} channels; it takes at most {MAX_HEAD_DIM}"
        share = layer.num_heads // layer.num_kv_heads
        if share > tiles.MOST_SHARED:
            return f"{share} query heads per KV head; it takes at most {tiles.MOST_SHARED}"
        if self.whole_contexts and layer.window is not None and share > IN_ORDER:
            return f"{share} query heads per KV head and a window are not batch-invariant; it takes at most {IN_ORDER}"
        return None

    def cache_shape(self, cache: spec.CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        return (2, num_pages, page_size, cache.num_kv_heads, cache.head_dim)

    def writable(self, cache: Tensor) -> Tensor | None:
        return cache

    def plan(self, batch: ForwardBatch, index: int, group: spec.CacheGroup) -> TritonPlan:
        inputs = batch.groups[index]
        prompts = self._prompts(batch, group.spec.window)
        return TritonPlan(batch, inputs.page_table, group.spec, inputs.page_size, prompts)

    def _prompts(self, batch: ForwardBatch, window: int | None) -> tuple[slice, ...]:
        if batch.is_recorded or self.whole_contexts:
            return ()
        rows = zip(batch.host_starts, batch.host_starts[1:], batch.host_lengths, strict=False)
        return tuple(
            slice(start, stop)
            for start, stop, length in rows
            if self.first_chunk <= length == stop - start and (window is None or length <= window)
        )

    def run(
        self,
        layer: spec.Attention,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Tensor,
        plan: object,
        scales: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(plan, TritonPlan), type(plan)
        is_plain = layer.softcap is None and layer.head_dim % 8 == 0
        prompts = plan.prompts if is_plain and cache.dtype == q.dtype != torch.float32 else ()
        computed = [attend_prompt(layer, q[tokens], k[tokens], v[tokens]) for tokens in prompts]
        if sum(map(len, computed)) == len(q):
            return computed[0] if len(computed) == 1 else torch.cat(computed)
        share = layer.num_heads // layer.num_kv_heads
        key = share, bool(prompts)
        if key not in plan.works:
            plan.works[key] = self._cut(plan, share, cache, bool(prompts))
        work, cut = plan.works[key]
        keys, values = cache.unbind(0)
        out = attend(q, keys, values, plan.page_table, work, cut, layer.scale, layer.softcap, scales)
        for tokens, part in zip(prompts, computed, strict=True):
            out[tokens] = part
        return out

    def _cut(self, plan: TritonPlan, share: int, cache: Tensor, no_prompts: bool) -> tuple[planning.Work, planning.Cut]:
        """The kernel's work for a step; with `no_prompts` torch's rows have no context, and so hardly any."""
        batch, keeps = plan.batch, plan.cache
        machine = self._machine or tiles.machine(cache.device)
        tuned = self._tuning or tiles.tuning(machine, keeps.head_dim, share, cache.element_size())
        if self.whole_contexts:
            tuned = replace(tuned, narrow_piece=WHOLE, wide_piece=WHOLE)
        queries = tuned.narrow.rows // share
        num_rows = batch.starts.shape[0] - 1
        most = -(-batch.tokens.shape[0] // num_rows) if batch.is_recorded else batch.max_query
        lengths, host_lengths = batch.lengths, batch.host_lengths
        if no_prompts:
            firsts = {tokens.start for tokens in plan.prompts}
            host_lengths = [
                0 if start in firsts else n for start, n in zip(batch.host_starts, host_lengths, strict=False)
            ]
            counts = batch.starts.diff()
            is_prompt = (lengths == counts) & (counts >= self.first_chunk) & (lengths <= (keeps.window or WHOLE))
            lengths = lengths.masked_fill(is_prompt, 0)
        rows = planning.Rows(
            starts=batch.starts,
            lengths=lengths,
            num_tokens=batch.tokens.shape[0],
            max_length=plan.page_table.shape[1] * plan.page_size,
            host=None if batch.is_recorded else (batch.host_starts, host_lengths),
            is_narrow=self.whole_contexts or most <= queries,
        )
        heads = planning.Heads(keeps.num_kv_heads, share, keeps.head_dim)
        cut = planning.cut_for(machine, tuned, rows, heads, keeps.window)
        return planning.plan(rows, cut), cut


def attend_prompt(layer: spec.Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q [n, N, D] over k, v [n, K, D] by torch's fused kernels, of which it chooses one."""
    with sdpa_kernel(FUSED) if q.is_cuda else contextlib.nullcontext():
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            is_causal=True,
            scale=layer.scale,
            enable_gqa=layer.num_heads != layer.num_kv_heads,
        )
    return out[0].transpose(0, 1)


def create() -> TritonAttention:
    """A backend without state."""
    return TritonAttention()
