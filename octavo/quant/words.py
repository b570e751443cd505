"""Small whole numbers packed into 32-bit words, the first in the lowest bits."""

from __future__ import annotations

import torch
from torch import Tensor


def nibbles(words: Tensor) -> Tensor:
    """[R, n] int32 -> [R, 8 n] uint8, 0..15."""
    packed = octets(words)
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


def octets(words: Tensor) -> Tensor:
    """[R, n] int32 -> [R, 4 n] uint8."""
    return words.contiguous().view(torch.uint8)


def unpack(words: Tensor, bits: int) -> Tensor:
    """[R, n] int32 -> [R, n · 32 / bits] uint8, for 4 and 8 bits."""
    return nibbles(words) if bits == 4 else octets(words)
