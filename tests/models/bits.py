"""Answers with all of their bits, by a child process too: nothing here imports what an engine does not need."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from octavo import LLM, SamplingParams
from octavo.checkpoint import POCKET

STEPS = 12
PARAMS = {"temperature": 0, "max_tokens": STEPS, "logprobs": 3, "ignore_eos": True}
WEIGHTS: dict[str, dict[str, object]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8 with int8 KV": {"dtype": "bfloat16", "quantization": "int8", "kv_cache_dtype": "int8"},
    "int4": {"dtype": "bfloat16", "quantization": "int4"},
    "int4 with bfloat16 activations": {
        "dtype": "bfloat16", "quantization": "int4", "int4_activations": "bfloat16",
    },
}  # fmt: skip

Bits = list[tuple[int, tuple[tuple[int, float], ...]]]  # per step: the token, and the log-probabilities told


def prompts() -> list[list[int]]:
    """Two share 40 tokens; lengths around tiles, pages and register blocks."""
    draw = torch.Generator().manual_seed(9)
    shared = torch.randint(61, (40,), generator=draw).tolist()
    own = [torch.randint(61, (n,), generator=draw).tolist() for n in (1, 13, 33, 5, 24)]
    return [*own[:3], shared + own[3], shared + own[4]]


def open_llm(folder: Path, **options: object) -> LLM:
    return LLM(str(folder), tokenizer=str(POCKET), use_tqdm_on_load=False, max_model_len=128, **options)


def ask(llm: LLM, given: list[list[int]]) -> list[Bits]:
    """What `llm` answers to these prompts together."""
    requests = [{"prompt_token_ids": ids} for ids in given]
    outputs = llm.generate(requests, SamplingParams(**PARAMS), use_tqdm=False)
    found: list[Bits] = []
    for output in outputs:
        one = output.outputs[0]
        told = [tuple(sorted((id, each.logprob) for id, each in step.items())) for step in one.logprobs]
        found.append(list(zip(one.token_ids, told, strict=True)))
    return found


def answers(folder: Path, given: list[list[int]], rounds: int = 1, **options: object) -> list[Bits]:
    """What an engine of its own answers; of several rounds the last."""
    with open_llm(folder, **options) as llm:
        return [ask(llm, given) for _ in range(rounds)][-1]


if __name__ == "__main__":  # folder, and the kinds of weights
    folder, *kinds = sys.argv[1:]
    print(json.dumps({kind: answers(Path(folder), prompts(), **WEIGHTS[kind]) for kind in kinds}))
