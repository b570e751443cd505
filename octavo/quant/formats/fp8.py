"""Checkpoints whose config says "fp8" (DeepSeek, Qwen, Fine-grained FP8): e4m3 values, and scales of blocks or of all.

Layout: `weight` float8_e4m3fn [O, I]; `weight_scale_inv` [ceil(O / R), ceil(I / C)], with R and C of
`weight_block_size`, which the values are multiplied by whatever its name; or `weight_scale` of the whole matrix or of
each row. Activations are rounded per token while running, so that static ranges (`input_scale`) are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from octavo.errors import StartupError, UnsupportedModel
from octavo.weights.floats import E4M3, ScaledFloat8
from octavo.weights.source import WeightSource
from octavo.weights.weight import StoredFormat, Weight

BLOCK = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})", re.ASCII)
SCALES = ("weight_scale_inv", "weight_scale")


class Fp8Format:
    """`weight` in float8 with its scales; a module without scales is dense."""

    method = "fp8"
    holds = frozenset(("fp8",))
    extras = ("input_scale", "activation_scale")

    def __init__(self, config: Mapping[str, Any]) -> None:
        """UnsupportedModel for number formats and block sizes that octavo does not read."""
        fmt = config.get("fmt", "e4m3")
        if fmt not in ("e4m3", "float8_e4m3fn"):
            raise UnsupportedModel(f"the checkpoint holds fp8 weights as {fmt!r}; octavo reads e4m3", "model")
        self.block = block_size(config.get("weight_block_size"))

    def read(self, source: WeightSource, name: str) -> Weight:
        stem = f"{name}." if name else ""
        found = next((each for each in SCALES if source.has(stem + each)), None)
        if found is None:
            return StoredFormat().read(source, name)
        values, scales = source.read(f"{stem}weight"), source.read(stem + found)
        try:
            return scaled(values, scales, self.block)
        except ValueError as error:
            raise StartupError(f"{source.prefix}{stem}weight cannot be read: {error}", "model") from None


def block_size(found: object) -> tuple[int, int] | None:
    """Rows and columns of a block as a config spells them; UnsupportedModel when they make no sense."""
    if found is None:
        return None
    if isinstance(found, str) and (match := BLOCK.fullmatch(found)):
        return int(match[1]), int(match[2])
    match found:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
        case _:
            raise UnsupportedModel(f"the checkpoint's fp8 blocks are {found!r}; octavo reads [rows, columns]", "model")


def grid(values: Tensor, block: tuple[int, int]) -> tuple[int, int]:
    """How many blocks a matrix has, down and across."""
    return -(-values.shape[0] // block[0]), -(-values.shape[1] // block[1])


def scaled(values: Tensor, scales: Tensor, block: tuple[int, int] | None) -> ScaledFloat8:
    """The weight of float8 values and one scale, one a row, or one a block; ValueError when they do not fit."""
    if values.dtype != E4M3:
        raise ValueError(
            f"it has a scale and is {str(values.dtype).removeprefix('torch.')}; octavo reads float8_e4m3fn"
        )
    num_rows = values.shape[0]
    wide = scales.float()
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("its scales are not finite")
    if block is not None and tuple(wide.shape) == grid(values, block):
        return ScaledFloat8(values, wide.contiguous(), block)
    if wide.numel() in (1, num_rows):
        return ScaledFloat8(values, wide.reshape(-1, 1).expand(num_rows, 1).contiguous())
    blocks = "" if block is None else f", or one for {block[0]} x {block[1]} values"
    raise ValueError(
        f"it is {list(values.shape)} with scales {list(scales.shape)}; octavo reads one, one a row{blocks}"
    )
