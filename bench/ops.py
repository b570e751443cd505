"""Every operation alone, on real shapes: how long it takes, and how near it comes to what this machine can do.

    python bench/ops.py                                      Qwen3-0.6B's layers, every kind of weight, 1 to 512 rows
    python bench/ops.py --only linear --kinds bf16,int8 --rows 1,64     some of it
    python bench/ops.py --shapes llama-3.2-1b olmoe-cut      other models (see bench/models.py), or a model's folder
    python bench/ops.py --only attention --context 4096      attention with longer rows
    python bench/ops.py --level all                          each instruction-set level this CPU has
    python bench/ops.py --json ops.json                      every measurement, with what the machine gave meanwhile

How to read a line. `time` is the median for one call. Weights and KV caches rotate: with few rows, so many copies that
they are more than eight times the last-level cache, as in a model, whose layers do not stay in a cache either. GB/s
counts each byte of weight or KV once; GFLOP/s counts a multiplication and an addition as two, whatever the kernel does
besides.

`of limit` is the least time the machine could need, by the larger of the two, over the time it took:

    memory              bytes / read bandwidth of the whole team, probed beside every group of lines
    f32, bf16, int8     operations / what the level multiplies on registers: the best that the whole run saw

More than 100 % means that the probe got less of the memory than the kernel: something else was running. `reference`
is the torch version that tests compare each kernel with, on as many threads; quantized kinds have none that would be
fair. The pointwise operations and sampling work in the caches, so only their time and GB/s are shown.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from models import SHAPES
from rich.console import Console
from rich.table import Table
from torch import Tensor

from octavo import ops, spec
from octavo.attention.cpu import AttentionNode, CpuAttention, record_plan
from octavo.gguf.file import KINDS
from octavo.ops import registry
from octavo.ops.cpu.linear import LinearNode, NativePacked, filled
from octavo.ops.linear import choose_kernel
from octavo.ops.tape import Program, Recorder, Ref, fill, zeros
from octavo.platforms import native
from octavo.weights.blocks import GGUFBlocks
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.weight import Dense, Weight
from octavo.worker.sampling.native_logits import NativeLogits
from octavo.worker.sampling.torch_logits import TorchLogits

FAMILIES = ("linear", "attention", "pointwise", "experts", "sampling")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "int8": torch.int8}
# What the products of each kind are made of, and so which of the registers' limits is its own.
PRODUCTS = {"f32": "f32", "f16": "f32", "bf16": "bf16", "int4_bf16": "bf16"}
KINDS_OF_WEIGHT = ("f32", "bf16", "f16", "int8", "int4", "int4_bf16", "q8_0", "q4_0", "q4_k", "q6_k")
SCALES_OF_BLOCKS = {"q8_0": (0,), "q4_0": (0,), "q4_k": (0, 2), "q6_k": (208,)}  # bytes at which float16 scales stand
REGISTERS = {"f32": 0, "bf16": 1, "int8": 2}
HEAD_ROWS = DECODE_ROWS = 64  # a step has no more rows of logits, and no more sequences that decode
PREFILL_ROWS = 128  # from so many tokens on, attention is also measured within one prompt
PAGE = 16
CACHES = 8  # times the last-level cache that rotating memory takes


@dataclass(frozen=True)
class Result:
    """One line. `limit` names what bounds it; None where the caches hold everything.

    `product` and `level` say which register peak is its own.
    """

    family: str
    op: str
    kind: str
    implementation: str
    rows: int
    seconds: float
    bytes: int
    flops: int
    limit: str | None = None
    of_limit: float | None = None
    read_gb_per_s: float | None = None
    product: str | None = None
    level: str | None = None


class Machine:
    """The limits, measured here and now with the team that the kernels run on."""

    def __init__(self, probe_bytes: int) -> None:
        self.team = native.team()
        self.cache_bytes = max(native.report().l3_bytes, 2**20)
        self._memory = zeros(probe_bytes)
        self._memory.fill_(1)
        self._peaks: dict[tuple[str, str], float] = {}

    def bandwidth(self) -> float:
        """GB/s that the team reads: median of five passes."""
        address, num_bytes = self._memory.data_ptr(), self._memory.nbytes
        return statistics.median(native.load().read_bandwidth(self.team, address, num_bytes) for _ in range(5))

    def peak(self, product: str) -> float:
        """10^9 operations per second on registers at the level in use: the best of all tries, ten more with each call.

        Whatever else runs makes registers slower and nothing makes them faster: the best of the whole run is the limit.
        """
        key = (native.load().kernel_level(), product)
        found = max(native.load().register_peak(self.team, REGISTERS[product]) for _ in range(10))
        self._peaks[key] = max(found, self._peaks.get(key, 0.0))
        return self._peaks[key]

    def bounded(self, result: Result, product: str, read_gb_per_s: float) -> Result:
        """The result with what it takes to judge it."""
        self.peak(product)
        level = native.load().kernel_level()
        return replace(result, product=product, level=level, read_gb_per_s=read_gb_per_s)

    def judged(self, result: Result) -> Result:
        """The result beside the least time it could have taken; itself where there is no bound."""
        if result.product is None or result.level is None or result.read_gb_per_s is None:
            return result
        peak = self._peaks[result.level, result.product]
        bounds = {"memory": result.bytes / result.read_gb_per_s / 1e9, result.product: result.flops / peak / 1e9}
        limit = max(bounds, key=lambda name: bounds[name])
        return replace(result, limit=limit, of_limit=bounds[limit] / result.seconds)


@dataclass(frozen=True)
class Bench:
    """What all families need: the command line, the machine, and where lines go."""

    args: argparse.Namespace
    machine: Machine
    emit: Callable[[Result], None]

    def time(self, run: Callable[[], object], calls: int = 1) -> float:
        """Median seconds of one of the `calls` that `run` makes, over at least --min-time seconds and five runs."""
        run()
        times: list[float] = []
        end = time.perf_counter() + self.args.min_time
        while len(times) < 5 or time.perf_counter() < end:
            started = time.perf_counter()
            run()
            times.append((time.perf_counter() - started) / calls)
        return statistics.median(times)

    def copies(self, num_bytes: int) -> int:
        """How often something of so many bytes must be there for rotating through it to miss the cache every time."""
        return max(1, -(-int(CACHES * self.machine.cache_bytes * self.args.rotate) // num_bytes))

    def levels(self) -> Iterator[str]:
        """Each level asked for, in use while it is yielded."""
        library, before = native.load(), native.load().kernel_level()
        for level in levels_of(self.args.level):
            library.use_kernel_level(level)
            yield level
        library.use_kernel_level(before)


def levels_of(wanted: str) -> list[str]:
    """The levels a word stands for."""
    known: list[str] = native.load().kernel_levels()
    return {"all": known, "best": known[-1:]}.get(wanted, [wanted])


def step_of(rows: int) -> native.Step:
    return fill(native.load().Step(), num_tokens=rows)


# ---- linear layers


def make_weight(kind: str, out_features: int, in_features: int) -> Weight:
    """A random weight of a kind."""
    shape = (out_features, in_features)
    if kind in ("f32", "bf16", "f16"):
        return Dense(torch.empty(shape).uniform_(-0.05, 0.05).to(DTYPES[kind]))
    if kind == "int8":
        return ScaledInt8(torch.randint(-127, 128, shape, dtype=torch.int8), torch.full((out_features,), 1e-3))
    if kind.startswith("int4"):
        codes = torch.randint(0, 16, shape, dtype=torch.uint8)
        return GroupInt(codes, torch.full((out_features, -(-in_features // 128)), 1e-2), None, 128)
    block = next(each for each in KINDS.values() if each.name.lower() == kind)
    data = torch.randint(0, 256, (out_features, block.row_bytes(in_features)), dtype=torch.uint8)
    blocks = data.view(-1, block.size)
    for at in SCALES_OF_BLOCKS[kind]:
        blocks[:, at : at + 2] = torch.tensor([0.001], dtype=torch.float16).view(torch.uint8)
    return GGUFBlocks(data, block)


def pack(kind: str, out_features: int, in_features: int, gated: bool) -> NativePacked:
    """A random weight, packed."""
    dtype = DTYPES[kind] if kind in ("f32", "bf16", "f16") else torch.float32
    backends = ("w4a16", "cpu") if kind == "int4_bf16" else ("cpu",)
    weight = make_weight(kind, out_features, in_features)
    packed = choose_kernel(weight, dtype, backends).pack([weight], dtype, torch.device("cpu"), gated)
    assert isinstance(packed, NativePacked), kind
    return packed


def copies_of(packed: NativePacked, count: int) -> list[NativePacked]:
    """The weight, and copies of it elsewhere in memory."""
    names = ("kind", "out_features", "in_features", "panel_bytes", "group", "flags", "interleaved")
    same = {name: getattr(packed.weight, name) for name in names}
    copies = [filled(fill(native.load().PackedWeight(), **same)) for _ in range(count - 1)]
    for each in copies:
        each.memory.copy_(packed.memory)
    return [packed, *copies]


def linear_shapes(config: dict[str, Any]) -> Iterator[tuple[str, int, int, bool]]:
    """Name, outputs, inputs and whether it is gated, of each product of a layer, and the head's."""
    hidden, size, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    dim = config.get("head_dim", hidden // heads)
    yield "qkv", (heads + 2 * config["num_key_value_heads"]) * dim, hidden, False
    yield "out", hidden, heads * dim, False
    if "num_experts" not in config:
        yield "gate_up", 2 * size, hidden, True
        yield "down", hidden, size, False
    yield "head", config["vocab_size"], hidden, False


def bench_linear(bench: Bench, config: dict[str, Any]) -> None:
    """Every product of a layer, for every kind of weight."""
    for name, out_features, in_features, gated in linear_shapes(config):
        most = HEAD_ROWS if name == "head" else 10**9
        rows_asked = [rows for rows in bench.args.rows if rows <= most]
        for kind in bench.args.kinds:
            one = pack(kind, out_features, in_features, gated)
            packed = copies_of(one, bench.copies(one.memory.nbytes))
            op = f"{name} {out_features} x {in_features}"
            if bench.args.reference and kind in ("f32", "bf16", "f16"):
                bench_reference(bench, op, kind, out_features, in_features, gated, rows_asked)
            for level in bench.levels():
                if native.load().has_format(one.weight.kind):
                    bench_packed(bench, op, kind, level, packed, rows_asked)


def rotation(copies: int, rows: int) -> int:
    """Through how many copies to go: all for few rows, fewer where one product takes long enough to be timed."""
    return max(1, min(copies, copies * 4 // max(4, rows)))


def bench_packed(
    bench: Bench, op: str, kind: str, level: str, packed: list[NativePacked], rows_asked: Sequence[int]
) -> None:
    weight = packed[0].weight
    recorder = Recorder(max(rows_asked))
    x = recorder.external(weight.in_features)
    out = recorder.external(weight.out_features // (2 if weight.interleaved else 1))
    for each in packed:
        activation: spec.Activation | None = "silu" if weight.interleaved else None
        recorder.emit(LinearNode(out=out, x=x, packed=each, activation=activation))
    program = recorder.compile(())
    assert x.buffer.tensor is not None
    x.buffer.tensor.uniform_(-1, 1)
    read_gb_per_s = bench.machine.bandwidth()
    product = PRODUCTS.get(kind, "int8")
    for rows in rows_asked:
        step, count = step_of(rows), rotation(len(packed), rows)
        seconds = bench.time(lambda step=step, count=count: program.tape.run(step, 0, count), count)
        flops = 2 * rows * weight.out_features * weight.in_features
        result = Result("linear", op, kind, level, rows, seconds, packed[0].memory.nbytes, flops)
        bench.emit(bench.machine.bounded(result, product, read_gb_per_s))


def bench_reference(
    bench: Bench, op: str, kind: str, out_features: int, in_features: int, gated: bool, rows_asked: Sequence[int]
) -> None:
    weight = make_weight(kind, out_features, in_features).dequantize(DTYPES[kind])
    weights = [weight] + [weight.clone() for _ in range(bench.copies(weight.nbytes) - 1)]
    multiply, activate = registry.reference("linear"), registry.reference("silu_mul")
    read_gb_per_s = bench.machine.bandwidth()
    for rows in rows_asked:
        x = torch.empty(rows, in_features).uniform_(-1, 1).to(DTYPES[kind])
        some = weights[: rotation(len(weights), rows)]

        def run(x: Tensor = x, some: list[Tensor] = some) -> None:
            for each in some:
                product = multiply(x, each, None)
                if gated:
                    activate(product)

        flops = 2 * rows * out_features * in_features
        result = Result("linear", op, kind, "reference", rows, bench.time(run, len(some)), weight.nbytes, flops)
        bench.emit(bench.machine.bounded(result, PRODUCTS.get(kind, "int8"), read_gb_per_s))


# ---- attention


def bench_attention(bench: Bench, config: dict[str, Any]) -> None:
    """Decode: rows of --context positions each; prefill: one row of `rows` tokens, from the beginning."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim", config["hidden_size"] // heads)
    layer = spec.Attention(heads, kv_heads, dim, dim**-0.5, None)
    for kind in ("f32", "bf16", "int8"):
        for level in bench.levels():
            for rows in bench.args.rows:
                if rows <= DECODE_ROWS:
                    bench_rows(bench, layer, kind, level, [1] * rows, [bench.args.context] * rows)
                if rows >= PREFILL_ROWS:
                    bench_rows(bench, layer, kind, level, [rows], [rows])


def bench_rows(
    bench: Bench, layer: spec.Attention, kind: str, level: str, counts: list[int], lengths: list[int]
) -> None:
    """Attention of several layers, each with a cache of its own, in one step of rows with so many new tokens."""
    backend, num_tokens, width = CpuAttention(), sum(counts), -(-max(lengths) // PAGE)
    group = spec.CacheGroup(layer.cache, (0,))
    shape = backend.cache_shape(layer.cache, width * len(counts), PAGE, DTYPES[kind])
    cache_bytes = shape[0] * shape[1] * DTYPES[kind].itemsize
    layers = bench.copies(cache_bytes) if counts[0] == 1 else 2
    caches = [zeros(cache_bytes).view(DTYPES[kind]).view(shape) for _ in range(layers)]
    for cache in caches:
        cache.fill_(1)
    recorder = Recorder(num_tokens, len(counts), width)
    q, k, v = (recorder.external(n, layer.head_dim) for n in (layer.num_heads, *[layer.num_kv_heads] * 2))
    plan = record_plan(recorder, 0, group, PAGE)
    out = recorder.external(layer.num_heads, layer.head_dim)
    plan.num_heads = layer.num_heads
    for cache in caches:
        recorder.emit(AttentionNode(out=out, q=q, k=k, v=v, layer=layer, cache=cache, plan=plan))
    program = recorder.compile((), fuse=False)
    for each in (q, k, v):
        each.tensor(num_tokens).uniform_(-1, 1)
    step, kept = attention_step(counts, lengths, width)
    program.run(step)  # the plan, which all layers share, and warm caches
    seconds = bench.time(lambda: program.tape.run(step, 1, 1 + layers), layers)
    del kept
    cells = sum(n * (length - n) + n * (n + 1) // 2 for n, length in zip(counts, lengths, strict=True))
    flops = 4 * layer.num_heads * layer.head_dim * cells
    num_bytes = sum(lengths) * cache_bytes // (shape[0] * PAGE)
    op = f"decode of {lengths[0]}" if counts[0] == 1 else "prefill"
    result = Result("attention", op, kind, level, num_tokens, seconds, num_bytes, flops)
    bench.emit(bench.machine.bounded(result, kind, bench.machine.bandwidth()))


def attention_step(counts: list[int], lengths: list[int], width: int) -> tuple[native.Step, tuple[Tensor, ...]]:
    """A step whose rows have shuffled pages, and the tensors that it points into."""
    table = torch.randperm(len(counts) * width).to(torch.int32).view(len(counts), width)
    starts = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(last - n, last) for n, last in zip(counts, lengths, strict=True)])
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    slots = table[owner, positions // PAGE].long() * PAGE + positions % PAGE
    positions, held = positions.to(torch.int32), torch.tensor(lengths, dtype=torch.int32)
    step = fill(
        native.load().Step(),
        num_tokens=len(positions),
        num_rows=len(counts),
        positions=positions.data_ptr(),
        starts=starts.data_ptr(),
        lengths=held.data_ptr(),
    )
    step.set_group(0, table.data_ptr(), width, slots.data_ptr())
    return step, (table, starts, positions, slots, held)


# ---- everything else


def bench_pointwise(bench: Bench, config: dict[str, Any]) -> None:
    """Norms, residuals, activations and rotation: the same operation 16 times over the same rows."""
    hidden, size, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    dim = config.get("head_dim", hidden // heads)
    calls: dict[str, tuple[list[tuple[int, ...]], tuple[object, ...]]] = {
        "rms_norm": ([(hidden,)], (torch.ones(hidden), 1e-6)),
        "head_rms_norm": ([(heads, dim)], (torch.ones(heads, dim), 1e-6)),
        "layer_norm": ([(hidden,)], (torch.ones(hidden), torch.zeros(hidden), 1e-6)),
        "add": ([(hidden,), (hidden,)], ()),
        "silu_mul": ([(2 * size,)], ()),
        "gelu_tanh_mul": ([(2 * size,)], ()),
        "rotate": ([(heads, dim), (dim,)], ()),
        "softcap": ([(hidden,)], (30.0,)),
    }
    repeats, most = 16, max(bench.args.rows)
    for name, (shapes, rest) in calls.items():
        columns = "x".join(map(str, shapes[0]))
        if bench.args.reference:
            function = registry.reference(name)
            for rows in bench.args.rows:
                values = [torch.empty(rows, *shape).uniform_(-1, 1) for shape in shapes]
                out = function(*values, *rest)
                assert isinstance(out, Tensor)
                seconds = bench.time(lambda f=function, values=values, rest=rest: f(*values, *rest))
                num_bytes = sum(value.nbytes for value in values) + out.nbytes
                bench.emit(Result("pointwise", f"{name} {columns}", "f32", "reference", rows, seconds, num_bytes, 0))
        for level in bench.levels():
            recorder = Recorder(most)
            refs = [recorder.external(*shape) for shape in shapes]
            outs = [getattr(ops, name)(*refs, *rest) for _ in range(repeats)]
            program = recorder.compile(tuple(outs), fuse=False)
            for ref in refs:
                ref.tensor(most).uniform_(-1, 1)
            for rows in bench.args.rows:
                step = step_of(rows)
                seconds = bench.time(lambda p=program, s=step: p.run(s), repeats)
                num_bytes = 4 * rows * (sum(ref.columns for ref in refs) + outs[0].columns)
                bench.emit(Result("pointwise", f"{name} {columns}", "f32", level, rows, seconds, num_bytes, 0))


def bench_experts(bench: Bench, config: dict[str, Any]) -> None:
    """A layer's mixture of experts, for shapes that have one: each token meets random experts."""
    if "num_experts" not in config:
        return
    hidden, size, count, top_k = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_experts", "num_experts_per_tok")
    )
    for kind in bench.args.kinds:
        gate_up = copies_of(pack(kind, 2 * size, hidden, True), count)
        down = copies_of(pack(kind, hidden, size, False), count)
        one = gate_up[0].memory.nbytes + down[0].memory.nbytes
        for level in bench.levels():
            if not native.load().has_format(gate_up[0].weight.kind):
                continue
            recorder = Recorder(max(bench.args.rows))
            logits, x = recorder.external(count), recorder.external(hidden)
            ids, weights = ops.route(logits, top_k, False)  # type: ignore[arg-type]
            recorder.pinned += [ids.buffer, weights.buffer]  # type: ignore[attr-defined]
            out = ops.expert_mlps(x, gate_up, down, ids, weights, "silu")  # type: ignore[arg-type]
            assert isinstance(out, Ref)
            program = recorder.compile((out,), fuse=False)
            for ref in (logits, x):
                ref.tensor(max(bench.args.rows)).uniform_(-1, 1)
            bench_routed(bench, program, ids, kind, level, one, top_k * 6 * hidden * size)  # type: ignore[arg-type]


def bench_routed(
    bench: Bench, program: Program, ids: Ref, kind: str, level: str, expert_bytes: int, flops_per_row: int
) -> None:
    read_gb_per_s = bench.machine.bandwidth()
    for rows in bench.args.rows:
        step = step_of(rows)
        program.run(step)
        seconds = bench.time(lambda step=step: program.tape.run(step, 1, 2))
        used = len(ids.tensor(rows).contiguous().view(torch.int32).unique())
        result = Result("experts", "experts", kind, level, rows, seconds, used * expert_bytes, rows * flops_per_row)
        bench.emit(bench.machine.bounded(result, PRODUCTS.get(kind, "int8"), read_gb_per_s))


def bench_sampling(bench: Bench, config: dict[str, Any]) -> None:
    """The likeliest token of each row of logits."""
    vocab_size = config["vocab_size"]
    for rows in bench.args.rows:
        if rows > HEAD_ROWS:
            continue
        logits = torch.randn(rows, vocab_size)

        def line(implementation: str, seconds: float, rows: int = rows, logits: Tensor = logits) -> None:
            op = f"greedy of {vocab_size}"
            bench.emit(Result("sampling", op, "f32", implementation, rows, seconds, logits.nbytes, 0))

        if bench.args.reference:
            line("reference", bench.time(lambda logits=logits: TorchLogits(logits)))
        for level in bench.levels():
            line(level, bench.time(lambda logits=logits: NativeLogits(logits)))


BENCHES: dict[str, Callable[[Bench, dict[str, Any]], None]] = {
    "linear": bench_linear,
    "attention": bench_attention,
    "pointwise": bench_pointwise,
    "experts": bench_experts,
    "sampling": bench_sampling,
}


# ---- the command


def show(console: Console, title: str, results: Sequence[Result]) -> None:
    """The lines of one model."""
    table = Table(title=title, title_justify="left")
    for name in ("operation", "kind", "implementation", "rows", "time µs", "GB/s", "GFLOP/s", "of limit", "limit"):
        table.add_column(name, justify="left" if name in ("operation", "kind", "implementation", "limit") else "right")
    before: tuple[str, str, str] | None = None
    for result in results:
        group = (result.op, result.kind, result.implementation)
        if before is not None and group != before:
            table.add_section()
        share = "" if result.of_limit is None else f"{result.of_limit:.0%}"
        table.add_row(
            *(group if group != before else ("", "", "")),
            str(result.rows),
            f"{result.seconds * 1e6:,.1f}",
            f"{result.bytes / result.seconds / 1e9:.1f}",
            f"{result.flops / result.seconds / 1e9:.1f}" if result.flops else "",
            share,
            result.limit or "",
        )
        before = group
    console.print(table)


def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def read_shape(text: str) -> str:
    """A shape's name; a model's folder becomes a shape of its own."""
    config = Path(text) / "config.json"
    if text not in SHAPES:
        if not config.is_file():
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SHAPES)}, and has no config.json")
        SHAPES[text] = json.loads(config.read_text())
    return text


def numbers(text: str) -> list[int]:
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError("rows are at least 1")
    return found


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    shapes = f"{', '.join(SHAPES)}, or a folder with a config.json"
    add("--shapes", nargs="+", type=read_shape, default=["qwen3-0.6b"], metavar="NAME", help=shapes)
    add("--only", type=names_of(FAMILIES), default=list(FAMILIES), metavar="NAMES", help=",".join(FAMILIES))
    add("--kinds", type=names_of(KINDS_OF_WEIGHT), default=list(KINDS_OF_WEIGHT), help=",".join(KINDS_OF_WEIGHT))
    add("--rows", type=numbers, default=[1, 4, 8, 16, 32, 64, 128, 512], metavar="N,…", help="tokens at once")
    add("--context", type=int, default=1024, metavar="N", help="positions of a decoding row (default: %(default)s)")
    add("--level", default="best", choices=["best", "all", *native.load().kernel_levels()], help="default: %(default)s")
    add("--no-reference", dest="reference", action="store_false", help="leave torch out")
    add("--min-time", type=float, default=0.1, metavar="S", help="seconds per line (default: %(default)s)")
    add("--rotate", type=float, default=1.05, metavar="X", help="memory to rotate through, in eight caches' sizes")
    add("--probe", type=int, default=512, metavar="MIB", help="memory to probe (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="default: one per usable core")
    add("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before the team is made
    report = native.report()
    torch.set_num_threads(native.team().size)
    registry.bind(("cpu", "reference"), torch.float32)
    console = Console(width=None if os.isatty(1) else 140)
    machine = Machine(args.probe * 2**20)
    if os.getloadavg()[0] > 1:
        console.print(
            f"[yellow]load average {os.getloadavg()[0]:.1f}[/]: something else is running; times will be too long"
        )
    about: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": report.model,
        "level": report.kernel_level,
        "threads": machine.team.size,
        "read_gb_per_s": machine.bandwidth(),
    }
    console.print(f"{report.model}, {report.kernel_level}, {machine.team.size} threads", highlight=False)
    everything: dict[str, list[Result]] = {}
    try:
        for shape in args.shapes:
            results = everything.setdefault(shape, [])
            with console.status("") as status:

                def emit(result: Result, results: list[Result] = results, status: Any = status) -> None:
                    results.append(result)
                    status.update(f"{result.op} {result.kind} {result.implementation}")

                for family in args.only:
                    BENCHES[family](Bench(args, machine, emit), SHAPES[shape])
    except KeyboardInterrupt:
        console.print("interrupted; what was measured so far:")
    everything = {shape: [machine.judged(result) for result in results] for shape, results in everything.items()}
    about["register_peaks"] = {name: machine.peak(name) for name in REGISTERS}
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in about["register_peaks"].items())
    console.print(f"reads {about['read_gb_per_s']:.1f} GB/s; registers: {peaks} GFLOP/s", highlight=False)
    for shape, results in everything.items():
        show(console, shape, results)
    if args.json:
        lines = {shape: [asdict(result) for result in results] for shape, results in everything.items()}
        args.json.write_text(json.dumps({**about, "results": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()
