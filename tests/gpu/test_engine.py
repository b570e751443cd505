"""Whole models on the GPU: beside Transformers, recorded steps beside eager ones, two steps in flight beside one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.checkpoint import POCKET

from ..models.test_families import FAMILIES, expected_log_probs, reference_model

pytestmark = pytest.mark.gpu

CHOSEN = [
    "llama", "llama3", "mistral", "qwen2-windows", "qwen3", "gemma2", "gemma3", "phi3-window-partial", "olmo2", "gpt2",
    "gpt_neox", "mixtral-window", "qwen3_moe", "olmoe",
]  # fmt: skip
LENGTHS = (1, 3, 17, 30, 16, 9)
STEPS = 24
# How far log-probabilities may be off: 95 of 100, and in the mean. The others may be where a router chose otherwise.
HALF = {"bfloat16": (0.25, 0.06), "float16": (0.08, 0.03)}


def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(5)
    return [torch.randint(61, (length,), generator=draw).tolist() for length in LENGTHS]


def answers(folder: Path, device: torch.device, params: SamplingParams, **options: Any) -> list[Any]:
    """Every prompt's output, of different lengths, so that the batch shrinks while it runs."""
    each = [
        SamplingParams(**{name: getattr(params, name) for name in ("temperature", "top_p", "seed", "logprobs")},
                       ignore_eos=True, max_tokens=STEPS - 3 * i)
        for i in range(len(LENGTHS))
    ]  # fmt: skip
    made = {"tokenizer": str(POCKET), "device": str(device), "max_model_len": 64, "max_num_seqs": 4}
    with LLM(str(folder), use_tqdm_on_load=False, **(made | options)) as llm:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts()], each, use_tqdm=False)
    return [output.outputs[0] for output in outputs]


GREEDY = SamplingParams(temperature=0, logprobs=0)
DRAWN = SamplingParams(temperature=0.9, top_p=0.9, seed=11)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", CHOSEN)
def test_half_precision_stays_near_transformers(name: str, dtype: str, tmp_path: Path, device: torch.device) -> None:
    reference = reference_model(FAMILIES[name], tmp_path)
    told = answers(tmp_path, device, GREEDY, dtype=dtype)
    reference = reference.to(getattr(torch, dtype)).float()  # the same weights, exact sums
    errors = []
    for prompt, output in zip(prompts(), told, strict=True):
        expected = expected_log_probs(reference, prompt + output.token_ids)[len(prompt) - 1 : -1]
        for i, (id, position) in enumerate(zip(output.token_ids, output.logprobs, strict=True)):
            errors.append(abs(position[id].logprob - expected[i, id].item()))
    most, mean = HALF[dtype]
    assert sorted(errors)[len(errors) * 95 // 100] <= most and sum(errors) / len(errors) <= mean


@pytest.mark.sanitized
@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_replayed_steps_tell_what_eager_ones_do(
    name: str, params: SamplingParams, tmp_path: Path, device: torch.device
) -> None:
    reference_model(FAMILIES[name], tmp_path)
    recorded, eager = (
        answers(tmp_path, device, params, dtype="float32", enforce_eager=is_eager) for is_eager in (False, True)
    )
    for one, other in zip(recorded, eager, strict=True):
        assert one.token_ids == other.token_ids
        for mine, its in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert {id: told.logprob for id, told in mine.items()} == pytest.approx(
                {id: told.logprob for id, told in its.items()}, abs=1e-4
            )


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_two_steps_in_flight_tell_what_one_does(params: SamplingParams, tmp_path: Path, device: torch.device) -> None:
    reference_model(FAMILIES["qwen3"], tmp_path)
    one, two = (answers(tmp_path, device, params, dtype="float32", steps_in_flight=count) for count in (1, 2))
    assert [each.token_ids for each in one] == [each.token_ids for each in two]
