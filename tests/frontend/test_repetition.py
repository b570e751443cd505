"""Repetition detection says the same as comparing slices."""

from __future__ import annotations

import random

import pytest

from octavo.errors import InvalidRequest
from octavo.frontend.repetition import Repetition
from octavo.sampling import RepetitionDetectionParams, SamplingParams


def repeats(tokens, params):
    low = max(params.min_pattern_size, 1)
    for size in range(low, params.max_pattern_size + 1):
        end = tokens[-size:]
        span = size * params.min_count
        if len(tokens) >= span and tokens[-span:] == end * params.min_count:
            return True
    return False


def test_it_notices_what_comparing_slices_notices():
    draw = random.Random(4)
    seen = 0
    for _ in range(300):
        params = RepetitionDetectionParams(draw.randrange(1, 6), 0, draw.randrange(2, 5))
        params.min_pattern_size = draw.randrange(0, params.max_pattern_size + 1)
        watch, tokens = Repetition(params), []
        for _ in range(40):
            tokens.append(draw.randrange(3))
            expected = repeats(tokens, params)
            assert watch.push(tokens[-1]) == expected, (tokens, params)
            if expected:
                seen += 1
                break
    assert seen > 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_pattern_size": 0, "min_count": 2},
        {"max_pattern_size": 5, "min_count": 1},
        {"max_pattern_size": 5, "min_pattern_size": 6, "min_count": 2},
        {"max_pattern_size": -1, "min_count": 2},
        {"max_pattern_size": 2**31, "min_count": 2},
        {"max_pattern_size": 2.5, "min_count": 2},
        {"nonsense": 1},
        [],
        "often",
    ],
)
def test_numbers_that_describe_no_pattern_are_refused(wrong):
    with pytest.raises(InvalidRequest) as error:
        SamplingParams(repetition_detection=wrong)
    assert error.value.field == "repetition_detection"
