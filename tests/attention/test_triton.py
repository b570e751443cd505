"""The GPU's attention against the dense formula: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from octavo import ops, spec
from octavo.errors import StartupError
from octavo.forward import ForwardBatch

pytest.importorskip("triton")

from octavo.attention.triton import TritonAttention
from octavo.ops.triton import attention_plan as planning
from octavo.ops.triton import attention_tiles as tiles
from octavo.ops.triton.attention import attend

from .test_backends import LAYER, TOLERANCE, Row, build, dense, draw_rows, run

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HAS_GPU = DEVICE.type == "cuda"
WARPS = 4 if HAS_GPU else 1
# Tiles so small, and pieces so short, that short rows are cut as long ones are.
TUNING = tiles.Tuning(
    tiles.Tile(16, 16, WARPS, 2, 1), tiles.Tile(32, 32, WARPS, 2, 1), narrow_piece=32, wide_piece=64, waves=1
)
EVERYTHING = [(5, 1), (15, 1), (16, 1), (17, 1), (70, 33), (1, 1), (40, 40), (150, 1)]


def small(whole_contexts: bool = False, places: int = 8, share: int = 1) -> TritonAttention:
    """The backend with small tiles, on a device with room for `places` programs."""
    tuning = replace(TUNING, narrow=replace(TUNING.narrow, rows=max(16, 1 << (share - 1).bit_length())))
    return TritonAttention(tuning, replace(tiles.machine(DEVICE), num_processors=places), whole_contexts)


def to_device(batch: ForwardBatch) -> ForwardBatch:
    groups = [
        replace(group, page_table=group.page_table.to(DEVICE), slots=group.slots.to(DEVICE)) for group in batch.groups
    ]
    return replace(
        batch,
        tokens=batch.tokens.to(DEVICE),
        positions=batch.positions.to(DEVICE),
        starts=batch.starts.to(DEVICE),
        lengths=batch.lengths.to(DEVICE),
        groups=groups,
        caches=[cache.to(DEVICE) for cache in batch.caches],
    )


def draw_queries(layer: spec.Attention, rows: list[Row], dtype: torch.dtype = torch.float32) -> Tensor:
    """q [T, N, D] as a model has it, part of longer rows."""
    count = sum(row.queries for row in rows)
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, layer.num_heads + 3, layer.head_dim, generator=generator).to(dtype)[:, : layer.num_heads]


def new_keys_and_values(rows: list[Row]) -> tuple[Tensor, Tensor]:
    keys, values = [row.keys[-row.queries :] for row in rows], [row.values[-row.queries :] for row in rows]
    return torch.cat(keys).to(DEVICE), torch.cat(values).to(DEVICE)


def compute(
    attention: TritonAttention, layer: spec.Attention, rows: list[Row], q: Tensor, page_size: int = 16, shared: int = 0
) -> Tensor:
    batch, group = build(rows, layer, page_size, attention, shared)
    moved = [replace(row, keys=row.keys.to(DEVICE), values=row.values.to(DEVICE)) for row in rows]
    return run(attention, to_device(batch), group, layer, q.to(DEVICE), moved).cpu()


@pytest.mark.parametrize(
    ("window", "softcap", "heads", "dim", "page_size", "whole_contexts"),
    [
        (None, None, (4, 2), 16, 16, False),
        (20, 1.5, (4, 2), 16, 16, False),
        pytest.param(None, 1.5, (3, 1), 80, 4, True, marks=pytest.mark.slow),
        (17, None, (8, 1), 32, 32, False),
        (64, None, (2, 2), 48, 7, False),
        pytest.param(64, None, (2, 2), 48, 7, True, marks=pytest.mark.slow),
    ],
)
def test_a_mixed_step_computes_the_dense_formula(
    window: int | None, softcap: float | None, heads: tuple[int, int], dim: int, page_size: int, whole_contexts: bool
) -> None:
    layer = replace(
        LAYER, window=window, softcap=softcap, num_heads=heads[0], num_kv_heads=heads[1], head_dim=dim, scale=dim**-0.5
    )
    rows = draw_rows(EVERYTHING, layer, torch.float32, seed=3)
    q = draw_queries(layer, rows)
    out = compute(small(whole_contexts), layer, rows, q, page_size)
    torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    rows = draw_rows([(40, 1), (37, 20)], LAYER, dtype, seed=4)
    q = draw_queries(LAYER, rows, dtype)
    out = compute(small(), LAYER, rows, q)
    torch.testing.assert_close(out.double(), dense(LAYER, q, rows), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("share", [1, 2, 3, 4, 5, 6, 7, 8, 20])
@pytest.mark.parametrize("dim", [32, 64, 96, 112, 128, 256])
def test_every_share_and_head_size_computes_the_dense_formula(share: int, dim: int) -> None:
    layer = replace(LAYER, num_heads=share, num_kv_heads=1, head_dim=dim, window=50, scale=dim**-0.5)
    rows = draw_rows([(33, 1), (70, 20), (31, 2)], layer, torch.float32, seed=share)
    q = draw_queries(layer, rows)
    out = compute(small(share=share), layer, rows, q)
    torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.sanitized
@pytest.mark.parametrize("whole_contexts", [False, True])
def test_the_tiles_of_this_gpu_read_and_write_only_what_is_theirs(whole_contexts: bool) -> None:
    layer = replace(LAYER, head_dim=128, window=90)
    rows = draw_rows([(70, 1), (200, 140), (600, 1)], layer, torch.bfloat16, seed=16)
    q = draw_queries(layer, rows, torch.bfloat16)
    out = compute(TritonAttention(whole_contexts=whole_contexts), layer, rows, q)
    torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [64, 80, 128, 256])
@pytest.mark.parametrize("window", [None, 700])
@pytest.mark.parametrize("whole_contexts", [False, True])
def test_the_tiles_of_this_gpu_compute_the_dense_formula(
    dtype: torch.dtype, dim: int, window: int | None, whole_contexts: bool
) -> None:
    layer = replace(LAYER, num_heads=8, head_dim=dim, window=window, scale=dim**-0.5)
    rows = draw_rows([(1500, 1), (900, 1), (130, 130), (1000, 200), (1, 1)], layer, dtype, seed=7)
    q = draw_queries(layer, rows, dtype)
    out = compute(TritonAttention(whole_contexts=whole_contexts), layer, rows, q)
    torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.slow
def test_rows_in_another_order_have_the_same_results_in_that_order() -> None:
    rows = draw_rows([(90, 1), (20, 20), (33, 3)], LAYER, torch.float32, seed=9)
    q = draw_queries(LAYER, rows)
    first = compute(small(), LAYER, rows, q).split([1, 20, 3])
    order = [2, 0, 1]
    parts = q.split([1, 20, 3])
    second = compute(small(), LAYER, [rows[i] for i in order], torch.cat([parts[i] for i in order])).split([3, 1, 20])
    for i, j in enumerate(order):
        torch.testing.assert_close(second[i], first[j], rtol=1e-6, atol=1e-6)


@pytest.mark.sanitized
def test_a_context_in_pieces_has_the_result_of_the_whole() -> None:
    rows = draw_rows([(130, 1), (140, 9)], LAYER, torch.float32, seed=10)
    q = draw_queries(LAYER, rows)
    whole, pieces = (compute(small(places=places), LAYER, rows, q) for places in (1, 60))
    assert not torch.equal(whole, pieces), "nothing was cut"
    torch.testing.assert_close(whole, pieces, rtol=1e-6, atol=1e-6)


def test_prompts_that_torch_computes_have_the_kernels_results_beside_rows_that_the_kernel_computes() -> None:
    """Of the kernel are a prompt of 18 tokens, one of more than the window, and whatever has a cached prefix."""
    layer = replace(LAYER, window=24)
    rows = draw_rows([(22, 22), (38, 20), (50, 1), (20, 20), (18, 18), (25, 25)], layer, torch.float16, seed=18)
    q = draw_queries(layer, rows, torch.float16)
    attention = small()
    attention.first_chunk = 20
    batch, group = build(rows, layer, 16, attention)
    batch = to_device(batch)
    plan = attention.plan(batch, 0, group)
    assert plan.prompts == (slice(0, 22), slice(43, 63))
    k, v = new_keys_and_values(rows)
    ops.write_cache(batch.caches[0], batch.groups[0].slots, k, v)
    out = attention.run(layer, q.to(DEVICE), k, v, batch.caches[0], plan).cpu()
    torch.testing.assert_close(out.double(), dense(layer, q, rows), rtol=4e-3, atol=4e-3)
    items = plan.works[2, True][0].items.tolist()
    assert sum(item[6] - item[5] for item in items if item[4] in (0, 3)) == 0, "the kernel reads no keys for them"
    attention.first_chunk = 100
    torch.testing.assert_close(out, compute(attention, layer, rows, q), rtol=4e-3, atol=4e-3)


def test_a_step_of_nothing_but_such_prompts_is_torchs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(*_: object) -> None:
        raise RuntimeError("the kernel is asked")

    rows = draw_rows([(20, 20), (33, 33)], LAYER, torch.float16, seed=19)
    q = draw_queries(LAYER, rows, torch.float16)
    attention = small()
    attention.first_chunk = 20
    monkeypatch.setattr(planning, "plan", plan)
    out = compute(attention, LAYER, rows, q)
    torch.testing.assert_close(out.double(), dense(LAYER, q, rows), rtol=4e-3, atol=4e-3)
    exact = [replace(row, keys=row.keys.float(), values=row.values.float()) for row in rows]
    for layer, others, queries in ((replace(LAYER, softcap=5.0), rows, q), (LAYER, exact, q.float())):
        with pytest.raises(RuntimeError, match="the kernel is asked"):
            compute(attention, layer, others, queries)


@pytest.mark.parametrize("refusing", ["recorded", "whole contexts", "a cached prefix"])
def test_torch_computes_no_prompts_where_it_could_not_give_what_is_asked(refusing: str) -> None:
    attention = TritonAttention(whole_contexts=refusing == "whole contexts", first_chunk=8)
    length = 21 if refusing == "a cached prefix" else 20
    batch, group = build(draw_rows([(length, 20)], LAYER, torch.float16, seed=20), LAYER, 16, attention)
    batch = replace(batch, is_recorded=refusing == "recorded")
    assert not attention.plan(batch, 0, group).prompts


def test_rows_that_share_pages_read_the_same_prefix() -> None:
    rows = draw_rows([(33, 1), (50, 3)], LAYER, torch.float32, seed=8)
    rows[1].keys[:32], rows[1].values[:32] = rows[0].keys[:32], rows[0].values[:32]
    q = draw_queries(LAYER, rows)
    out = compute(small(), LAYER, rows, q, shared=2)
    torch.testing.assert_close(out.double(), dense(LAYER, q, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_whole_contexts_are_bitwise_the_same_in_any_batch_and_in_any_chunks() -> None:
    layer = replace(LAYER, window=150)
    rows = draw_rows([(230, 1), (65, 1), (60, 40), (9, 2)], layer, torch.float32, seed=11)
    parts = draw_queries(layer, rows).split([1, 1, 40, 2])
    together = compute(small(True), layer, rows, torch.cat(parts)).split([1, 1, 40, 2])
    for row, q, expected in zip(rows, parts, together, strict=True):
        assert torch.equal(compute(small(True, places=50), layer, [row], q), expected)
    decodes = compute(small(True), layer, rows[1::-1], torch.cat(parts[1::-1]))
    assert torch.equal(decodes, torch.cat(together[1::-1]))
    chunk, length = rows[2], 47  # of its 60 tokens, the last 40 of which were one chunk
    first = replace(chunk, keys=chunk.keys[:length], values=chunk.values[:length], queries=27)
    for row, q, expected in (
        (first, parts[2][:27], together[2][:27]),
        (replace(chunk, queries=13), parts[2][27:], together[2][27:]),
    ):
        assert torch.equal(compute(small(True), layer, [row], q), expected)


def recorded(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`work` as a CUDA graph where there is a GPU; elsewhere it is done anew, which comes to the same."""
    if not HAS_GPU:
        return work
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def test_a_recorded_step_serves_any_lengths_and_leaves_padding_zero() -> None:
    """What shapes say is decided at lengths that are bounds; the values come later, into the same tensors."""
    attention, q = small(), torch.randn(4, 4, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    batch, group = build(draw_rows([(160, 1)] * 4, LAYER, torch.float32, seed=12), LAYER, 16, attention)
    batch = to_device(replace(batch, is_recorded=True, bucket=4))
    cache, table = batch.caches[0], batch.groups[0].page_table
    step = recorded(lambda: attention.run(LAYER, q, q, q, cache, attention.plan(batch, 0, group)))
    for lengths in ([160, 3, 0, 0], [16, 17, 1, 150]):
        rows = draw_rows([(length, 1) for length in lengths if length], LAYER, torch.float32, seed=13)
        live, _ = build(rows, LAYER, 16, attention)
        live = to_device(live)
        k, v = new_keys_and_values(rows)
        ops.write_cache(live.caches[0], live.groups[0].slots, k, v)
        cache.copy_(live.caches[0])
        table.fill_(10**6)  # stale: of whoever had the row before
        table[: len(rows), : live.groups[0].page_table.shape[1]] = live.groups[0].page_table
        batch.lengths.copy_(torch.tensor(lengths))
        out = step().cpu()
        expected = dense(LAYER, q[: len(rows)].cpu(), rows)
        torch.testing.assert_close(out[: len(rows)].double(), expected, rtol=1e-5, atol=1e-5)
        assert not out[len(rows) :].any()


@pytest.mark.skipif(HAS_GPU and torch.cuda.get_device_capability() < (8, 9), reason="needs float8_e4m3fn in hardware")
def test_a_cache_of_float8_is_read_with_its_scales() -> None:
    dtype = torch.float8_e4m3fn
    rows = draw_rows([(90, 1), (40, 20)], LAYER, dtype, seed=14)
    q = draw_queries(LAYER, rows, torch.float16)
    attention = small()
    batch, group = build(rows, LAYER, 16, attention)
    batch = to_device(batch)
    k, v = new_keys_and_values(rows)
    ops.write_cache(batch.caches[0], batch.groups[0].slots, k.half(), v.half())
    plan = attention.plan(batch, 0, group)
    out = attention.run(LAYER, q.to(DEVICE), k, v, batch.caches[0], plan).cpu()
    torch.testing.assert_close(out.double(), dense(LAYER, q, rows), rtol=4e-3, atol=4e-3)

    scales = torch.tensor([[0.5, 2.0], [3.0, 0.25]])
    work, cut = plan.works[2, False]
    arguments = (*batch.caches[0].unbind(0), batch.groups[0].page_table, work, cut, LAYER.scale)
    out = attend(q.to(DEVICE), *arguments, scales=scales.to(DEVICE)).cpu()
    k_scale, v_scale = scales[..., None]
    scaled = [replace(row, keys=row.keys.float() * k_scale, values=row.values.float() * v_scale) for row in rows]
    torch.testing.assert_close(out.double(), dense(LAYER, q, scaled), rtol=4e-3, atol=4e-3)


def test_a_sink_takes_its_share_of_the_weights() -> None:
    rows = draw_rows([(90, 1), (20, 5)], LAYER, torch.float32, seed=15)
    q, sinks = draw_queries(LAYER, rows), torch.tensor([0.5, -3.0, 4.0, 0.0])
    attention = small()
    batch, group = build(rows, LAYER, 16, attention)
    batch = to_device(batch)
    k, v = new_keys_and_values(rows)
    ops.write_cache(batch.caches[0], batch.groups[0].slots, k, v)
    plan = attention.plan(batch, 0, group)
    plain = attention.run(LAYER, q.to(DEVICE), k, v, batch.caches[0], plan).cpu()
    work, cut = plan.works[2, False]
    assert work.is_cut, "both ways to a result are to be seen"
    arguments = (*batch.caches[0].unbind(0), batch.groups[0].page_table, work, cut, LAYER.scale)
    out = attend(q.to(DEVICE), *arguments, sinks=sinks.to(DEVICE)).cpu()
    token = 0
    for row in rows:
        for position in range(row.length - row.queries, row.length):
            keys = row.keys[: position + 1].repeat_interleave(2, 1)
            sums = torch.einsum("nd,lnd->ln", q[token] * LAYER.scale, keys).exp().sum(0)
            share = sums / (sums + sinks.exp())
            torch.testing.assert_close(out[token], plain[token] * share[:, None], rtol=1e-5, atol=1e-5)
            token += 1


def visible_blocks(position: int, window: int | None, keys: int) -> range:
    oldest = 0 if window is None else max(0, position - window + 1)
    return range(oldest // keys, position // keys + 1)


@pytest.mark.parametrize("window", [None, 29])
def test_recorded_steps_that_are_too_short_to_be_cut_merge_nothing(window: int | None) -> None:
    layer = replace(LAYER, window=window)
    longest = 32 if window is None else 150  # a piece has 32 keys at least; a tile of 4 tokens sees 32 of a window
    attention = small(places=100)
    for more in (0, 1):
        batch, group = build(draw_rows([(longest, 1)] * 4, layer, torch.float32, seed=21), layer, 16, attention)
        table = batch.groups[0].page_table
        group = replace(group, spec=replace(group.spec, window=None if window is None else window + 4 * more))
        width = longest // 16 + 1 if window is not None else 2 + more
        batch = replace(batch, is_recorded=True, groups=[replace(batch.groups[0], page_table=table[:, :width])])
        plan = attention.plan(to_device(batch), 0, group)
        work, _ = attention._cut(plan, 2, batch.caches[0].to(DEVICE), False)
        assert work.is_cut == bool(more) and (len(work.partial) > 1) == bool(more)


BORDERS = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200, 1000, 1023, 1024, 1025, 5000, 40_000]


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_a_plan_gives_each_token_every_key_it_sees_exactly_once(data: st.DataObject) -> None:
    check_plan(data)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_plan_does(data: st.DataObject) -> None:
    check_plan(data)


def check_plan(data: st.DataObject) -> None:
    """As many items and lines as the host counts, or fewer than it allows for without knowing lengths."""
    is_narrow = data.draw(st.booleans())
    window = data.draw(st.sampled_from([None, 1, 16, 17, 300]))
    share = data.draw(st.sampled_from([1, 3, 4]))
    chunk = st.sampled_from([1, 2, 3] if is_narrow else [1, 2, 4, 5, 16, 40])
    sizes = [
        (max(length, count), count)
        for length, count in data.draw(st.lists(st.tuples(st.sampled_from(BORDERS), chunk), min_size=1, max_size=4))
    ]
    tail = data.draw(st.integers(0, 5))
    if data.draw(st.booleans()):
        sizes += [(0, 1)] * data.draw(st.integers(1, 3))  # rows that pad a bucket
    starts = [0]
    for _, count in sizes:
        starts.append(starts[-1] + count)
    lengths = [length for length, _ in sizes]
    rows = planning.Rows(
        torch.tensor(starts, dtype=torch.int32, device=DEVICE),
        torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        starts[-1] + tail,
        40_960,
        None,
        is_narrow,
    )
    machine = tiles.Machine(90, data.draw(st.sampled_from([1, 8, 40])))
    heads = planning.Heads(2, share, 16)
    cut = planning.cut_for(machine, TUNING, rows, heads, window)
    work = planning.plan(rows, cut)
    known = planning.plan(replace(rows, host=(starts, lengths)), cut)
    assert work.is_cut or not known.is_cut
    items = [item for item in work.items.tolist() if item[2]]
    assert items == known.items.tolist(), "the host counts exactly"
    used: set[int] = set()
    found: dict[int, list[tuple[int, int, int]]] = {}
    for kind, token, count, position, row, begin, end, line in items:
        assert kind == (planning.WIDE if _is_wide(starts, row, rows, cut) else planning.NARROW)
        stop = starts[row + 1] if row < len(sizes) else rows.num_tokens
        assert position == (lengths[row] if row < len(sizes) else 0) - stop + token
        for i in range(count):
            found.setdefault(token + i, []).append((begin, end, line + i if line >= 0 else -1))
    assert sorted(found) == list(range(rows.num_tokens))
    for token, pieces in found.items():
        row = max(i for i, start in enumerate(starts) if start <= token and (i == len(sizes) or starts[i + 1] > token))
        keys = TUNING.wide.keys if _is_wide(starts, row, rows, cut) else TUNING.narrow.keys
        first, stride, count = work.lines[token].tolist()
        pieces.sort(key=lambda piece: piece[2])
        blocks = [block for begin, end, _ in pieces for block in range(begin, end)]
        assert blocks == sorted(set(blocks)), "pieces in order, nothing twice"
        if row < len(sizes) and lengths[row]:
            seen = visible_blocks(lengths[row] - starts[row + 1] + token, window, keys)
            assert set(seen) <= set(blocks)
        lines = [line for _, _, line in pieces]
        assert lines == ([-1] if count == 0 else [first + i * stride for i in range(count)])
        assert not used & {line for line in lines if line >= 0}
        used |= {line for line in lines if line >= 0}
    assert used == set(range(cut.count(replace(rows, host=(starts, lengths)))[1]))
    assert len(used) <= min(known.partial.shape[0], work.partial.shape[0])
    assert known.is_cut == bool(used)


def _is_wide(starts: list[int], row: int, rows: planning.Rows, cut: planning.Cut) -> bool:
    ends = [*starts, rows.num_tokens]
    return not rows.is_narrow and ends[row + 1] - ends[row] > cut.narrow_queries


def test_what_it_cannot_compute_is_refused_with_a_reason() -> None:
    attention = TritonAttention()
    assert attention.refuses(LAYER, torch.bfloat16) is None
    assert "float64" in (attention.refuses(LAYER, torch.float64) or "")
    assert "512 channels" in (attention.refuses(replace(LAYER, head_dim=512), torch.bfloat16) or "")
    with pytest.raises(StartupError, match="compute capability 8.9; this one has 8.0"):
        tiles.tuning(tiles.Machine(80, 108), 128, 4, element_bytes=1)
    assert "200 query heads" in (attention.refuses(replace(LAYER, num_heads=200, num_kv_heads=1), torch.float16) or "")
