"""Memory that is refused at any named site ends one request, and nothing is left of it (R26)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from octavo import AsyncLLM, RequestOutputKind, SamplingParams
from octavo.engine.executors.fake import FakeExecutor, FakeOptions, FakeStep, reference
from octavo.errors import OctavoError
from octavo.frontend import prompts, rendering
from octavo.frontend.detokenizer import Detokenizer, StopStrings
from octavo.frontend.inputs import InputProcessor
from octavo.frontend.output import OutputProcessor, RequestState, SequenceOutput
from octavo.frontend.tokenizer import Tokenizer
from octavo.messages import SequenceSpec, pack_ids
from octavo.scheduling import scheduler as scheduling

from ..embedded import VOCAB_SIZE
from ..simulator import Machine, Simulator, check_tokens
from .test_core_failures import some_specs

FRONTEND = [
    (Tokenizer, "encode"), (Tokenizer, "encode_chat"), (InputProcessor, "ids"), (InputProcessor, "build"),
    (rendering, "_frame"), (prompts.Prompts, "tokens"), (OutputProcessor, "open"), (RequestState, "push"),
    (RequestState, "output"), (SequenceOutput, "push"), (SequenceOutput, "take"), (Detokenizer, "push"),
    (Detokenizer, "finish"), (StopStrings, "push"),
]  # fmt: skip
CORE = [(scheduling, "make_sequence"), (FakeExecutor, "launch"), (FakeStep, "sample"), (FakeStep, "result")]


class Sites:
    """Counts the calls of some functions, and refuses memory to one of them."""

    def __init__(self, fails_at: int) -> None:
        self.calls = 0
        self.fails_at = fails_at
        self.failed: str | None = None

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self.fails_at:
                self.failed = name
                raise MemoryError
            return function(*args, **named)

        return call


@contextmanager
def failing(sites: list[tuple[Any, str]], at: int) -> Iterator[Sites]:
    with pytest.MonkeyPatch.context() as patch:
        counter = Sites(at)
        for owner, name in sites:
            patch.setattr(owner, name, counter.wrap(f"{owner.__name__}.{name}", getattr(owner, name)))
        yield counter


def expected(prompt: list[int], count: int) -> list[int]:
    sampling = SamplingParams(temperature=0, ignore_eos=True)
    return reference(SequenceSpec(0, pack_ids(prompt), sampling, count, seed=0), VOCAB_SIZE, options=FakeOptions())


async def stream(llm: AsyncLLM, prompt: list[int] | str) -> list[int]:
    params = SamplingParams(
        temperature=0, ignore_eos=True, max_tokens=5, stop="\0", output_kind=RequestOutputKind.DELTA
    )
    return [id async for output in llm.generate(prompt, params) for id in output.outputs[0].token_ids]


async def chat(llm: AsyncLLM) -> list[int]:
    prompt = await llm.prompt([{"role": "user", "content": "hello"}])
    params = SamplingParams(temperature=0, max_tokens=3, n=1, output_kind=RequestOutputKind.FINAL_ONLY)
    return [id async for output in llm.generate(prompt, params) for id in output.outputs[0].token_ids]


def test_the_frontend_loses_one_request_at_most_wherever_memory_ends() -> None:
    async def main() -> None:
        llm = AsyncLLM.launch(device="fake")
        try:
            await llm.ready()
            text = "hello world"
            wanted = [expected(llm.tokenizer.encode(text), 5), expected([8] * 20, 5), await chat(llm)]

            async def failed(site: tuple[Any, str], at: int) -> bool:
                with failing([site], at) as sites:
                    work = (stream(llm, text), stream(llm, [8] * 20), chat(llm))
                    found = await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 20)
                lost = [result for result in found if isinstance(result, BaseException)]
                assert len(lost) <= (sites.failed is not None)
                assert all(isinstance(error, MemoryError | OctavoError) for error in lost)
                assert all(got == want for got, want in zip(found, wanted, strict=True) if isinstance(got, list))
                assert llm.num_open == 0
                return sites.failed is not None

            for site in FRONTEND:
                at = 1
                while await failed(site, at):
                    at += 1
                assert at > 1, site
            assert llm.is_healthy
            assert llm.supervisor.restarts == 0
            while (stats := await llm.stats()).running or stats.waiting:
                await asyncio.sleep(0.01)
            assert stats.pages_free == stats.pages_total
        finally:
            await llm.shutdown()

    asyncio.run(main())


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_the_core_loses_one_sequence_at_most_wherever_memory_ends(steps_in_flight: int) -> None:
    at, met = 0, set[str]()
    while True:
        at += 1
        simulator = Simulator(Machine(steps_in_flight=steps_in_flight))
        specs = some_specs(4)
        with failing(CORE, at) as sites:
            simulator.add(*specs)
            simulator.run()
        lost = [one for one in specs if simulator.finished[one.id].reason == "error"]
        assert len(lost) <= (sites.failed == f"{scheduling.__name__}.make_sequence")
        check_tokens(simulator, [one for one in specs if one not in lost])
        simulator.check_idle()
        if sites.failed is None:
            break
        met.add(sites.failed)
    assert at > 20
    assert len(met) == len(CORE)
