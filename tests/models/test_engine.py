"""Every family through the whole engine, under the worst schedules, against Transformers in float32."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.attention.backend import AttentionBackend, create
from octavo.checkpoint import POCKET, Checkpoint
from octavo.models.config import HFConfig
from octavo.models.registry import spec_for
from octavo.platforms.cpu import CpuPlatform
from octavo.spec import CacheSpec

from .test_families import FAMILIES, expected_log_probs, reference_model

STEPS = 20
CHOSEN = [
    "llama", "llama3", "mistral", "qwen2-windows", "qwen3", "gemma2", "gemma3", "phi3-window-partial", "olmo2", "gpt2",
    "gpt_neox", "mixtral-window", "qwen3_moe", "olmoe",
]  # fmt: skip


def prompts() -> list[list[int]]:
    """Beginnings shared by some, lengths around page borders."""
    draw = torch.Generator().manual_seed(3)
    shared = torch.randint(61, (17,), generator=draw).tolist()
    tails = [torch.randint(61, (n,), generator=draw).tolist() for n in (1, 3, 4, 9, 14, 2)]
    return [shared + tail if i % 2 else tail for i, tail in enumerate(tails)]


def answers(folder: Path, params: SamplingParams, rounds: int = 1, **options: object) -> tuple[list[object], object]:
    """The outputs of the last round, and the engine's counters; the page books must balance after every turn."""
    with LLM(str(folder), tokenizer=str(POCKET), dtype="float32", use_tqdm_on_load=False, **options) as llm:
        core = llm._core
        turn = core.turn

        def checked_turn() -> object:
            deltas = turn()
            assert core.check_books() == []
            return deltas

        core.turn = checked_turn
        for _ in range(rounds):
            outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts()], params, use_tqdm=False)
        return outputs, llm.get_metrics()


@pytest.mark.parametrize("name", CHOSEN)
def test_tokens_and_logprobs_are_transformers_whatever_the_schedule(name: str, tmp_path: Path) -> None:
    reference = reference_model(FAMILIES[name], tmp_path)
    params = SamplingParams(temperature=0, max_tokens=STEPS, logprobs=0, ignore_eos=True)
    roomy, _ = answers(tmp_path, params, max_model_len=64)
    caches = model_caches(tmp_path)
    page_bytes = 4 * sum(math.prod(kv_layout().cache_shape(cache, 1, 4, torch.float32)) for cache in caches)
    hostile, stats = answers(
        tmp_path,
        params,
        rounds=2,
        max_model_len=64,
        block_size=4,
        max_num_batched_tokens=7,
        max_num_seqs=5,
        kv_cache_memory_bytes=24 * page_bytes,
    )
    assert stats.cached_tokens > 0
    assert stats.preemptions > 0 or any(cache.window for cache in caches)  # rows with windows stay small
    for prompt, one, other in zip(prompts(), roomy, hostile, strict=True):
        ids = one.outputs[0].token_ids
        expected = expected_log_probs(reference, prompt + ids)[len(prompt) - 1 : -1]
        top = expected.topk(2).values
        for i, id in enumerate(ids):
            assert id == expected[i].argmax() or top[i, 0] - top[i, 1] < 1e-5
        for output in (one, other):
            assert output.outputs[0].token_ids == ids
            for i, position in enumerate(output.outputs[0].logprobs):
                assert abs(position[ids[i]].logprob - expected[i, ids[i]].item()) <= 1e-4


def model_caches(folder: Path) -> tuple[CacheSpec, ...]:
    """What each layer of the checkpoint keeps per token."""
    return spec_for(HFConfig(Checkpoint.resolve(str(folder)).config)).caches


def kv_layout() -> AttentionBackend:
    """The attention backend that `LLM` takes here."""
    return create(CpuPlatform().attention[0])


def test_sampled_tokens_do_not_depend_on_the_schedule_either(tmp_path: Path) -> None:
    reference_model(FAMILIES["qwen3"], tmp_path)
    params = SamplingParams(temperature=0.9, top_p=0.9, top_k=20, seed=5, n=3, max_tokens=STEPS, ignore_eos=True)
    roomy, _ = answers(tmp_path, params, max_model_len=64)
    hostile, _ = answers(
        tmp_path, params, max_model_len=64, block_size=4, max_num_batched_tokens=5, max_num_seqs=4, steps_in_flight=2
    )
    for one, other in zip(roomy, hostile, strict=True):
        assert [o.token_ids for o in one.outputs] == [o.token_ids for o in other.outputs]
        assert len({tuple(o.token_ids) for o in one.outputs}) == 3


def test_prompt_logprobs_are_transformers_in_chunks_and_beside_prefix_hits(tmp_path: Path) -> None:
    reference = reference_model(FAMILIES["gemma2"], tmp_path)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    outputs, _ = answers(tmp_path, params, rounds=2, max_model_len=64, block_size=4, max_num_batched_tokens=5)
    for prompt, output in zip(prompts(), outputs, strict=True):
        expected = expected_log_probs(reference, prompt)
        assert output.prompt_logprobs[0] is None and len(output.prompt_logprobs) == len(prompt)
        for i in range(1, len(prompt)):
            assert abs(output.prompt_logprobs[i][prompt[i]].logprob - expected[i - 1, prompt[i]].item()) <= 1e-4
