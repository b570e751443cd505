"""Tiny weights as each method's tools write them, with their values in float64: from the layouts' definitions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)  # of a word's nibbles, from the lowest


@dataclass(frozen=True)
class Encoded:
    """A module's tensors by their suffix, and what they stand for [O, I]."""

    tensors: dict[str, Tensor]
    values: Tensor


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(codes: Tensor, bits: int) -> Tensor:
    """[R, n] -> [R, ceil(n · bits / 32)] int32, one code after the other, in arithmetic that knows no bytes."""
    count = 32 // bits
    rows = codes.tolist()
    packed = []
    for row in rows:
        row += [0] * (-len(row) % count)
        whole = [
            sum(code << bits * i for i, code in enumerate(row[at : at + count])) for at in range(0, len(row), count)
        ]
        packed.append([word - (1 << 32) if word >= 1 << 31 else word for word in whole])
    return torch.tensor(packed, dtype=torch.int32)


def drawn(rows: int, columns: int, group: int, bits: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes [O, I], scales [O, G] float16, zero points [O, G], and which group each column belongs to [I]."""
    g = random(seed)
    num_groups = -(-columns // group)
    codes = torch.randint(0, 1 << bits, (rows, columns), generator=g)
    scales = (torch.rand((rows, num_groups), generator=g) + 0.1).half()
    zeros = torch.randint(0, 1 << bits, (rows, num_groups), generator=g)
    return codes, scales, zeros, torch.arange(columns) // group


def values(codes: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor) -> Tensor:
    return (codes.double() - zeros[:, group_of].double()) * scales[:, group_of].double()


def gptq(
    rows: int, columns: int, group: int, symmetric: bool, version: int = 1, bits: int = 4, seed: int = 0
) -> Encoded:
    codes, scales, zeros, group_of = drawn(rows, columns, group, bits, seed)
    if symmetric:
        zeros = torch.full_like(zeros, 1 << bits - 1)
    stored = (zeros - (1 if version == 1 else 0)) % (1 << bits)
    tensors = {
        "qweight": words(codes, bits).T.contiguous(),
        "qzeros": words(stored.T, bits),
        "scales": scales.T.contiguous(),
        "g_idx": group_of.int(),
    }
    return Encoded(tensors, values(codes, scales, zeros, group_of))


def awq(rows: int, columns: int, group: int, seed: int = 0) -> Encoded:
    codes, scales, zeros, group_of = drawn(rows, columns, group, 4, seed)

    def interleaved(each: Tensor) -> Tensor:
        return words(each.T.view(each.shape[1], -1, 8)[:, :, AWQ_OUTPUTS].flatten(1), 4)

    tensors = {"qweight": interleaved(codes), "qzeros": interleaved(zeros), "scales": scales.T.contiguous()}
    return Encoded(tensors, values(codes, scales, zeros, group_of))


def int_quantized(rows: int, columns: int, per: str = "channel", seed: int = 0) -> Encoded:
    g = random(seed)
    codes = torch.randint(-128, 128, (rows, columns), generator=g)
    scales = (torch.rand((rows, 1) if per == "channel" else (1,), generator=g) + 0.1).bfloat16()
    return Encoded({"weight": codes.to(torch.int8), "weight_scale": scales}, codes.double() * scales.double())


def pack_quantized(rows: int, columns: int, group: int, symmetric: bool, bits: int = 4, seed: int = 0) -> Encoded:
    codes, scales, zeros, group_of = drawn(rows, columns, group, bits, seed)
    tensors = {
        "weight_packed": words(codes, bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor([rows, columns]),
    }
    if symmetric:
        zeros = torch.full_like(zeros, 1 << bits - 1)
    else:
        tensors["weight_zero_point"] = words(zeros.T, bits).T.contiguous()
    return Encoded(tensors, values(codes, scales, zeros, group_of))


def float8(rows: int, columns: int, block: tuple[int, int] | None, name: str, seed: int = 0) -> Encoded:
    """Values in e4m3, with a scale a block; without blocks one scale a row."""
    g = random(seed)
    numbers = (torch.randn(rows, columns, generator=g) * 100).to(torch.float8_e4m3fn)
    block_rows, block_columns = block or (1, columns)
    scales = torch.rand((-(-rows // block_rows), -(-columns // block_columns)), generator=g) + 0.1
    spread = scales.double().repeat_interleave(block_rows, 0).repeat_interleave(block_columns, 1)[:rows, :columns]
    return Encoded({"weight": numbers, name: scales}, numbers.double() * spread)
