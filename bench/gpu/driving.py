"""Drives an engine turn by turn, so that a step can be timed by itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from octavo import LLM, SamplingParams


def prompt(length: int, vocab_size: int, seed: int) -> list[int]:
    """Random token ids."""
    draw = random.Random(seed)
    return draw.choices(range(16, vocab_size), k=length)


class Rows:
    """Sequences of an engine that decode side by side, for as long as `room` tokens each."""

    def __init__(self, llm: LLM, count: int, context: int, room: int) -> None:
        self._llm = llm
        self._core = llm._core
        params = SamplingParams(max_tokens=room, ignore_eos=True, temperature=0)
        self._ids: list[str] = []
        for row in range(count):
            given = {"prompt_token_ids": prompt(context, llm.info.vocab_size, row)}
            text, ids = llm._inputs.ids(given, False, params)
            request, specs = llm._inputs.build(str(next(llm._requests)), text, ids, params)
            llm._outputs.open(request, specs)
            self._core.add(specs)
            self._ids.append(request.request_id)

    def turn(self) -> int:
        """One turn of the engine; returns how many tokens became known."""
        deltas = self._core.turn()
        self._llm._outputs.push(deltas)
        return sum(len(delta.tokens) for delta in deltas)

    def reach_decoding(self) -> int:
        """Turns until every prompt is computed and every row has told a token; returns the tokens told on the way."""
        scheduler, told = self._core.scheduler, 0
        while scheduler.waiting or any(seq.computed < seq.prompt_len for seq in scheduler.running.values()):
            told += self.turn()
        for _ in range(self._core.steps_in_flight):
            told += self.turn()
        return told

    def end(self) -> None:
        """Forget the sequences."""
        self._core.abort([id for request_id in self._ids for id in self._llm._outputs.close(request_id)])
        while self._core.has_work:
            self._core.turn()


def decode_seconds(
    llm: LLM, rows: int, context: int, warm: int, turns: int, around: Callable[[], None] | None = None
) -> tuple[float, float]:
    """Seconds of one step in which `rows` rows decode, the mean over `turns`; and their mean context then.

    `around` is called once all rows decode, and again behind the last turn.
    """
    group = Rows(llm, rows, context, warm + turns + 16)
    told = group.reach_decoding()
    for _ in range(warm):
        told += group.turn()
    if around is not None:
        around()
    # No waiting for the device here: a step is in flight when the clock starts, and one is when it ends.
    started, before = time.perf_counter(), told
    for _ in range(turns):
        told += group.turn()
    took = time.perf_counter() - started
    if around is not None:
        around()
    group.end()
    steps = (told - before) / rows
    return took / steps, context + (before + told) / 2 / rows


def generate_seconds(llm: LLM, prompts: Sequence[list[int]], outputs: Sequence[int]) -> float:
    """Seconds until every prompt is answered with as many greedy tokens as `outputs` says."""
    params = [SamplingParams(max_tokens=count, ignore_eos=True, temperature=0) for count in outputs]
    started = time.perf_counter()
    answers = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    took = time.perf_counter() - started
    for answer, count in zip(answers, outputs, strict=True):
        told = len(answer.outputs[0].token_ids)
        assert told == count, f"{told} tokens instead of {count}"
    return took
