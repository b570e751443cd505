"""Rounding dense weights to integers, or to eight-bit floats, while they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from octavo.errors import StartupError
from octavo.ops.quantized import LIMITS
from octavo.platforms import native
from octavo.weights.floats import E4M3, ScaledFloat8
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.source import WeightSource
from octavo.weights.weight import Dense, Weight, WeightFormat

Bits = Literal["int8", "int4", "fp8"]

CHUNK = 1 << 22  # values rounded at once: bounds what rounding takes beside its result
GROUPS = (128, 64, 32)
# The code that a group's extreme value would have, tried in this order: the grid reaches from -8 to 7, and clipping a
# long tail can cost less than a coarser grid. Keep in step with csrc/kernels/quantize.cpp.
EXTREMES = (8.0, 7.0, 7.5, 8.5, 9.0, 9.5, 10.0, 11.0)
NATIVE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

ROUTER = re.compile(r"(^|\.)mlp\.gate$")
EMBEDDING = re.compile(r"^model\.embed_(tokens|positions)$")


@dataclass(frozen=True)
class Scheme:
    """What dense weights become. Four bits leave the head at eight: it is a small share and decides every token."""

    layers: Bits
    group: int = GROUPS[0]

    def __str__(self) -> str:
        return f"int4 in groups of {self.group}, head {self.head}" if self.layers == "int4" else self.layers

    @property
    def head(self) -> Bits:
        """What the head becomes, and with it a tied embedding."""
        return "int8" if self.layers == "int4" else self.layers


class Quantizing:
    """A format whose dense weights are rounded as they are read; those that are quantized already stay as they are.

    Embeddings stay dense, but for the one that is the head's weight, too (`tied`). So do routers: they are tiny, and a
    token sent to another expert is no rounding error.
    """

    def __init__(self, format: WeightFormat, scheme: Scheme, tied: bool) -> None:
        self.format = format
        self.scheme = scheme
        self.method = format.method
        self.extras = format.extras
        self.holds = format.holds | {scheme.layers, scheme.head}
        self.head = "model.embed_tokens" if tied else "lm_head"

    def read(self, source: WeightSource, name: str) -> Weight:
        weight = self.format.read(source, name)
        path = (source.prefix + name).removesuffix(".")
        is_head = path == self.head
        if not isinstance(weight, Dense) or ROUTER.search(path) or (EMBEDDING.search(path) and not is_head):
            return weight
        bits = self.scheme.head if is_head else self.scheme.layers
        try:
            match bits:
                case "int8":
                    return quantize_int8(weight.values)
                case "int4":
                    return quantize_int4(weight.values, self.scheme.group)
                case "fp8":
                    return quantize_fp8(weight.values)
        except ValueError as error:
            raise StartupError(f"{path} cannot be quantized: {error}", "quantization") from None


def quantize_int8(values: Tensor) -> ScaledInt8:
    """The nearest eight-bit weight to values [O, I]: scale = max |row| / 127, codes rounded half to even.

    ValueError when a value is not finite.
    """
    codes = torch.empty(values.shape, dtype=torch.int8, device=values.device)
    scales = torch.empty(values.shape[:1], dtype=torch.float32, device=values.device)
    if is_native(values):
        native.load().quantize_int8(native.team(), *_describe(values), codes.data_ptr(), scales.data_ptr())
    else:
        for rows in _chunks(values):
            part = values[rows].float()
            scales[rows] = part.abs().amax(1) / 127
            codes[rows] = (part * _inverse(scales[rows])[:, None]).round_().to(torch.int8)
    return ScaledInt8(codes, _finite(scales))


def quantize_fp8(values: Tensor) -> ScaledFloat8:
    """The nearest eight-bit floating-point weight to values [O, I]: scale = max |row| / 448. ValueError as above."""
    most = LIMITS[E4M3]
    rounded = torch.empty(values.shape, dtype=E4M3, device=values.device)
    scales = torch.empty((values.shape[0], 1), dtype=torch.float32, device=values.device)
    for rows in _chunks(values):
        part = values[rows].float()
        scales[rows] = part.abs().amax(1, keepdim=True) / most
        # 448 · (1 / 448) may round to more than 448, which the format has no number for.
        rounded[rows] = (part * _inverse(scales[rows])).clamp_(-most, most).to(E4M3)
    return ScaledFloat8(rounded, _finite(scales))


def quantize_int4(values: Tensor, group: int = GROUPS[0]) -> GroupInt:
    """A four-bit weight close to values [O, I], in groups of `group` or the largest of GROUPS below it that divides I.

    code = clamp(round(value / scale) + 8, 0, 15), half to even. The scale, of either sign and such that float16 holds
    it, is the one of least squared error among those that give the group's extreme value one of EXTREMES, and the least
    squares fit to the best one's codes. ValueError when a value is not finite.
    """
    num_rows, num_columns = values.shape
    group = next((each for each in GROUPS if each <= group and num_columns % each == 0), GROUPS[-1])
    num_groups = -(-num_columns // group)
    codes = torch.empty(values.shape, dtype=torch.uint8, device=values.device)
    scales = torch.empty((num_rows, num_groups), dtype=torch.float32, device=values.device)
    if is_native(values):
        native.load().quantize_int4(native.team(), *_describe(values), group, codes.data_ptr(), scales.data_ptr())
    else:
        for rows in _chunks(values):
            part = values[rows].float()
            part = torch.nn.functional.pad(part, (0, num_groups * group - num_columns)).view(-1, num_groups, group)
            scale, steps = _fit(part)
            scales[rows] = scale.squeeze(2)
            codes[rows] = steps.add_(8).to(torch.uint8).view(len(part), -1)[:, :num_columns]
    return GroupInt(codes, _finite(scales), None, group)


def is_native(values: Tensor) -> bool:
    """Whether the native library rounds these."""
    is_plain = values.device.type == "cpu" and values.dtype in NATIVE_KINDS and values.is_contiguous()
    return is_plain and native.library is not None and values.numel() > 0


def _describe(values: Tensor) -> tuple[int, int, int, int]:
    """Address, kind, rows and columns, as the native library wants them."""
    return values.data_ptr(), NATIVE_KINDS[values.dtype], values.shape[0], values.shape[1]


def _fit(values: Tensor) -> tuple[Tensor, Tensor]:
    """Scales [n, G, 1] and steps -8..7 [n, G, group] of values [n, G, group]."""
    extreme = values.gather(2, values.abs().argmax(2, keepdim=True))
    best, steps, least = _rounded(values, -extreme / EXTREMES[0])

    def consider(wanted: Tensor) -> None:
        nonlocal best, steps, least
        scale, taken, error = _rounded(values, wanted)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
        steps = torch.where(better, taken, steps)

    for code in EXTREMES[1:]:
        consider(-extreme / code)
    consider((values * steps).sum(2, keepdim=True) / steps.square().sum(2, keepdim=True))
    return best, steps


def _rounded(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scale as float16 holds it, the nearest steps -8..7, and their squared error [n, G, 1]."""
    scale = scale.half().float()
    steps = (values * _inverse(scale)).round_().clamp_(-8, 7)
    return scale, steps, (steps * scale - values).square_().sum(2, keepdim=True)


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and zero where it is zero, as all of its values are then."""
    return torch.where(scale == 0, 0.0, 1 / scale)


def _finite(scales: Tensor) -> Tensor:
    """Scales that are finite, as they are when all values were."""
    if not bool(torch.isfinite(scales).all()):
        raise ValueError("it has values that are not finite, or that float16 cannot hold")
    return scales


def _chunks(values: Tensor) -> Iterator[slice]:
    """Row ranges of about CHUNK values."""
    step = max(1, CHUNK // max(1, values.shape[1]))
    return (slice(start, start + step) for start in range(0, values.shape[0], step))
