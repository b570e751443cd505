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

import octavo
from octavo.attention.backend import create
from octavo.checkpoint import Checkpoint
from octavo.models.config import HFConfig
from octavo.models.registry import spec_for
from octavo.platforms import native

from . import bits
from .bits import WEIGHTS, answers, ask, open_llm, prompts
from .test_families import FAMILIES, reference_model

if native.library is None:
    pytest.skip(f"torch's products depend on the batch: {native.missing}", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3")
    reference_model(FAMILIES["qwen3"], path)
    return path


@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_answer_has_the_same_bits_in_every_schedule(folder: Path, weights: str) -> None:
    options = WEIGHTS[weights]
    together = answers(folder, prompts(), **options)
    with open_llm(folder, enable_prefix_caching=False, **options) as llm:
        assert [ask(llm, [prompt])[0] for prompt in prompts()[1:4]] == together[1:4], "alone"
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


def test_an_answer_has_the_same_bits_on_any_number_of_threads(folder: Path) -> None:
    paths = [str(Path(octavo.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = []
    for threads in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-P", bits.__file__, str(folder), "bfloat16", "int8 with int8 KV", "int4"],
            env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert child.returncode == 0, child.stderr[-2000:]
        found.append(json.loads(child.stdout.splitlines()[-1]))
    for kind, expected in found[0].items():
        assert found[1][kind] == expected, kind
