"""Quantized checkpoints from a folder to tokens: a model computes with them what it computes with their values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from octavo import LLM, SamplingParams
from octavo.checkpoint import POCKET
from octavo.errors import StartupError

from ..embedded import VOCAB_SIZE
from . import encoders
from .encoders import Encoded

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 128, 256, 4, 2, 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 128, "torch_dtype": "float32", "eos_token_id": 2,
}  # fmt: skip
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip
GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}}
METHODS = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, lambda o, i, s: encoders.gptq(o, i, 64, False, seed=s)),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, lambda o, i, s: encoders.awq(o, i, 64, seed=s)),
    "packed": (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": GROUP}},
        lambda o, i, s: encoders.pack_quantized(o, i, 64, True, seed=s),
    ),
    "int8": ({"quant_method": "compressed-tensors"}, lambda o, i, s: encoders.int_quantized(o, i, seed=s)),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        lambda o, i, s: encoders.float8(o, i, (128, 128), "weight_scale_inv", seed=s),
    ),
}  # fmt: skip


def shrunk(encoded: Encoded) -> Encoded:
    """The same with scales that keep a model's activations in bounds."""
    by = 2.0 ** -round(float(encoded.values.std().log2()) + 4)
    scales = {name: tensor * by for name, tensor in encoded.tensors.items() if "scale" in name}
    return Encoded({**encoded.tensors, **scales}, encoded.values * by)


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, object]) -> Path:
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((POCKET / name).read_bytes())
    return folder


def checkpoints(folder: Path, method: str) -> tuple[Path, Path]:
    """A quantized checkpoint, its head left out, and the dense one of the same values."""
    config, encode = METHODS[method]
    draw = torch.Generator().manual_seed(5)
    shared = {
        name: torch.randn(VOCAB_SIZE, HIDDEN, generator=draw)
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    norms = [
        f"model.layers.{i}.{name}" for i in range(LAYERS) for name in ("input_layernorm", "post_attention_layernorm")
    ]
    shared |= {f"{name}.weight": torch.ones(HIDDEN) for name in (*norms, "model.norm")}
    quantized, dense = dict(shared), dict(shared)
    for layer in range(LAYERS):
        for number, (module, shape) in enumerate(MODULES.items()):
            encoded = shrunk(encode(*shape, 10 * layer + number))
            name = f"model.layers.{layer}.{module}"
            quantized |= {f"{name}.{suffix}": tensor for suffix, tensor in encoded.tensors.items()}
            dense[f"{name}.weight"] = encoded.values.float()
    return (
        write(folder / "quantized", quantized, {**CONFIG, "quantization_config": config}),
        write(folder / "dense", dense, CONFIG),
    )


def prompt_logprobs(model: Path, **options: object) -> Tensor:
    """Log-probabilities of 40 tokens, each given those before it."""
    with LLM(str(model), device="cpu", max_model_len=64, **options) as llm:
        prompt = {"prompt_token_ids": list(range(100, 140))}
        output = llm.generate([prompt], SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)[0]
        return torch.tensor([told[100 + i].logprob for i, told in enumerate(output.prompt_logprobs) if told])


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_model_computes_with_its_values(method: str, tmp_path: Path, caplog) -> None:
    quantized, dense = checkpoints(tmp_path, method)
    expected = prompt_logprobs(dense, kv_cache_dtype="float32")
    found = prompt_logprobs(quantized, kv_cache_dtype="float32", int4_activations="bfloat16")
    # Activations are rounded on the way: to eight bits for int8 weights, to bfloat16 for int4 ones.
    assert (found - expected).abs().mean() < (0.02 if method != "int8" else 0.05) * expected.std()
    assert "not used" not in caplog.text
    assert ("no kernel for fp8 weights on this device: they are dequantized" in caplog.text) == (method == "fp8")


def test_a_rounded_kv_cache_changes_little_and_formats_it_cannot_have_are_refused(tmp_path: Path) -> None:
    _, dense = checkpoints(tmp_path, "awq")
    expected = prompt_logprobs(dense, kv_cache_dtype="float32")
    for kind in ("bfloat16", "int8"):
        off = (prompt_logprobs(dense, kv_cache_dtype=kind) - expected).abs().mean() / expected.std()
        assert 0 < off < 0.05
    with pytest.raises(StartupError, match="kv_cache_dtype=float16 is not possible here"):
        prompt_logprobs(dense, kv_cache_dtype="float16")


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(StartupError, match="cpu_threads=4096 is more than the"):
        LLM(device="cpu", cpu_threads=4096)
