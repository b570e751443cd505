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
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3 whose matrices are Q8_0."""
    return write(tmp_path_factory.mktemp("gguf"), "Q8_0")[1]


def write(folder: Path, kind: str) -> tuple[transformers.PreTrainedModel, Path]:
    model = reference_model(Model("Qwen3", OPTIONS), folder)
    write_gguf(model, folder / "tiny.gguf", lambda name: kind, vocabulary=True)
    return model, folder / "tiny.gguf"


# Native kernels round activations to eight bits before they multiply them with blocks.
@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 1e-3), ("BF16", 5e-2), ("Q8_0", 0.25), ("Q4_K", 0.25)])
def test_an_llm_gives_its_tokens_the_log_probabilities_of_transformers(
    kind: str, tolerance: float, tmp_path: Path
) -> None:
    model, path = write(tmp_path, kind)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=1)
    with LLM(str(path), dtype="float32", **QUIET) as llm:
        assert llm.model_name == str(path)
        request = llm.generate("hello wide world.", params, use_tqdm=False)[0]
    prompt, output = request.prompt_token_ids, request.outputs[0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + list(output.token_ids)])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)
    for place, id in enumerate(output.token_ids):
        assert abs(output.logprobs[place][id].logprob - float(expected[place, id])) < tolerance
        assert expected[place].max() - expected[place, id] < tolerance


def test_a_chat_uses_the_files_template_and_end_token(path: Path) -> None:
    with LLM(str(path), dtype="float32", **QUIET) as llm:
        tokenizer = llm.get_tokenizer()
        output = llm.chat([{"role": "user", "content": "he"}], SamplingParams(max_tokens=2), use_tqdm=False)[0]
        assert tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False) == "he<|im_end|>a"
        assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_command_line_takes_the_file(path: Path, tmp_path: Path) -> None:
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
