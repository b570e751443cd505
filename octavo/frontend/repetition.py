"""Notices when an output has begun to repeat itself."""

from __future__ import annotations

import numpy as np

from octavo.sampling import RepetitionDetectionParams


class Repetition:
    """Whether the last tokens are one pattern several times over, asked token by token.

    For every size p it counts how many tokens in a row equal the one p places before: `count` patterns of size p are
    there when that is (count - 1) * p. A token costs one comparison with the last `max_pattern_size` ones.
    """

    def __init__(self, params: RepetitionDetectionParams) -> None:
        sizes = np.arange(1, params.max_pattern_size + 1)
        self._needed = sizes * (params.min_count - 1)
        self._needed[: max(params.min_pattern_size, 1) - 1] = np.iinfo(np.int64).max
        self._runs = np.zeros(len(sizes), np.int64)
        self._recent = np.full(2 * len(sizes), -1, np.int64)  # twice, so that the newest are always one slice
        self._at = 0

    def push(self, token: int) -> bool:
        """Take in a token; whether a pattern has come often enough with it."""
        size = len(self._runs)
        # recent[at + k] is the token k + 1 places back
        equal = self._recent[self._at : self._at + size] == token
        self._runs += 1
        self._runs *= equal
        self._at = (self._at - 1) % size
        self._recent[self._at] = self._recent[self._at + size] = token
        return bool((self._runs >= self._needed).any())
