"""Tensors of a GGUF file, in Hugging Face's layout: views of the mapped file, but for what llama.cpp laid out anew."""

from __future__ import annotations

import math
import mmap
import re
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from octavo.errors import StartupError, UnsupportedModel
from octavo.gguf.config import Keys
from octavo.gguf.file import GGUF, Entry
from octavo.weights.blocks import BLOCK_KINDS, GGUFBlocks
from octavo.weights.schemes import Fused, Names, stacked_gate_up, stacked_qkv

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
)
# Experts of a layer are one tensor [E, O, I]; here each is a matrix, as early files had them: blk.0.ffn_up.3.weight.
STACKED = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down|gate_up))_exps\.weight")
HEADS = re.compile(r"blk\.\d+\.attn_(q|k|qkv)\.(weight|bias)")

# Architectures whose rotation llama.cpp computes on neighboring channels: its converter reorders the rows of q and k.
INTERLEAVED = frozenset(("llama",))
# Architectures whose norm weights its converter adds one to.
SHIFTED_NORMS = frozenset(("gemma2", "gemma3"))

LAYER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.gate": "ffn_gate_inp",
        "mlp.experts.E.gate_proj": "ffn_gate.E",
        "mlp.experts.E.up_proj": "ffn_up.E",
        "mlp.experts.E.down_proj": "ffn_down.E",
    }
)
# Where norms follow the mixer and the ffn, ffn_norm is the one before the ffn.
OUTPUT_NORMS: Mapping[str, str] = MappingProxyType(
    {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
)


class GGUFTensors(Mapping[str, Tensor | GGUFBlocks]):
    """The model's tensors by their names in the file; matrices in blocks as GGUFBlocks, [O, I] all of them.

    `sizes` is the bytes and elements of all. Raises StartupError for a tensor of a type that octavo does not read.
    """

    def __init__(self, model: GGUF) -> None:
        self._model = model
        self._where = dict(_places(model))
        entries = model.tensors.values()
        self.sizes = sum(e.stop - e.start for e in entries), sum(math.prod(e.shape) for e in entries)
        architecture = model.metadata.string("general.architecture")
        self._shift = architecture in SHIFTED_NORMS
        self._head_counts = _head_counts(Keys(model, architecture)) if architecture in INTERLEAVED else None

    def __getitem__(self, name: str) -> Tensor | GGUFBlocks:
        entry, expert = self._where[name]
        tensor = self._view(entry, expert)
        match = HEADS.fullmatch(name)
        if match and self._head_counts is not None:
            return _halves(tensor, *self._head_counts[match[1]], name)
        if self._shift and name.endswith("norm.weight") and isinstance(tensor, Tensor):
            return tensor - 1
        return tensor

    def release(self) -> None:
        """Let go of the file's pages, which nobody writes to."""
        if sys.platform == "linux":
            for data in self._model.maps:
                data.madvise(mmap.MADV_DONTNEED)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def _view(self, entry: Entry, expert: int | None) -> Tensor | GGUFBlocks:
        data, kind = self._model.maps[entry.part], entry.kind
        shape, start, size = entry.shape, entry.start, entry.stop - entry.start
        if expert is not None:
            size //= shape[0]
            shape, start = shape[1:], start + expert * size
        if kind.name in DTYPES:
            count = math.prod(shape)
            return torch.frombuffer(data, dtype=DTYPES[kind.name], count=count, offset=start).view(shape)
        rows = torch.frombuffer(data, dtype=torch.uint8, count=size, offset=start)
        return GGUFBlocks(rows.view(-1, kind.row_bytes(shape[-1])), kind)


def names_of(model: GGUF) -> Names:
    """How the file names the canonical modules; which of them it keeps fused is seen from what is there."""
    names = dict(LAYER_NAMES)
    if "blk.0.post_ffw_norm.weight" in model.tensors:
        names |= OUTPUT_NORMS
    fused: list[Fused] = []
    if "blk.0.attn_qkv.weight" in model.tensors:
        parts = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        fused.append(Fused(parts, "self_attn.qkv_proj", stacked_qkv))
    if model.metadata.string("general.architecture") == "phi3":
        fused.append(Fused(("mlp.gate_proj", "mlp.up_proj"), "mlp.gate_up_proj", stacked_gate_up))
    top = {"embed_tokens": "token_embd", "embed_positions": "position_embd", "norm": "output_norm"}
    return Names(
        roots=("",),
        head=("output",),
        renames=(
            *((rf"^{ours}\.", f"{theirs}.") for ours, theirs in top.items()),
            *(_layer_rename(ours, theirs) for ours, theirs in names.items()),
        ),
        fused=tuple(fused),
        ignored=r"^rope_(freqs|factors_long|factors_short)\.weight$",
    )


def _layer_rename(ours: str, theirs: str) -> tuple[str, str]:
    pattern, replacement = ours.replace(".", r"\.").replace("E", r"(\d+)"), theirs.replace("E", r"\2")
    return rf"^layers\.(\d+)\.{pattern}\.", rf"blk.\1.{replacement}."


def _places(model: GGUF) -> Iterator[tuple[str, tuple[Entry, int | None]]]:
    """Every tensor's entry by name, every expert's by its own with its place in the stack."""
    for name, entry in model.tensors.items():
        if entry.kind.name not in DTYPES and entry.kind.name not in BLOCK_KINDS:
            known = ", ".join((*DTYPES, *BLOCK_KINDS))
            raise UnsupportedModel(
                f"{model.path}: tensor {name} is of type {entry.kind.name}, which octavo does not read; types that "
                f"work: {known}",
                name,
            )
        match = STACKED.fullmatch(name)
        if match is None:
            if len(entry.shape) > 2 or (len(entry.shape) == 1 and entry.kind.name in BLOCK_KINDS):
                raise StartupError(
                    f"{model.path}: tensor {name} has shape {list(entry.shape)}; it must be a matrix", name
                )
            yield name, (entry, None)
            continue
        experts = Keys(model, model.metadata.string("general.architecture")).count("expert_count", 0, least=0)
        if len(entry.shape) != 3 or entry.shape[0] != experts:
            raise StartupError(
                f"{model.path}: tensor {name} has shape {list(entry.shape)}; it must hold {experts} matrices", name
            )
        yield from ((f"{match[1]}.{expert}.weight", (entry, expert)) for expert in range(entry.shape[0]))


def _head_counts(keys: Keys) -> dict[str, tuple[int, int]]:
    """How many of a tensor's heads rotate and how many follow that do not, by what it is of."""
    num_heads = keys.count("attention.head_count")
    num_kv_heads = keys.count("attention.head_count_kv", num_heads)
    return {"q": (num_heads, 0), "k": (num_kv_heads, 0), "qkv": (num_heads + num_kv_heads, num_kv_heads)}


def _halves(tensor: Tensor | GGUFBlocks, num_rotated: int, num_kept: int, name: str) -> Tensor | GGUFBlocks:
    """Rows of q and k with the first halves of all rotated pairs of a head first, then the second ones."""
    num_rows, num_heads = tensor.shape[0], num_rotated + num_kept
    if num_rows % (2 * num_heads):
        raise StartupError(f"tensor {name} has {num_rows} rows, which {num_heads} heads cannot share", name)
    size = num_rows // num_heads
    order = torch.arange(num_rotated * size).view(num_rotated, size // 2, 2).transpose(1, 2).flatten()
    order = torch.cat((order, torch.arange(num_rotated * size, num_rows)))
    return GGUFBlocks(tensor.data[order], tensor.block) if isinstance(tensor, GGUFBlocks) else tensor[order]
