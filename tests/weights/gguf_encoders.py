"""Simple encoders of GGUF's K types, which the gguf package only decodes: rows of values to rows of bytes."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def _half(values: Values) -> Bytes:
    return values.astype(np.float16)[:, None].view(np.uint8)


def _divide(a: Values, b: Values) -> Values:
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def _affine(blocks: Values, most: int) -> tuple[Bytes, Bytes]:
    """Header [n, 16] and codes [n, 8, 32] up to `most` of Q4_K and Q5_K: value = d · scale · code - dmin · min."""
    runs = blocks.reshape(-1, 8, 32)
    least = np.maximum(-runs.min(-1), 0)
    steps = (runs.max(-1) + least) / most
    d, dmin = (each.max(-1) / 63 for each in (steps, least))
    d, dmin = d.astype(np.float16).astype(np.float32), dmin.astype(np.float16).astype(np.float32)
    scales = np.clip(np.rint(_divide(steps, d[:, None] + 0 * steps)), 0, 63).astype(np.uint8)
    mins = np.clip(np.rint(_divide(least, dmin[:, None] + 0 * least)), 0, 63).astype(np.uint8)
    step = (d[:, None] * scales)[..., None] + np.zeros_like(runs)
    codes = np.clip(np.rint(_divide(runs + (dmin[:, None] * mins)[..., None], step)), 0, most).astype(np.uint8)
    packed = np.empty((len(runs), 12), np.uint8)
    packed[:, :4] = scales[:, :4] | scales[:, 4:] >> 4 << 6
    packed[:, 4:8] = mins[:, :4] | mins[:, 4:] >> 4 << 6
    packed[:, 8:] = scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4
    return np.concatenate((_half(d), _half(dmin), packed), 1), codes


def _nibbles(codes: Bytes) -> Bytes:
    """[n, 2 k, w] -> [n, k · w]: runs in pairs, the second in the upper nibbles."""
    return (codes[:, ::2] & 15 | (codes[:, 1::2] & 15) << 4).reshape(len(codes), -1)


def q4_k(blocks: Values) -> Bytes:
    header, codes = _affine(blocks, 15)
    return np.concatenate((header, _nibbles(codes)), 1)


def q5_k(blocks: Values) -> Bytes:
    header, codes = _affine(blocks, 31)
    fifth = np.zeros((len(codes), 32), np.uint8)
    for run in range(8):
        fifth |= (codes[:, run] >> 4) << run
    return np.concatenate((header, fifth, _nibbles(codes)), 1)


def q6_k(blocks: Values) -> Bytes:
    runs = blocks.reshape(-1, 16, 16)
    steps = np.abs(runs).max(-1) / 31
    d = (steps.max(-1) / 127).astype(np.float16).astype(np.float32)
    scales = np.clip(np.rint(_divide(steps, d[:, None] + 0 * steps)), 0, 127).astype(np.int8)
    step = (d[:, None] * scales)[..., None] + np.zeros_like(runs)
    codes = (np.clip(np.rint(_divide(runs, step)), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = (codes[:, :, :2] & 15 | (codes[:, :, 2:] & 15) << 4).reshape(-1, 128)
    high = sum((codes[:, :, run] >> 4) << 2 * run for run in range(4)).astype(np.uint8).reshape(-1, 64)
    return np.concatenate((low, high, scales.view(np.uint8), _half(d)), 1)


ENCODERS: dict[str, Callable[[Values], Bytes]] = {"Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}


def encode(values: Values, name: str) -> NDArray:
    """Rows [O, I] in type `name`: bytes [O, b], or the values themselves for F32 and F16."""
    kind = gguf.GGMLQuantizationType[name]
    if name not in ENCODERS:
        return gguf.quants.quantize(values, kind)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = ENCODERS[name](np.ascontiguousarray(values, np.float32).reshape(-1, elements))
    assert blocks.shape[1] == size
    return blocks.reshape(len(values), -1)


def decode(rows: NDArray, name: str) -> Values:
    """What `encode` keeps of the values, by the gguf package."""
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name])
