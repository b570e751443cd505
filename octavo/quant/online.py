"""Rounding dense weights to integers while they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from octavo.errors import StartupError
from octavo.weights.integers import GroupInt, ScaledInt8
from octavo.weights.source import WeightSource
from octavo.weights.weight import Dense, Weight, WeightFormat

Bits = Literal["int8", "int4"]

CHUNK = 1 << 22  # values rounded at once: bounds what rounding takes beside its result
GROUPS = (128, 64, 32)
# Shares of a group's largest magnitude that its largest code may stand for: clipping the tail can cost less than a
# coarser grid. Against the whole alone, the error of normally distributed groups of 128 is 4 % lower.
SHARES = (1.0, 0.875, 0.75)

ROUTER = re.compile(r"(^|\.)mlp\.gate$")
EMBEDDING = re.compile(r"^model\.embed_(tokens|positions)$")


@dataclass(frozen=True)
class Scheme:
    """What dense weights become. Four bits leave the head at eight: it is a small share and decides every token."""

    layers: Bits
    group: int = GROUPS[0]

    @property
    def head(self) -> Bits:
        """What the head becomes, and with it a tied embedding."""
        return "int8"


class Quantizing:
    """A format whose dense weights are rounded as they are read; those that are quantized already stay as they are.

    Embeddings stay dense, but for the one that is the head's weight, too (`tied`). So do routers: they are tiny, and a
    token sent to another expert is no rounding error.
    """

    def __init__(self, format: WeightFormat, scheme: Scheme, tied: bool) -> None:
        self.format = format
        self.scheme = scheme
        self.extras = format.extras
        self.head = "model.embed_tokens" if tied else "lm_head"

    def read(self, source: WeightSource, name: str) -> Weight:
        weight = self.format.read(source, name)
        path = (source.prefix + name).removesuffix(".")
        is_head = path == self.head
        if not isinstance(weight, Dense) or ROUTER.search(path) or (EMBEDDING.search(path) and not is_head):
            return weight
        bits = self.scheme.head if is_head else self.scheme.layers
        try:
            return quantize_int8(weight.values) if bits == "int8" else quantize_int4(weight.values, self.scheme.group)
        except ValueError as error:
            raise StartupError(f"{path} cannot be quantized: {error}", "quantization") from None


def quantize_int8(values: Tensor) -> ScaledInt8:
    """The nearest eight-bit weight to values [O, I]: scale = max |row| / 127, codes rounded half to even.

    ValueError when a value is not finite.
    """
    codes = torch.empty(values.shape, dtype=torch.int8, device=values.device)
    scales = torch.empty(values.shape[:1], dtype=torch.float32, device=values.device)
    for rows in _chunks(values):
        part = values[rows].float()
        largest = _finite(part.abs().amax(1))
        scales[rows] = largest / 127
        codes[rows] = (part / _divisor(scales[rows])[:, None]).round_().to(torch.int8)
    return ScaledInt8(codes, scales)


def quantize_int4(values: Tensor, group: int = GROUPS[0]) -> GroupInt:
    """A four-bit weight close to values [O, I], in groups of `group` or the largest of GROUPS below it that divides I.

    code = clamp(round(value / scale) + 8, 0, 15), half to even. The scale, a float16 of either sign, puts code 0 at a
    share of the group's extreme value, because the grid reaches one step further down than up: of SHARES the one with
    the least squared error, the first of equals. ValueError when a value is not finite.
    """
    num_rows, num_columns = values.shape
    group = next((each for each in GROUPS if each <= group and num_columns % each == 0), GROUPS[-1])
    num_groups = -(-num_columns // group)
    codes = torch.empty(values.shape, dtype=torch.uint8, device=values.device)
    scales = torch.empty((num_rows, num_groups), dtype=torch.float16, device=values.device)
    for rows in _chunks(values):
        part = values[rows].float()
        part = torch.nn.functional.pad(part, (0, num_groups * group - num_columns)).view(-1, num_groups, group)
        extreme = part.gather(2, part.abs().argmax(2, keepdim=True))
        _finite((extreme / 8).half())
        best_scale, best_steps, least = _rounded(part, extreme / -8 * SHARES[0])
        for share in SHARES[1:]:
            scale, steps, error = _rounded(part, extreme / -8 * share)
            better = error < least
            best_scale, best_steps = torch.where(better, scale, best_scale), torch.where(better, steps, best_steps)
            least = torch.where(better, error, least)
        scales[rows] = best_scale.squeeze(2).half()
        codes[rows] = best_steps.add_(8).to(torch.uint8).view(len(part), -1)[:, :num_columns]
    return GroupInt(codes, scales, None, group)


def _rounded(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scale as float16 holds it, the steps -8..7 nearest to values [n, G, group], their squared error [n, G, 1]."""
    scale = scale.half().float()
    steps = (values / _divisor(scale)).round_().clamp_(-8, 7)
    return scale, steps, (steps * scale - values).square_().sum(2, keepdim=True)


def _divisor(scale: Tensor) -> Tensor:
    """The scale, or one where it is zero, as all of its values are then."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _finite(largest: Tensor) -> Tensor:
    if not bool(torch.isfinite(largest).all()):
        raise ValueError("it has values that are not finite")
    return largest


def _chunks(values: Tensor) -> Iterator[slice]:
    """Row ranges of about CHUNK values."""
    step = max(1, CHUNK // max(1, values.shape[1]))
    return (slice(start, start + step) for start in range(0, values.shape[0], step))
