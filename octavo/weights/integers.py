"""Integer weights: eight bits with a scale per output feature, four bits with a scale per group of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScaledInt8:
    """codes [O, I] int8 times scales [O] float32: symmetric, one scale per output feature."""

    codes: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        assert self.codes.dtype == torch.int8 and self.scales.dtype == torch.float32, (self.codes, self.scales)
        assert self.scales.shape == self.codes.shape[:1], (self.scales.shape, self.codes.shape)

    @property
    def kind(self) -> str:
        return "int8"

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def rows(self, start: int, stop: int) -> ScaledInt8:
        return ScaledInt8(self.codes[start:stop], self.scales[start:stop])

    def columns(self, start: int, stop: int) -> ScaledInt8:
        return ScaledInt8(self.codes[:, start:stop], self.scales)

    @classmethod
    def stack(cls, parts: Sequence[ScaledInt8]) -> ScaledInt8:
        _check_alike(cls, parts)
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([part.codes for part in parts]), torch.cat([part.scales for part in parts]))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return (self.codes * self.scales[:, None]).to(dtype)


@dataclass(frozen=True)
class GroupInt:
    """(codes - zeros) times scales, `group` input columns sharing one of each: four-bit weights.

    codes [O, I] uint8, 0..15; scales [O, G] float32; zeros [O, G] uint8, 0..15, None when all are 8.
    G = ceil(I / group): the last group may be short.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    group: int

    def __post_init__(self) -> None:
        num_groups = -(-self.codes.shape[1] // self.group)
        assert self.codes.dtype == torch.uint8 and self.scales.dtype == torch.float32, (self.codes, self.scales)
        assert self.scales.shape == (self.codes.shape[0], num_groups), (self.scales.shape, self.codes.shape, self.group)
        assert self.zeros is None or self.zeros.shape == self.scales.shape, (self.zeros, self.scales.shape)

    @property
    def kind(self) -> tuple[str, int, bool]:
        """int4, the group, and whether there are zero points."""
        return "int4", self.group, self.zeros is not None

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def rows(self, start: int, stop: int) -> GroupInt:
        zeros = None if self.zeros is None else self.zeros[start:stop]
        return GroupInt(self.codes[start:stop], self.scales[start:stop], zeros, self.group)

    def columns(self, start: int, stop: int) -> GroupInt:
        """Input columns start..stop; ValueError when they cut a group."""
        if start % self.group or (stop % self.group and stop != self.shape[1]):
            raise ValueError(f"columns {start} to {stop} cut a group of {self.group}")
        groups = slice(start // self.group, -(-stop // self.group))
        zeros = None if self.zeros is None else self.zeros[:, groups]
        return GroupInt(self.codes[:, start:stop], self.scales[:, groups], zeros, self.group)

    def regrouped(self, groups: Sequence[int]) -> GroupInt:
        """The same values in the first of `groups` that divides this group, its scales repeated; else this weight."""
        if self.group in groups:
            return self
        if self.scales.shape[1] == 1:
            group = next((each for each in groups if self.shape[1] % each == 0), groups[-1])
        else:
            group = next((each for each in groups if self.group % each == 0), self.group)
        count = -(-self.shape[1] // group)

        def repeat(each: Tensor) -> Tensor:
            return each.repeat_interleave(-(-self.group // group), 1)[:, :count]

        return GroupInt(self.codes, repeat(self.scales), None if self.zeros is None else repeat(self.zeros), group)

    @classmethod
    def stack(cls, parts: Sequence[GroupInt]) -> GroupInt:
        """One weight with the rows of all parts. ValueError when their groups differ."""
        _check_alike(cls, parts)
        if len(parts) == 1:
            return parts[0]
        groups = {part.group for part in parts}
        if len(groups) > 1:
            raise ValueError(f"weights with groups of {' and '.join(map(str, sorted(groups)))} cannot be stacked")
        zeros = None
        if any(part.zeros is not None for part in parts):
            zeros = torch.cat([part.zero_points for part in parts])
        codes, scales = torch.cat([part.codes for part in parts]), torch.cat([part.scales for part in parts])
        return cls(codes, scales, zeros, parts[0].group)

    @property
    def zero_points(self) -> Tensor:
        """[O, G] uint8."""
        return torch.full(self.scales.shape, 8, dtype=torch.uint8) if self.zeros is None else self.zeros

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        num_columns = self.shape[1]

        def spread(each: Tensor) -> Tensor:
            return each.repeat_interleave(self.group, 1)[:, :num_columns]

        return ((self.codes.float() - spread(self.zero_points).float()) * spread(self.scales)).to(dtype)


def _check_alike(kind: type, parts: Sequence[object]) -> None:
    """ValueError unless every part is of this kind."""
    names = {type(part).__name__ for part in parts}
    if names != {kind.__name__}:
        raise ValueError(f"weights of different kinds cannot be stacked: {', '.join(sorted(names))}")
