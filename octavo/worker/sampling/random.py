"""Counter-based random numbers: one uniform per (seed, position, stream), whatever else is in the batch (R67)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Philox4x32-10: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3",
# doi:10.1145/2063384.2063405, and the known-answer vectors of their Random123 library.
MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)
ROUNDS = 10


def philox(counters: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Four random 32-bit words for each counter [4, n] under each key [2, n]; every word sits in a uint64."""
    even, odd = counters[0::2], counters[1::2]  # words 0, 2 are multiplied; 1, 3 are mixed in
    for turn in range(ROUNDS):
        product = even * MULTIPLIERS
        round_key = (keys + WEYL * np.uint64(turn)) & LOW
        even = (product >> WORD)[::-1] ^ odd ^ round_key
        odd = (product & LOW)[::-1]
    return np.stack((even[0], odd[0], even[1], odd[1]))


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.int64], stream: int = 0) -> NDArray[np.float64]:
    """One float64 in [0, 1) with 53 random bits for each seed and position [n].

    `stream` separates draws for different purposes at one position.
    """
    seed, position = seeds.astype(np.uint64), positions.astype(np.uint64)
    keys = np.stack((seed & LOW, seed >> WORD))
    zeros = np.zeros_like(position)
    words = philox(np.stack((position & LOW, position >> WORD, zeros + np.uint64(stream), zeros)), keys)
    bits = (words[0] << WORD | words[1]) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53
