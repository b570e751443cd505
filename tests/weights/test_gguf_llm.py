"""A GGUF file as the user gives it to LLM and the command line: all of the model comes from it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import octavo
from octavo import LLM, SamplingParams

from ..models.test_families import FAMILIES, reference_model
from ..models.test_families import Family as Model
from .gguf_models import write_gguf

ROOT = Path(octavo.__file__).parent.parent
OPTIONS = {
    **FAMILIES["qwen3"].options, "hidden_size": 256, "intermediate_size": 512, "head_dim": 32, "num_attention_heads": 8,
    "tie_word_embeddings": True, "attention_bias": False,
}  # fmt: skip
QUIET = {"use_tqdm_on_load": False, "max_model_len": 64, "kv_cache_memory_bytes": 2**22}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[transformers.PreTrainedModel, Path]:
    """A small Qwen3 whose matrices are Q8_0, and its file."""
    folder = tmp_path_factory.mktemp("gguf")
    model = reference_model(Model("Qwen3", OPTIONS), folder)
    path = folder / "tiny.gguf"
    write_gguf(model, path, lambda name: "Q8_0", vocabulary=True)
    return model, path


def greedy(model: transformers.PreTrainedModel, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """Transformers' greedy continuation, and by how much each token won."""
    margins: list[float] = []
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            top = model(torch.tensor([ids])).logits[0, -1].topk(2)
        ids.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
    return ids[-count:], margins


def test_an_llm_continues_as_transformers_does(reference: tuple[transformers.PreTrainedModel, Path]) -> None:
    model, path = reference
    with LLM(str(path), dtype="float32", **QUIET) as llm:
        assert llm.model_name == str(path)
        ids = llm.get_tokenizer().encode("hello wide world.")
        params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
        output = llm.generate("hello wide world.", params, use_tqdm=False)[0]
    expected, margins = greedy(model, ids, 20)
    clear = next((i for i, margin in enumerate(margins) if margin < 1e-2), 20)
    assert clear > 3
    assert list(output.outputs[0].token_ids)[:clear] == expected[:clear]


def test_a_chat_uses_the_files_template_and_end_token(reference: tuple[transformers.PreTrainedModel, Path]) -> None:
    _, path = reference
    with LLM(str(path), dtype="float32", **QUIET) as llm:
        tokenizer = llm.get_tokenizer()
        output = llm.chat([{"role": "user", "content": "he"}], SamplingParams(max_tokens=2), use_tqdm=False)[0]
        assert tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False) == "he<|im_end|>a"
        assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_command_line_takes_the_file(reference: tuple[transformers.PreTrainedModel, Path], tmp_path: Path) -> None:
    _, path = reference
    command = [sys.executable, "-m", "octavo", "complete", str(path), "-q", "hello", "--max-tokens", "4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command += ["--max-model-len", "64", "--kv-cache-memory-bytes", str(2**22)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    path.with_name("cut.gguf").write_bytes(path.read_bytes()[:5000])
    command[4] = str(path.with_name("cut.gguf"))
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "cut.gguf is no valid GGUF file" in done.stderr.splitlines()[-1]
