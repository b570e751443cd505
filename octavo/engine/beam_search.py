"""Beam search on a running engine: every step, one more token of every beam."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from octavo.beams import BeamSearchParams
from octavo.engine.async_llm import AsyncLLM
from octavo.frontend.beam import BeamSearch
from octavo.frontend.inputs import Prompt
from octavo.frontend.output import PositionLogprobs, RequestOutput, RequestTimes
from octavo.sampling import SamplingParams


async def beam_search(
    llm: AsyncLLM,
    prompt: Prompt,
    params: BeamSearchParams,
    request_id: str | None = None,
    *,
    priority: int = 0,
    cache_salt: str | None = None,
    add_special_tokens: bool = True,
) -> AsyncGenerator[RequestOutput, None]:
    """The finished search as one output, beams best first. Cancelling it aborts what runs; errors as in `generate`."""
    inputs = await llm.inputs()
    params.check(inputs.limits)
    started = time.monotonic()
    text, ids = inputs.ids(prompt, add_special_tokens)
    name = request_id or uuid.uuid4().hex
    search = BeamSearch(ids, params, inputs.eos_ids, inputs.max_model_len - len(ids), inputs.vocab_size, inputs.limits)
    cached: list[int] = []

    async def step(ids: list[int], one: SamplingParams, id: str) -> PositionLogprobs:
        outputs = llm.generate(
            {"prompt_token_ids": ids}, one, id, priority=priority, cache_salt=cache_salt, trusted=True
        )
        async with aclosing(outputs):
            async for output in outputs:
                cached.append(output.num_cached_tokens)
                told = output.outputs[0].logprobs
                assert told is not None and len(told) == 1, told
                return told[0]
        raise AssertionError("a sequence ended without a token")

    while not search.done:
        one = search.step
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(step(ids, one, f"{name}-{search.num_steps}-{i}"))
                    for i, ids in enumerate(search.prompts())
                ]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        search.advance([task.result() for task in running])
    outputs = search.outputs(llm.tokenizer)
    unseen = search.num_computed - sum(len(output.token_ids) for output in outputs)
    times = RequestTimes(total_s=time.monotonic() - started)
    yield RequestOutput(name, text, ids, outputs, True, None, cached[0], times, max(0, unseen))
