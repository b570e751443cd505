"""Eight-bit floating-point weights: float8_e4m3fn values, with a float32 scale per row or per block of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn


@dataclass(frozen=True)
class ScaledFloat8:
    """values [O, I] float8_e4m3fn times scales [ceil(O / R), ceil(I / C)] float32 of blocks of R rows and C columns.

    C is None where a scale spans all columns. The last blocks of rows and of columns may be short.
    """

    values: Tensor
    scales: Tensor
    block: tuple[int, int | None] = (1, None)

    def __post_init__(self) -> None:
        (rows, columns), (block_rows, block_columns) = self.values.shape, self.block
        wanted = -(-rows // block_rows), 1 if block_columns is None else -(-columns // block_columns)
        assert self.values.dtype == E4M3 and self.scales.dtype == torch.float32, (self.values.dtype, self.scales.dtype)
        assert self.scales.shape == wanted, (self.scales.shape, wanted)

    @property
    def kind(self) -> tuple[str, int | None]:
        """fp8, and the columns of a block."""
        return "fp8", self.block[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def rows(self, start: int, stop: int) -> ScaledFloat8:
        block_rows, _ = self.block
        if start % block_rows or (stop % block_rows and stop != self.shape[0]):
            return self.by_row().rows(start, stop)
        scales = self.scales[start // block_rows : -(-stop // block_rows)]
        return ScaledFloat8(self.values[start:stop], scales, self.block)

    def columns(self, start: int, stop: int) -> ScaledFloat8:
        """Input columns start..stop; ValueError when they cut a block."""
        block_columns = self.block[1]
        if block_columns is None:
            return ScaledFloat8(self.values[:, start:stop], self.scales, self.block)
        if start % block_columns or (stop % block_columns and stop != self.shape[1]):
            raise ValueError(f"columns {start} to {stop} cut a block of {block_columns}")
        blocks = slice(start // block_columns, -(-stop // block_columns))
        return ScaledFloat8(self.values[:, start:stop], self.scales[:, blocks], self.block)

    def by_row(self) -> ScaledFloat8:
        """The same values, each row with scales of its own."""
        block_rows, block_columns = self.block
        if block_rows == 1:
            return self
        scales = self.scales.repeat_interleave(block_rows, 0)[: self.shape[0]]
        return ScaledFloat8(self.values, scales.contiguous(), (1, block_columns))

    @classmethod
    def stack(cls, parts: Sequence[ScaledFloat8]) -> ScaledFloat8:
        """One weight with the rows of all parts. ValueError when their blocks have different columns."""
        if not all(isinstance(part, cls) for part in parts) or len({part.block[1] for part in parts}) > 1:
            raise ValueError("weights of different kinds cannot be stacked")
        if len(parts) == 1:
            return parts[0]
        block_rows = parts[0].block[0]
        fits = all(part.block[0] == block_rows for part in parts)
        if not fits or any(part.shape[0] % block_rows for part in parts[:-1]):
            parts, block_rows = [part.by_row() for part in parts], 1
        # torch concatenates bytes, not every float8.
        values = torch.cat([part.values.view(torch.uint8) for part in parts]).view(E4M3)
        return cls(values, torch.cat([part.scales for part in parts]), (block_rows, parts[0].block[1]))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        block_columns = self.block[1]
        values, scales = self.values.float(), self.by_row().scales
        if block_columns is not None:
            scales = scales.repeat_interleave(block_columns, 1)[:, : self.shape[1]]
        return values.mul_(scales).to(dtype)
