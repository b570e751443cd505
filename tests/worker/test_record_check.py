"""OCTAVO_RECORD_CHECK: every record of real steps agrees with torch, and one that does not is named."""

from __future__ import annotations

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.errors import OctavoError

PROMPTS = ["PagedAttention keeps", "什么是前缀缓存？", "a"]
GREEDY = SamplingParams(temperature=0.0, max_tokens=6)


def texts(**options: str) -> list[str]:
    with LLM(max_model_len=256, kv_cache_memory_bytes=2**22, use_tqdm_on_load=False, **options) as llm:
        return [output.outputs[0].text for output in llm.generate(PROMPTS, GREEDY, use_tqdm=False)]


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "int4"}],
    ids=lambda options: "-".join(options.values()),
)
def test_every_record_of_the_embedded_model_agrees_with_torch(monkeypatch, options):
    monkeypatch.setenv("OCTAVO_RECORD_CHECK", "1")
    assert len(texts(**options)) == len(PROMPTS)


def test_a_record_that_differs_is_named(monkeypatch, caplog):
    monkeypatch.setenv("OCTAVO_RECORD_CHECK", "1")
    with LLM(max_model_len=256, kv_cache_memory_bytes=2**22, use_tqdm_on_load=False, dtype="float32") as llm:
        checks = llm._core.executor._worker.runner.model._checks
        node = next(node for node in checks[0].program.native_nodes if node.name == "linear")
        node.bias = torch.ones(node.out.columns)  # what the reference adds and the record does not
        with pytest.raises(OctavoError):
            llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert "(linear, " in caplog.text and "differs from torch by" in caplog.text
