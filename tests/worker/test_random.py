"""Random numbers: the published vectors, and independence of everything but seed and position."""

import numpy as np
import pytest

from octavo.worker.sampling.random import philox, uniforms

# kat_vectors of Random123: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_reproduces_the_published_vectors(counter, key, words):
    found = philox(np.array([counter], np.uint64).T, np.array([key], np.uint64).T)
    assert found[:, 0].tolist() == list(words)


def test_a_number_depends_on_its_seed_position_and_stream_alone():
    rng = np.random.default_rng(0)
    seeds = rng.integers(-(2**63), 2**63 - 1, 500)
    positions = rng.integers(0, 2**20, 500)
    whole = uniforms(seeds, positions)
    for i in (0, 1, 250, 499):
        assert uniforms(seeds[i : i + 1], positions[i : i + 1])[0] == whole[i]
    order = rng.permutation(500)
    assert (uniforms(seeds[order], positions[order]) == whole[order]).all()
    others = uniforms(seeds, positions + 1), uniforms(seeds + 1, positions), uniforms(seeds, positions, 1)
    assert len(np.unique([whole, *others])) == 2000


def test_numbers_are_uniform_over_positions_and_over_seeds():
    n, bins = 200_000, 100
    for numbers in (uniforms(np.full(n, 7), np.arange(n)), uniforms(np.arange(n), np.full(n, 7))):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = np.bincount((numbers * bins).astype(int), minlength=bins)
        chi_square = ((counts - n / bins) ** 2 / (n / bins)).sum()
        assert chi_square < 161  # p = 1e-4 at 99 degrees of freedom is 161.3
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
