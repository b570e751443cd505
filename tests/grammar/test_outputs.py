"""R77: what a model that knows nothing says under a constraint is valid, or was cut off and says so."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from octavo import LLM, AsyncLLM, RequestOutputKind, SamplingParams

from .constraints import CASES, Case

MAX_TOKENS = 120
# Room for a few sequences only: the others are preempted, again and again.
CRAMPED = {"kv_cache_memory_bytes": 2**12, "block_size": 16, "max_num_seqs": 16, "max_model_len": 256}


def asked(rounds: int, offset: int = 0) -> list[tuple[Case, SamplingParams]]:
    """Every case in turn, each time with another seed."""
    return [
        (case, SamplingParams(temperature=1.0, max_tokens=MAX_TOKENS, seed=offset + i, structured_outputs=case.wanted))
        for i, case in enumerate(itertools.islice(itertools.cycle(CASES), rounds))
    ]


def judge(case: Case, text: str, finish_reason: str | None, wrong: list[tuple[str, str, str]]) -> str:
    """Count an output: whole ones must be valid, others must say that they were cut off."""
    if finish_reason == "stop" and not case.is_valid(text):
        wrong.append((case.name, finish_reason, text))
    elif finish_reason not in ("stop", "length"):
        wrong.append((case.name, str(finish_reason), text))
    return f"{case.name} {finish_reason}"


def check_batched(llm: LLM, rounds: int, offset: int = 0) -> Counter[str]:
    """All at once."""
    wanted = asked(rounds, offset)
    outputs = llm.generate([f"Say {i}:" for i in range(rounds)], [params for _, params in wanted], use_tqdm=False)
    wrong: list[tuple[str, str, str]] = []
    ends = Counter(
        judge(case, output.outputs[0].text, output.outputs[0].finish_reason, wrong)
        for (case, _), output in zip(wanted, outputs, strict=True)
    )
    assert not wrong, wrong[:5]
    return ends


async def check_streamed(device: str, rounds: int) -> Counter[str]:
    """Many at a time, as they grow."""
    llm = AsyncLLM.launch(device=device)
    wrong: list[tuple[str, str, str]] = []
    ends: Counter[str] = Counter()
    gate = asyncio.Semaphore(24)

    async def one(i: int, case: Case, params: SamplingParams) -> None:
        params.output_kind = RequestOutputKind.DELTA
        parts, reason = [], None
        async with gate:
            async for output in llm.generate(f"Tell {i}:", params):
                parts.append(output.outputs[0].text)
                reason = output.outputs[0].finish_reason
        ends[judge(case, "".join(parts), reason, wrong)] += 1

    try:
        await llm.ready()
        await asyncio.gather(*(one(i, *each) for i, each in enumerate(asked(rounds, 10_000))))
    finally:
        await llm.shutdown()
    assert not wrong, wrong[:5]
    return ends


@pytest.fixture(scope="module")
def monkey() -> Iterator[LLM]:
    """A device that picks any allowed token, with little memory."""
    llm = LLM(device="fake", **CRAMPED)
    yield llm
    llm.shutdown()


def test_whatever_a_device_picks_among_allowed_tokens_is_valid_though_it_is_preempted(monkey):
    ends = check_batched(monkey, 9 * len(CASES))
    assert monkey.get_metrics().preemptions > 10
    # A device that cannot end, or a constraint that always cuts off, would prove nothing.
    assert {end.split()[0] for end in ends if end.endswith("stop")} >= {case.name for case in CASES} - {
        "object",
        "tags",
    }


def test_streamed_answers_of_the_real_model_are_valid():
    ends = asyncio.run(check_streamed("cpu", 2 * len(CASES)))
    assert sum(count for end, count in ends.items() if end.endswith("stop")) > len(CASES)


@pytest.mark.slow
def test_two_thousand_constrained_answers_are_valid(monkey):
    ends = check_batched(monkey, 800, 1000)
    llm = LLM(device="cpu", max_num_seqs=32)
    try:
        ends += check_batched(llm, 700, 5000)
    finally:
        llm.shutdown()
    ends += asyncio.run(check_streamed("cpu", 500))
    assert ends.total() == 2000
    print(sorted(ends.items()))
