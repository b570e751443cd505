"""Native paged attention: head norms, rotation, the cache write and the attention itself are one record per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from octavo import spec
from octavo.ops.cpu.norm import NormNode
from octavo.ops.cpu.pointwise import MapNode, RotateNode
from octavo.ops.tape import Node, Recorder, Ref, StepInput, fill, zeros
from octavo.platforms import native

if TYPE_CHECKING:
    from octavo.forward import ForwardBatch

# csrc/kernels/attention.h
CACHE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
MAX_HEAD_DIM = 256


@dataclass(kw_only=True, eq=False)
class PlanNode(Node):
    """What the layers of one cache group share in a step: it goes to `memory`, which is there once this is appended."""

    name = "plan_attention"
    group: int
    cache: spec.CacheSpec
    page_size: int
    bounds: Recorder
    num_heads: int = 0
    memory: Tensor | None = None

    def append(self, tape: native.Tape, max_rows: int) -> None:
        arguments = fill(
            native.load().PlanAttention(),
            group=self.group,
            page_size=self.page_size,
            window=self.cache.window or 0,
            num_heads=self.num_heads,
            num_kv_heads=self.cache.num_kv_heads,
            head_dim=self.cache.head_dim,
            max_rows=self.bounds.max_seqs,
            max_tokens=self.bounds.max_rows,
            max_pages=self.bounds.max_pages,
        )
        self.memory = zeros(arguments.bytes)
        fill(arguments, plan=self.memory.data_ptr(), plan_bytes=arguments.bytes)
        tape.plan_attention(arguments)


@dataclass(kw_only=True, eq=False)
class AttentionNode(Node):
    """Attention of a layer over its paged cache. Takes over what the model does to q, k and v on the way."""

    name = "attention"
    q: Ref
    k: Ref
    v: Ref
    layer: spec.Attention
    cache: Tensor
    plan: PlanNode
    norm: NormNode | None = None
    angles: Ref | None = None
    clip: float = 0.0

    def fuse(self, recording: Recorder) -> None:
        while True:
            maker = recording.producer(self.q)
            if maker is None or recording.producer(self.k) is not maker or not recording.only_reader(self.q, self):
                return
            if isinstance(maker, RotateNode) and self._is_bare:
                self.angles = maker.angles
            elif isinstance(maker, MapNode) and maker.map == "clip" and self.norm is None and not self.clip:
                own = recording.producer(self.v)
                if not isinstance(own, MapNode) or own.map != "clip" or own.value != maker.value:
                    return
                self.clip = maker.value
                self.v = behind(self.v, own)
                recording.drop(own)
            elif isinstance(maker, NormNode) and self.norm is None and self._norms_heads(maker):
                self.norm = maker
            else:
                return
            self.q, self.k = behind(self.q, maker), behind(self.k, maker)
            recording.drop(maker)

    @property
    def _is_bare(self) -> bool:
        return self.angles is None and self.norm is None and not self.clip

    def _norms_heads(self, node: NormNode) -> bool:
        heads = self.layer.num_heads + self.layer.num_kv_heads
        return node.kind == "rms" and node.heads == heads and node.bias is None and node.residual is None

    def append(self, tape: native.Tape, max_rows: int) -> None:
        layer, angles, norm = self.layer, self.angles, self.norm
        assert angles is None or angles.stride == angles.columns
        assert self.plan.memory is not None
        arguments = fill(
            describe(layer.cache, self.cache.shape[0], self.plan.page_size, self.cache.dtype),
            q=self.q.address,
            k=self.k.address,
            v=self.v.address,
            q_stride=self.q.stride,
            k_stride=self.k.stride,
            v_stride=self.v.stride,
            norm_weight=0 if norm is None else norm.weight.data_ptr(),
            norm_eps=0.0 if norm is None else norm.eps,
            angles=0 if angles is None else angles.address,
            rotated=0 if angles is None else angles.columns,
            clip=self.clip,
            out=self.out.address,
            out_stride=self.out.stride,
            cache=self.cache.data_ptr(),
            num_heads=layer.num_heads,
            window=layer.window or 0,
            scale=layer.scale,
            softcap=layer.softcap or 0.0,
            plan=self.plan.memory.data_ptr(),
            group=self.plan.group,
        )
        tape.attention(arguments, max_rows)


def behind(value: Ref, maker: RotateNode | MapNode | NormNode) -> Ref:
    """What `value`, a part of the output of `maker`, was made from."""
    source = maker.x
    return Ref(value.recorder, source.buffer, source.first + value.first - maker.out.first, value.shape)


def describe(cache: spec.CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> native.Step:
    """The native description of one layer's cache."""
    return fill(
        native.load().Attention(),
        kind=CACHE_KINDS[dtype],
        num_pages=num_pages,
        page_size=page_size,
        num_heads=cache.num_kv_heads,
        num_kv_heads=cache.num_kv_heads,
        head_dim=cache.head_dim,
    )


@dataclass(frozen=True)
class EagerPlan:
    """A step of real tensors, for which each layer records and runs a tape of its own."""

    batch: ForwardBatch
    index: int
    group: spec.CacheGroup


class CpuAttention:
    """Cache [pages, bytes of a page / element size] in float32, bfloat16 or int8; the kernel knows what is where."""

    records = False

    def refuses(self, layer: spec.Attention, dtype: torch.dtype) -> str | None:
        if native.library is None:
            return f"the native library is missing ({native.missing})"
        if layer.head_dim > MAX_HEAD_DIM:
            return f"heads of {layer.head_dim} channels; it takes at most {MAX_HEAD_DIM}"
        return None

    def cache_shape(self, cache: spec.CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        page_bytes = describe(cache, 1, page_size, dtype).cache_bytes
        return (num_pages, page_bytes // dtype.itemsize)

    def plan(self, batch: ForwardBatch, index: int, group: spec.CacheGroup) -> PlanNode | EagerPlan:
        if not isinstance(batch.tokens, StepInput):
            return EagerPlan(batch, index, group)
        recorder = batch.tokens.recorder
        return record_plan(recorder, index, group, batch.groups[index].page_size)

    def writable(self, cache: Tensor) -> None:
        """The kernel writes what it has normalized and rotated."""

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
        assert scales is None, "no cache of float8"
        if isinstance(q, Ref):
            assert isinstance(k, Ref) and isinstance(v, Ref) and isinstance(plan, PlanNode), (type(k), type(plan))
            assert plan.num_heads in (0, layer.num_heads), "layers that share a cache group have as many query heads"
            plan.num_heads = layer.num_heads
            out = q.recorder.new(layer.num_heads, layer.head_dim)
            node = AttentionNode(out=out, q=q, k=k, v=v, layer=layer, cache=cache, plan=plan)
            return cast(Tensor, q.recorder.emit(node))
        assert isinstance(plan, EagerPlan), type(plan)
        return self._run_now(layer, q, k, v, cache, plan)

    def _run_now(
        self, layer: spec.Attention, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: EagerPlan
    ) -> Tensor:
        batch, inputs = plan.batch, plan.batch.groups[plan.index]
        rows = len(q)
        recorder = Recorder(max(rows, 1), max(batch.num_rows, 1), max(inputs.page_table.shape[1], 1))
        refs = [recorder.external(*each.shape[1:]) for each in (q, k, v)]
        recorded = record_plan(recorder, plan.index, plan.group, inputs.page_size)
        out = cast(Ref, self.run(layer, *cast(tuple[Tensor, Tensor, Tensor], tuple(refs)), cache, recorded))
        program = recorder.compile((out,))
        for ref, each in zip(refs, (q, k, v), strict=True):
            ref.tensor(rows).copy_(each)
        step = native.load().Step()
        describe_step(step, batch)
        program.run(step)
        return out.tensor(rows).to(q.dtype, copy=True)


def record_plan(recorder: Recorder, index: int, group: spec.CacheGroup, page_size: int) -> PlanNode:
    """Record the planning of cache group `index`."""
    node = PlanNode(out=recorder.new(), group=index, cache=group.spec, page_size=page_size, bounds=recorder)
    recorder.emit(node)
    return node


def describe_step(step: native.Step, batch: ForwardBatch) -> None:
    """Point a native step at the batch's tensors, which must outlive the run."""
    fill(
        step,
        num_tokens=len(batch.tokens),
        num_rows=batch.num_rows,
        tokens=batch.tokens.data_ptr(),
        positions=batch.positions.data_ptr(),
        starts=batch.starts.data_ptr(),
        lengths=batch.lengths.data_ptr(),
    )
    for index, group in enumerate(batch.groups):
        table = group.page_table
        step.set_group(index, table.data_ptr(), table.stride(0), group.slots.data_ptr())


def create() -> CpuAttention:
    """A backend without state."""
    return CpuAttention()
