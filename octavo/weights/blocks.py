"""Matrices in GGUF's blocks: raw bytes, cut by rows and blocks, and what they stand for in float32.

Layouts: ggml-org/ggml, src/ggml-common.h. Each decoder takes blocks [n, bytes] uint8 and returns values [n, elements]
float32, rounded as ggml's own scalar code rounds them; f16 fields widen exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from octavo.gguf.file import KINDS, Kind

CHUNK = 1 << 17  # elements decoded at once: temporaries stay in the cache, and bounded

Decoder = Callable[[Tensor], Tensor]

# The sixteen values of ggml's non-linear 4-bit types.
NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class GGUFBlocks:
    """A weight [O, I] in blocks along I: `data` [O, bytes of a row] uint8, possibly a view of the file."""

    data: Tensor
    block: Kind

    @property
    def kind(self) -> str:
        return self.block.name

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.data.shape[1] // self.block.size * self.block.elements

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.data.nbytes

    def rows(self, start: int, stop: int) -> GGUFBlocks:
        return GGUFBlocks(self.data[start:stop], self.block)

    def columns(self, start: int, stop: int) -> GGUFBlocks:
        """Input columns start..stop, which must be multiples of the block's elements."""
        elements = self.block.elements
        if start % elements or stop % elements:
            raise ValueError(f"columns {start} to {stop} cut a {self.kind} block of {elements}")
        return GGUFBlocks(self.data[:, self.block.row_bytes(start) : self.block.row_bytes(stop)], self.block)

    @classmethod
    def stack(cls, parts: Sequence[GGUFBlocks]) -> GGUFBlocks:
        """One weight with the rows of all parts. ValueError when their types differ."""
        names = {part.kind for part in parts if isinstance(part, cls)}
        if len(names) != 1 or not all(isinstance(part, cls) for part in parts):
            raise ValueError(f"weights of different types cannot be stacked: {', '.join(sorted(names))}")
        return parts[0] if len(parts) == 1 else cls(torch.cat([part.data for part in parts]), parts[0].block)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values [O, I], decoded in float32 and rounded to `dtype`."""
        decode = DECODERS[self.kind]
        num_rows, num_columns = self.shape
        out = torch.empty((num_rows, num_columns), dtype=dtype)
        step = max(1, CHUNK // max(1, num_columns))
        for start in range(0, num_rows, step):
            blocks = self.data[start : start + step].reshape(-1, self.block.size)
            out[start : start + step] = decode(blocks).view(-1, num_columns)
        return out


def _half(blocks: Tensor, at: int) -> Tensor:
    """The f16 at byte `at` of each block, as float32 [n, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[…, b] -> […, 2, b]: all low nibbles, then all high ones."""
    return torch.stack((packed & 15, packed >> 4), -2)


def _bits(packed: Tensor) -> Tensor:
    """[n, b] -> [n, 8 b]: bit i of the little-endian number that the bytes are."""
    return (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)


def _signed(packed: Tensor) -> Tensor:
    return packed.contiguous().view(torch.int8)


def _q8_0(blocks: Tensor) -> Tensor:
    return _signed(blocks[:, 2:]) * _half(blocks, 0)


def _q4_0(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 2:]).flatten(1).float() - 8) * _half(blocks, 0)


def _q4_1(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 4:]).flatten(1) * _half(blocks, 0) + _half(blocks, 2)


def _five(blocks: Tensor, at: int) -> Tensor:
    """Five-bit codes [n, 32]: four bytes of fifth bits at `at`, then the nibbles."""
    return _nibbles(blocks[:, at + 4 :]).flatten(1) | _bits(blocks[:, at : at + 4]) << 4


def _q5_0(blocks: Tensor) -> Tensor:
    return (_five(blocks, 2).float() - 16) * _half(blocks, 0)


def _q5_1(blocks: Tensor) -> Tensor:
    return _five(blocks, 4) * _half(blocks, 0) + _half(blocks, 2)


def _iq4_nl(blocks: Tensor) -> Tensor:
    table = torch.tensor(NON_LINEAR, dtype=torch.float32)
    return table[_nibbles(blocks[:, 2:]).flatten(1).int()] * _half(blocks, 0)


def _quarters(packed: Tensor) -> Tensor:
    """Two-bit codes [n, g, 4, 32] of bytes [n, 32 g]: each 32 bytes hold four runs of 32 codes, lowest bits first."""
    return packed.view(len(packed), -1, 1, 32) >> torch.arange(0, 8, 2, dtype=torch.uint8)[:, None] & 3


def _q2_k(blocks: Tensor) -> Tensor:
    scales, codes = blocks[:, :16], _quarters(blocks[:, 16:80].contiguous()).reshape(-1, 16, 16)
    step, least = _half(blocks, 80) * (scales & 15), _half(blocks, 82) * (scales >> 4)
    return (step[:, :, None] * codes - least[:, :, None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    """Codes of three bits minus four, the third bit in a mask; six-bit scales minus 32, two bits of each apart."""
    mask, packed = blocks[:, :32], blocks[:, 96:108]
    third = mask[:, None, :] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    codes = _quarters(blocks[:, 32:96].contiguous()).reshape(-1, 8, 32) | third << 2
    low = _nibbles(packed[:, :8]).flatten(1)
    high = (packed[:, None, 8:] >> torch.arange(0, 8, 2, dtype=torch.uint8)[:, None] & 3).flatten(1)
    scales = (low | high << 4).float() - 32
    step = _half(blocks, 108) * scales
    return (step[:, :, None] * (codes.view(-1, 16, 16).float() - 4)).flatten(1)


def _scales_and_mins(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight six-bit scales and mins of 12 bytes: four of each whole, the upper bits of the others above those."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), 1)
    return scales, torch.cat((second & 63, third >> 4 | second >> 6 << 4), 1)


def _k_affine(blocks: Tensor, codes: Tensor) -> Tensor:
    """Q4_K's and Q5_K's values from their codes [n, 8, 32]."""
    scales, mins = _scales_and_mins(blocks[:, 4:16])
    step, least = _half(blocks, 0) * scales, _half(blocks, 2) * mins
    return (step[:, :, None] * codes - least[:, :, None]).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    return _k_affine(blocks, _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    fifth = blocks[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    return _k_affine(blocks, _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | fifth << 4)


def _q6_k(blocks: Tensor) -> Tensor:
    """Each half of 128 codes: 64 bytes of nibbles (low ones first), 32 bytes of four times two upper bits."""
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    codes = (low | _quarters(blocks[:, 128:192].contiguous()) << 4).view(-1, 16, 16).float() - 32
    step = _half(blocks, 208) * _signed(blocks[:, 192:208])
    return (step[:, :, None] * codes).flatten(1)


def _q8_k(blocks: Tensor) -> Tensor:
    return _signed(blocks[:, 4:260]) * blocks[:, :4].contiguous().view(torch.float32)


def _iq4_xs(blocks: Tensor) -> Tensor:
    """Six-bit scales minus 32 for eight runs of 32 codes: four bits of two scales a byte, two bits of all in a word."""
    low = (blocks[:, 4:8, None] >> torch.tensor((0, 4), dtype=torch.uint8) & 15).flatten(1)
    high = (blocks[:, 2:4, None] >> torch.arange(0, 8, 2, dtype=torch.uint8) & 3).flatten(1)
    step = _half(blocks, 0) * ((low | high << 4).float() - 32)
    table = torch.tensor(NON_LINEAR, dtype=torch.float32)
    codes = _nibbles(blocks[:, 8:].reshape(-1, 8, 16)).reshape(-1, 8, 32)
    return (step[:, :, None] * table[codes.int()]).flatten(1)


DECODERS: Mapping[str, Decoder] = MappingProxyType(
    {
        "Q4_0": _q4_0,
        "Q4_1": _q4_1,
        "Q5_0": _q5_0,
        "Q5_1": _q5_1,
        "Q8_0": _q8_0,
        "Q2_K": _q2_k,
        "Q3_K": _q3_k,
        "Q4_K": _q4_k,
        "Q5_K": _q5_k,
        "Q6_K": _q6_k,
        "Q8_K": _q8_k,
        "IQ4_NL": _iq4_nl,
        "IQ4_XS": _iq4_xs,
    }
)
BLOCK_KINDS: Mapping[str, Kind] = MappingProxyType({k.name: k for k in KINDS.values() if k.name in DECODERS})
