"""What the device can do: the limits that the other parts' rows are fractions of."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gpu.rows import Row, Scene


def copy_bytes_s(scene: Scene) -> float:
    """Bytes read and written per second by a copy between two buffers that no cache holds."""
    count = scene.pick(2**32, 2**20)
    source = torch.ones(count, dtype=torch.uint8, device=scene.device)
    target = torch.empty_like(source)
    return 2 * count / scene.time(lambda _: target.copy_(source))


def matrix_flops(scene: Scene) -> float:
    """Operations per second of a bfloat16 product of square matrices of random numbers."""
    size = scene.pick(8192, 64)
    a, b = (torch.randn(size, size, device=scene.device).bfloat16() for _ in range(2))
    return 2 * size**3 / scene.time(lambda _: a @ b)


def measure(scene: Scene) -> Iterator[Row]:
    """Both limits."""
    yield Row("copy, read + written", scene.copy_bytes_s / 1e9, "GB/s")
    yield Row("product, bfloat16", scene.matrix_flops / 1e12, "TFLOP/s")
