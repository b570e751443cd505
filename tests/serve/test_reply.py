"""A long reply says what a short one would, however it is sliced (R22)."""

from __future__ import annotations

import asyncio
import json
import random

from octavo.serve import reply


def anything(draw: random.Random, level: int = 0) -> object:
    kind = draw.randrange(5 if level < 4 else 3)
    if kind < 3:
        return (draw.random(), draw.choice(["é\n", '"', ""]), None)[kind]
    if kind == 3:
        return [anything(draw, level + 1) for _ in range(draw.choice((0, 1, 3, reply.SLICE + 7)))]
    return {str(i): anything(draw, level + 1) for i in range(draw.randrange(4))}


def test_slices_make_the_same_json(monkeypatch):
    monkeypatch.setattr(reply, "SLICE", 3)
    draw = random.Random(2)
    for _ in range(300):
        value = {"value": anything(draw), "many": [{"a": [i] * i} for i in range(draw.randrange(9))]}
        for num_values in (0, reply.LONG):
            assert json.loads(asyncio.run(reply.written(lambda value=value: value, num_values))) == value


def test_iterators_stand_for_lists():
    for num_values in (0, reply.LONG):
        for count in (0, 1, 200):
            build = lambda count=count: {"a": ({"i": i} for i in range(count)), "b": None}
            found = json.loads(asyncio.run(reply.written(build, num_values)))
            assert found == {"a": [{"i": i} for i in range(count)], "b": None}
