"""Rotation angles: frequencies of every kind of RoPE scaling, and their cosines and sines per position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.layers.layer import Layer, Placement


def frequencies(rope: spec.Rope, max_length: int) -> tuple[Tensor, float]:
    """Angle per position of each rotated pair, [R/2] float32, and the factor on cosines and sines.

    `max_length` is the engine's longest context: dynamic scaling takes its base from it, and LongRoPE its factors.
    """
    exponents = torch.arange(0, rope.dim, 2).float() / rope.dim
    plain = 1.0 / rope.theta**exponents
    match rope.scaling:
        case None:
            return plain, 1.0
        case spec.Linear(factor):
            return plain / factor, 1.0
        case spec.Dynamic(factor, original):
            stretch = factor * max(max_length, original) / original - (factor - 1)
            return 1.0 / (rope.theta * stretch ** (rope.dim / (rope.dim - 2))) ** exponents, 1.0
        case spec.Llama3():
            return _llama3(plain, rope.scaling), 1.0
        case spec.Yarn():
            return _yarn(rope, rope.scaling, exponents), rope.scaling.attention_factor
        case spec.LongRope(short, long, original, attention_factor):
            factors = torch.tensor(long if max_length > original else short, dtype=torch.float32)
            return 1.0 / (factors * rope.theta**exponents), attention_factor


def _llama3(plain: Tensor, scaling: spec.Llama3) -> Tensor:
    """Short wavelengths keep their frequency, long ones are divided by `factor`, those between are mixed."""
    wavelength = 2 * math.pi / plain
    smooth = (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low)
    mixed = (1 - smooth) * plain / scaling.factor + smooth * plain
    out = torch.where(wavelength > scaling.original / scaling.low, plain / scaling.factor, mixed)
    return torch.where(wavelength < scaling.original / scaling.high, plain, out)


def _yarn(rope: spec.Rope, scaling: spec.Yarn, exponents: Tensor) -> Tensor:
    """Pairs that turn more than `beta_fast` times in the original context keep their frequency, those below
    `beta_slow` are divided by `factor`, a ramp joins them.
    """

    def pair_of(turns: float) -> float:
        return rope.dim * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    keep = 1 - ((torch.arange(rope.dim // 2).float() - low) / (high - low)).clamp(0, 1)
    wavelengths = rope.theta**exponents
    return 1.0 / (scaling.factor * wavelengths) * (1 - keep) + 1.0 / wavelengths * keep


class RotaryTable(Layer):
    """positions [T] int32 -> angles [T, R] float32: R/2 cosines, then R/2 sines, for positions below `max_length`."""

    def __init__(self, rope: spec.Rope, max_length: int, place: Placement) -> None:
        inverse, factor = frequencies(rope, max_length)
        angle = torch.arange(max_length).float()[:, None] * inverse
        self.table = (torch.cat((angle.cos(), angle.sin()), -1) * factor).to(place.device)

    def __call__(self, positions: Tensor) -> Tensor:
        return ops.embed(self.table, positions)
