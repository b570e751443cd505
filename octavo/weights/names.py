"""How checkpoints name and fuse tensors: answers the canonical (Llama) names over any known naming scheme."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from octavo import spec
from octavo.errors import StartupError
from octavo.weights.source import ALL, WeightSource

Pieces = tuple[tuple[int, int], ...]
Split = Callable[[spec.Block, int], Pieces]


def _stacked_qkv(block: spec.Block, part: int) -> Pieces:
    """All rows of q, then of k, then of v."""
    mixer = block.mixer
    sizes = (mixer.num_heads * mixer.head_dim, *(mixer.num_kv_heads * mixer.head_dim,) * 2)
    return ((sum(sizes[:part]), sum(sizes[: part + 1])),)


def _qkv_by_head(block: spec.Block, part: int) -> Pieces:
    """Head by head: its q, its k, its v (GPT-NeoX)."""
    dim = block.mixer.head_dim
    starts = ((3 * head + part) * dim for head in range(block.mixer.num_heads))
    return tuple((start, start + dim) for start in starts)


def _stacked_gate_up(block: spec.Block, part: int) -> Pieces:
    """All rows of gate, then of up."""
    return ((part * block.ffn.size, (part + 1) * block.ffn.size),)


@dataclass(frozen=True)
class Fused:
    """Several canonical modules kept in one tensor: module `parts[i]` is the rows that `split(block, i)` gives."""

    parts: tuple[str, ...]
    name: str
    split: Split


@dataclass(frozen=True)
class Names:
    """A naming scheme. `renames` are regular expressions tried in order on a canonical name without its root, the first
    match wins; `transposed` matches the file names of matrices stored [I, O]; `ignored` matches file tensors that are
    no parameters.
    """

    roots: tuple[str, ...] = ("model.", "", "language_model.model.", "model.language_model.")
    head: tuple[str, ...] = ("lm_head", "language_model.lm_head")
    renames: tuple[tuple[str, str], ...] = ()
    fused: tuple[Fused, ...] = ()
    transposed: str | None = None
    ignored: str = r"rotary_emb\.inv_freq$"


_EXPERTS_FUSED = r"^(layers\.\d+\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight$"

SCHEMES: Mapping[str, Names] = MappingProxyType(
    {
        "llama": Names(),
        "phi3": Names(
            fused=(
                Fused(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.qkv_proj", _stacked_qkv),
                Fused(("mlp.gate_proj", "mlp.up_proj"), "mlp.gate_up_proj", _stacked_gate_up),
            )
        ),
        "mixtral": Names(
            renames=(
                (r"mlp\.gate\.", "block_sparse_moe.gate."),
                (r"mlp\.experts\.(\d+)\.gate_proj\.", r"block_sparse_moe.experts.\1.w1."),
                (r"mlp\.experts\.(\d+)\.down_proj\.", r"block_sparse_moe.experts.\1.w2."),
                (r"mlp\.experts\.(\d+)\.up_proj\.", r"block_sparse_moe.experts.\1.w3."),
            )
        ),
        "gpt2": Names(
            roots=("transformer.", ""),
            renames=(
                (r"^embed_tokens\.", "wte."),
                (r"^embed_positions\.", "wpe."),
                (r"^norm\.", "ln_f."),
                (r"^layers\.(\d+)\.input_layernorm\.", r"h.\1.ln_1."),
                (r"^layers\.(\d+)\.post_attention_layernorm\.", r"h.\1.ln_2."),
                (r"^layers\.(\d+)\.self_attn\.c_attn\.", r"h.\1.attn.c_attn."),
                (r"^layers\.(\d+)\.self_attn\.o_proj\.", r"h.\1.attn.c_proj."),
                (r"^layers\.(\d+)\.mlp\.up_proj\.", r"h.\1.mlp.c_fc."),
                (r"^layers\.(\d+)\.mlp\.down_proj\.", r"h.\1.mlp.c_proj."),
            ),
            fused=(
                Fused(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.c_attn", _stacked_qkv),
            ),
            transposed=r"\.(c_attn|c_proj|c_fc)\.weight$",
            ignored=r"\.attn\.(masked_)?bias$",
        ),
        "gpt_neox": Names(
            roots=("gpt_neox.", ""),
            head=("embed_out", "lm_head"),
            renames=(
                (r"^embed_tokens\.", "embed_in."),
                (r"^norm\.", "final_layer_norm."),
                (r"\.self_attn\.query_key_value\.", ".attention.query_key_value."),
                (r"\.self_attn\.o_proj\.", ".attention.dense."),
                (r"\.mlp\.up_proj\.", ".mlp.dense_h_to_4h."),
                (r"\.mlp\.down_proj\.", ".mlp.dense_4h_to_h."),
            ),
            fused=(
                Fused(
                    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    "self_attn.query_key_value",
                    _qkv_by_head,
                ),
            ),
            ignored=r"rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$",
        ),
    }
)


@dataclass(frozen=True)
class Stored:
    """Where a canonical tensor is: a file tensor, the row ranges to join (None: all) out of how many rows, its expert,
    its orientation.
    """

    name: str
    pieces: Pieces | None = None
    num_rows: int | None = None
    expert: int | None = None
    transposed: bool = False


class NamedSource:
    """A WeightSource that understands the canonical names of a model over a checkpoint of any scheme."""

    def __init__(self, source: WeightSource, model: spec.Decoder, prefix: str = "") -> None:
        self._source = source
        self._model = model
        self._names = SCHEMES[model.names]
        self._prefix = prefix
        self.total_bytes = source.total_bytes

    def at(self, prefix: str) -> NamedSource:
        """The tensors below `prefix`."""
        return NamedSource(self._source, self._model, f"{self._prefix}{prefix}." if prefix else self._prefix)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor, under whatever name."""
        return self._find(name) is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the canonical tensor."""
        stored = self._located(name)
        shape = self._source.shape(stored.name)
        if stored.transposed and len(shape) == 2:
            shape = shape[::-1]
        if stored.expert is not None:
            shape = shape[1:]
        return shape if stored.pieces is None else (sum(stop - start for start, stop in stored.pieces), *shape[1:])

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """Rows and columns of the canonical tensor, in the file's type; reads only that part."""
        stored = self._located(name)
        if stored.expert is not None:
            start, stop = (stored.pieces or ((0, self.shape(name)[0]),))[0]
            expert = self._source.read(stored.name, slice(stored.expert, stored.expert + 1), slice(start, stop))
            return expert[0][rows, columns]
        vector = len(self._source.shape(stored.name)) == 1
        parts = [self._read_rows(stored, part, columns, vector) for part in _cut(stored.pieces, rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def unread(self) -> list[str]:
        """File tensors nobody read, but for those that are no parameters and a tied head's copy."""
        tied = self._names.head if self._model.tied else ()
        return [
            name
            for name in self._source.unread()
            if not re.search(self._names.ignored, name) and name.removesuffix(".weight") not in tied
        ]

    def _read_rows(self, stored: Stored, rows: slice, columns: slice, vector: bool) -> Tensor:
        if vector:
            return self._source.read(stored.name, rows)
        if stored.transposed:
            return self._source.read(stored.name, columns, rows).T
        return self._source.read(stored.name, rows, columns)

    def _located(self, name: str) -> Stored:
        # A missing tensor keeps its likeliest name: the source's error then names it, the files and what is near.
        stored = self._find(name) or next(self._candidates(self._prefix + name))
        if stored.num_rows is not None:
            shape = self._source.shape(stored.name)
            axis = -1 if stored.transposed else 0 if stored.expert is None else 1
            if shape[axis] != stored.num_rows:
                wanted = f"{stored.num_rows} on axis {axis % len(shape)}"
                raise StartupError(f"{stored.name} has shape {list(shape)}; the config asks for {wanted}", "model")
        return stored

    def _find(self, name: str) -> Stored | None:
        return next((c for c in self._candidates(self._prefix + name) if self._source.has(c.name)), None)

    def _candidates(self, name: str) -> Iterator[Stored]:
        """Every place where the canonical tensor `name` may be, likeliest first."""
        if name.startswith("lm_head."):
            yield from (Stored(name.replace("lm_head", head, 1)) for head in self._names.head)
            return
        body = name.removeprefix("model.")
        bodies = [Stored(body), *self._fused(body), *_fused_experts(body, self._model)]
        for each in bodies[1:] + bodies[:1] if self._names.fused else bodies:
            renamed = _rename(each.name, self._names.renames)
            transposed = self._names.transposed is not None and bool(re.search(self._names.transposed, renamed))
            for root in self._names.roots:
                yield replace(each, name=root + renamed, transposed=transposed)

    def _fused(self, body: str) -> Iterator[Stored]:
        match = re.match(r"layers\.(\d+)\.(.+)\.(\w+)$", body)
        if match is None:
            return
        layer, module, suffix = match.groups()
        for fused in self._names.fused:
            if module in fused.parts and int(layer) < len(self._model.blocks):
                block = self._model.blocks[int(layer)]
                pieces = fused.split(block, fused.parts.index(module))
                num_rows = fused.split(block, len(fused.parts) - 1)[-1][1]
                yield Stored(f"layers.{layer}.{fused.name}.{suffix}", pieces, num_rows)


def _rename(body: str, renames: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renames:
        renamed, count = re.subn(pattern, replacement, body)
        if count:
            return renamed
    return body


def _fused_experts(body: str, model: spec.Decoder) -> Iterator[Stored]:
    """All experts of a layer in one tensor, as modules of Transformers 5 hold them: [E, 2 I, H] and [E, H, I]."""
    match = re.match(_EXPERTS_FUSED, body)
    if match is None:
        return
    stem, expert, part = match.groups()
    size = model.blocks[int(stem.split(".")[1])].ffn.size
    if part == "down_proj":
        yield Stored(f"{stem}.down_proj", expert=int(expert))
    else:
        start = 0 if part == "gate_proj" else size
        yield Stored(f"{stem}.gate_up_proj", ((start, start + size),), 2 * size, int(expert))


def _cut(pieces: Pieces | None, rows: slice) -> list[slice]:
    """The file's row ranges for `rows` of the tensor that joins `pieces`."""
    if pieces is None:
        return [rows]
    start, stop, _ = rows.indices(sum(end - begin for begin, end in pieces))
    cut: list[slice] = []
    offset = 0
    for begin, end in pieces:
        low, high = max(start - offset, 0), min(stop - offset, end - begin)
        if low < high:
            cut.append(slice(begin + low, begin + high))
        offset += end - begin
    return cut
