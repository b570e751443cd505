"""Blocks of GGUF: every type decodes bit for bit as the format's own library does, and is cut and stacked by rows."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from octavo.weights import blocks
from octavo.weights.blocks import BLOCK_KINDS, GGUFBlocks
from octavo.weights.weight import Dense


def random_blocks(name: str, num_rows: int, num_blocks: int, seed: int = 0) -> GGUFBlocks:
    """Any bytes at all; scales that are infinite or no numbers among them."""
    generator = torch.Generator().manual_seed(seed)
    kind = BLOCK_KINDS[name]
    return GGUFBlocks(
        torch.randint(256, (num_rows, num_blocks * kind.size), generator=generator, dtype=torch.uint8), kind
    )


def theirs(weight: GGUFBlocks) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(weight.data.numpy(), gguf.GGMLQuantizationType[weight.kind])


def same_bits(ours: Tensor, expected: np.ndarray) -> bool:
    """Whether two float32 arrays are equal bit for bit, but for the payload of NaNs."""
    numbers = ~np.isnan(expected)
    left, right = ours.numpy().view(np.uint32), expected.astype(np.float32).view(np.uint32)
    return np.array_equal(np.isnan(ours.numpy()), ~numbers) and np.array_equal(left[numbers], right[numbers])


@pytest.mark.parametrize("name", [name for name in BLOCK_KINDS if name != "Q8_K"])
@pytest.mark.parametrize(("num_rows", "num_blocks"), [(1, 1), (7, 3), (64, 5)])
def test_random_blocks_decode_bit_for_bit(name: str, num_rows: int, num_blocks: int) -> None:
    weight = random_blocks(name, num_rows, num_blocks)
    assert weight.shape == (num_rows, num_blocks * weight.block.elements)
    assert same_bits(weight.dequantize(), theirs(weight))


def test_q8_k_is_a_float_scale_times_bytes() -> None:
    codes = np.arange(-128, 128, dtype=np.int8)
    block = np.concatenate([np.float32([0.5]).view(np.uint8), codes.view(np.uint8), np.zeros(32, np.uint8)])
    weight = GGUFBlocks(torch.from_numpy(block)[None], BLOCK_KINDS["Q8_K"])
    assert weight.dequantize()[0].tolist() == [code / 2 for code in range(-128, 128)]


def test_known_blocks_decode_to_known_values() -> None:
    half = np.float16([2.0]).view(np.uint8)
    q4_0 = np.concatenate([half, np.full(16, 0x1F, np.uint8)])  # low nibbles 15, high nibbles 1
    values = GGUFBlocks(torch.from_numpy(q4_0)[None], BLOCK_KINDS["Q4_0"]).dequantize()[0]
    assert values.tolist() == [14.0] * 16 + [-14.0] * 16
    q8_0 = np.concatenate([half, np.int8(range(-16, 16)).view(np.uint8)])
    values = GGUFBlocks(torch.from_numpy(q8_0)[None], BLOCK_KINDS["Q8_0"]).dequantize()[0]
    assert values.tolist() == [2.0 * code for code in range(-16, 16)]


@pytest.mark.parametrize("name", BLOCK_KINDS)
def test_rows_and_whole_blocks_of_columns_are_those_of_the_values(name: str) -> None:
    weight = random_blocks(name, 9, 4, seed=1)
    values, step = weight.dequantize().nan_to_num(), weight.block.elements
    assert torch.equal(weight.rows(2, 7).dequantize().nan_to_num(), values[2:7])
    assert torch.equal(weight.columns(step, 3 * step).dequantize().nan_to_num(), values[:, step : 3 * step])
    assert weight.rows(3, 3).dequantize().shape == (0, 4 * step)
    with pytest.raises(ValueError, match=f"cut a {name} block of {step}"):
        weight.columns(0, step + 1)


def test_equal_types_stack_and_others_refuse() -> None:
    a, b = random_blocks("Q4_K", 3, 2), random_blocks("Q4_K", 5, 2, seed=2)
    assert torch.equal(GGUFBlocks.stack([a, b]).data, torch.cat((a.data, b.data)))
    assert GGUFBlocks.stack([a]) is a
    with pytest.raises(ValueError, match="Q4_K, Q6_K"):
        GGUFBlocks.stack([a, random_blocks("Q6_K", 3, 2)])
    with pytest.raises(ValueError, match="different"):
        GGUFBlocks.stack([a, Dense(torch.ones(3, 512))])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_chunks_and_dtypes_round_the_same_values(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_blocks("Q6_K", 50, 2)
    whole = weight.dequantize().to(dtype)
    monkeypatch.setattr(blocks, "CHUNK", 1024)
    assert torch.equal(weight.dequantize(dtype).nan_to_num(), whole.nan_to_num())
