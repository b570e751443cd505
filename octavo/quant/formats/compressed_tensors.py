"""Checkpoints of compressed-tensors (LLM Compressor): int8 and float8 weights, and four or eight bits in words.

What a module is stored as, its tensors say, so that `ignore` and `targets` need no second reading. Activations are
rounded per token while running, whatever range the checkpoint suggests for them.
Layout: vllm-project/compressed-tensors, its pack_quantized, int_quantized and float_quantized compressors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from octavo.errors import StartupError, UnsupportedModel
from octavo.quant.formats.fp8 import block_size, grid, scaled
from octavo.quant.online import GROUPS
from octavo.quant.words import nibbles, unpack
from octavo.weights.floats import E4M3
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.source import WeightSource
from octavo.weights.weight import StoredFormat, Weight

READ: dict[tuple[object, object], tuple[str, ...]] = {  # type and bits: strategies
    ("int", 4): ("tensor", "channel", "group"),
    ("int", 8): ("tensor", "channel"),
    ("float", 8): ("tensor", "channel", "block"),
}


class CompressedTensorsFormat:
    """`weight` int8 or float8, or `weight_packed` words, with `weight_scale`; a module without a scale is dense."""

    method = "compressed-tensors"
    extras = ("weight_shape", "input_scale", "input_zero_point")

    def __init__(self, config: Mapping[str, Any]) -> None:
        """UnsupportedModel when a group of modules is stored in a way that octavo does not read."""
        self.bits: set[int] = set()
        holds: set[str] = set()
        self.blocks: set[tuple[int, int]] = set()
        groups = config.get("config_groups")
        for group in groups.values() if isinstance(groups, Mapping) else ():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            if isinstance(weights, Mapping):
                check(weights)
                self.bits.add(weights["num_bits"])
                holds.add("fp8" if weights["type"] == "float" else f"int{weights['num_bits']}")
                block = block_size(weights.get("block_structure")) if weights["strategy"] == "block" else None
                self.blocks |= set() if block is None else {block}
        self.holds = frozenset(holds or ("int8",))

    def read(self, source: WeightSource, name: str) -> Weight:
        stem = f"{name}." if name else ""
        if not source.has(f"{stem}weight_scale"):
            return StoredFormat().read(source, name)
        scales = source.read(f"{stem}weight_scale").float()
        packed = source.has(f"{stem}weight_packed")
        try:
            return self._packed(source, stem, scales) if packed else self._plain(source, stem, scales)
        except ValueError as error:
            raise StartupError(f"{source.prefix}{stem}weight cannot be read: {error}", "model") from None

    def _plain(self, source: WeightSource, stem: str, scales: Tensor) -> Weight:
        codes = source.read(f"{stem}weight")
        if codes.dtype == E4M3:
            block = next((each for each in self.blocks if grid(codes, each) == tuple(scales.shape)), None)
            return scaled(codes, scales, block)
        if codes.dtype != torch.int8:
            name = str(codes.dtype).removeprefix("torch.")
            raise ValueError(f"it has a scale and is {name}; octavo reads int8 and float8_e4m3fn")
        if source.has(f"{stem}weight_zero_point") and source.read(f"{stem}weight_zero_point").any():
            raise ValueError("it is int8 with zero points; octavo reads symmetric int8")
        return ScaledInt8(codes, _per_row(scales, codes.shape[0]))

    def _packed(self, source: WeightSource, stem: str, scales: Tensor) -> Weight:
        """Four or eight bits in words [O, I · bits / 32], codes biased by half their range."""
        words = source.read(f"{stem}weight_packed")
        num_rows = words.shape[0]
        if len(self.bits) == 1:
            (bits,) = self.bits
        else:  # a module's group would have to be found by its patterns; its width says the same
            num_columns = int(source.read(f"{stem}weight_shape")[1])
            bits = 4 if words.shape[1] == -(-num_columns // 8) else 8
        codes = unpack(words, bits)
        if bits == 8:
            return ScaledInt8((codes ^ 128).view(torch.int8), _per_row(scales, num_rows))
        scales = scales.reshape(-1, 1) if scales.ndim < 2 else scales
        scales = scales.expand(num_rows, scales.shape[1]).contiguous()
        zeros = None
        if source.has(f"{stem}weight_zero_point"):
            # Packed along the rows: a word holds eight rows of one group.
            zeros = nibbles(source.read(f"{stem}weight_zero_point").T).T[:num_rows].contiguous()
        group = -(-codes.shape[1] // scales.shape[1])
        return GroupInt(codes, scales, zeros, group).regrouped(GROUPS)


def check(weights: Mapping[str, Any]) -> None:
    """UnsupportedModel when a config group's `weights` are of a kind that octavo does not read."""
    kind, bits, strategy = weights.get("type"), weights.get("num_bits"), weights.get("strategy")
    if strategy not in READ.get((kind, bits), ()):
        raise UnsupportedModel(
            f"the checkpoint is quantized by compressed-tensors to {bits}-bit {kind} weights, one scale a {strategy}, "
            "which is not read; what octavo reads is 8-bit int per channel, 4-bit int per group or channel, and 8-bit "
            "float per channel or block",
            "model",
        )
    if weights.get("actorder") in (True, "group"):
        raise UnsupportedModel(
            "the checkpoint is quantized with actorder=group, which scatters a group over all columns; "
            "octavo reads actorder=static and none",
            "model",
        )


def _per_row(scales: Tensor, num_rows: int) -> Tensor:
    """[O] from one scale, or one a row."""
    if scales.numel() not in (1, num_rows):
        raise ValueError(f"it is 8-bit with scales {list(scales.shape)}; octavo reads one a row")
    return scales.reshape(-1).expand(num_rows).contiguous()
