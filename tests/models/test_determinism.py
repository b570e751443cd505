"""On a CPU an answer has the same bits whatever the batch, the chunks, the threads, prefix hits and preemption."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.attention.backend import create
from octavo.checkpoint import POCKET, Checkpoint
from octavo.models.config import HFConfig
from octavo.models.registry import spec_for
from octavo.platforms import native

from .test_families import FAMILIES, reference_model

if native.library is None:
    pytest.skip(f"torch's products depend on the batch: {native.missing}", allow_module_level=True)

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


def answers(folder: Path, given: list[list[int]], rounds: int = 1, **options: object) -> list[Bits]:
    with LLM(str(folder), tokenizer=str(POCKET), use_tqdm_on_load=False, max_model_len=128, **options) as llm:
        requests = [{"prompt_token_ids": ids} for ids in given]
        for _ in range(rounds):
            outputs = llm.generate(requests, SamplingParams(**PARAMS), use_tqdm=False)
    found: list[Bits] = []
    for output in outputs:
        one = output.outputs[0]
        told = [tuple(sorted((id, each.logprob) for id, each in step.items())) for step in one.logprobs]
        found.append(list(zip(one.token_ids, told, strict=True)))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3")
    reference_model(FAMILIES["qwen3"], path)
    return path


@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_answer_has_the_same_bits_in_every_schedule(folder: Path, weights: str) -> None:
    options = WEIGHTS[weights]
    together = answers(folder, prompts(), **options)
    assert [answers(folder, [prompt], **options)[0] for prompt in prompts()[1:4]] == together[1:4], "alone"
    chunked = answers(folder, prompts(), max_num_batched_tokens=7, max_num_seqs=5, **options)
    assert chunked == together, "prompts in chunks of at most 7 tokens"
    again = answers(folder, prompts(), rounds=2, enable_prefix_caching=True, **options)
    assert again == together, "prefixes found in the cache"
    tight = answers(folder, prompts(), max_num_seqs=4, kv_cache_memory_bytes=kv_bytes(folder, 9, options), **options)
    assert tight == together, "preempted"


def kv_bytes(folder: Path, pages: int, options: dict[str, object]) -> int:
    """What `pages` pages of 16 tokens take."""
    name = options.get("kv_cache_dtype") or ("float32" if options["dtype"] == "float32" else "bfloat16")
    dtype = getattr(torch, str(name))
    caches = spec_for(HFConfig(Checkpoint.resolve(str(folder)).config)).caches
    shapes = [create("cpu").cache_shape(cache, pages, 16, dtype) for cache in caches]
    return dtype.itemsize * sum(math.prod(shape) for shape in shapes)


CHILD = """
import json, sys
from pathlib import Path
sys.path.append({root!r})  # for the tests alone: octavo is the one that is installed
from tests.models.test_determinism import answers, prompts, WEIGHTS
print(json.dumps(answers(Path({folder!r}), prompts(), **WEIGHTS[{weights!r}])))
"""


@pytest.mark.parametrize("weights", ["bfloat16", "int8 with int8 KV", "int4"])
def test_an_answer_has_the_same_bits_on_any_number_of_threads(folder: Path, weights: str) -> None:
    root = str(Path(__file__).resolve().parents[2])
    code = CHILD.format(root=root, folder=str(folder), weights=weights)
    found = []
    for threads in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert child.returncode == 0, child.stderr[-2000:]
        found.append(json.loads(child.stdout.splitlines()[-1]))
    assert found[0] == found[1]
