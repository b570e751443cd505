"""Every family on tiny random checkpoints that use its options, against Transformers in float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from octavo.attention import backend
from octavo.checkpoint import Checkpoint
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import spec_for
from octavo.weights.source import TensorSource, open_source

from .harness import Harness, decode

STEPS = 64
PROMPTS = (1, 9, 23)
SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
NO_HEADS = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [1.5, 2.0, 5.0, 9.0],
    "rope_theta": 10000.0,
}
MOE = {"num_experts": 6, "num_experts_per_tok": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500000.0,
}


@dataclass(frozen=True)
class Family:
    """One checkpoint: Transformers' classes and the options to give the config.

    `prompts` are lengths; equal ones where Transformers lets the rotation depend on the length of the whole sequence.
    """

    model: str
    options: Mapping[str, object]
    prompts: tuple[int, ...] = PROMPTS


def family(model: str, prompts: tuple[int, ...] = PROMPTS, **options: object) -> Family:
    return Family(model, {**SMALL, **options}, prompts)


FAMILIES = {
    "llama": family("Llama", tie_word_embeddings=False),
    "llama-tied-biases-wide-heads": family(
        "Llama", tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=12, num_key_value_heads=1
    ),
    "llama-linear": family("Llama", rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    "llama-dynamic": family("Llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
    "llama-dynamic-beyond": family(
        "Llama",
        (9, 9),
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        max_position_embeddings=32,
    ),
    "llama3": family("Llama", rope_parameters=LLAMA3),
    "llama-yarn": family("Llama", rope_parameters=YARN),
    "llama-yarn-factor": family("Llama", rope_parameters={**YARN, "attention_factor": 0.7, "beta_fast": 16.0}),
    "mistral": family("Mistral", sliding_window=7, head_dim=16),
    "mistral-full": family("Mistral", sliding_window=None),
    "qwen2": family("Qwen2", tie_word_embeddings=True),
    "qwen2-windows": family(
        "Qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=1, num_hidden_layers=3
    ),
    "qwen3": family("Qwen3", head_dim=16, attention_bias=True, tie_word_embeddings=True),
    "qwen3-windows": family("Qwen3", head_dim=8, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "gemma2": family(
        "Gemma2",
        head_dim=16,
        sliding_window=6,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=4.0,
        final_logit_softcapping=3.0,
        num_hidden_layers=3,
    ),
    "gemma3": family(
        "Gemma3Text",
        head_dim=16,
        sliding_window=5,
        query_pre_attn_scalar=20,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "phi3": family("Phi3", tie_word_embeddings=False),
    "phi3-window-partial": family(
        "Phi3", sliding_window=11, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}
    ),
    "phi3-longrope-short": family("Phi3", rope_parameters=LONG, original_max_position_embeddings=128),
    "phi3-longrope-beyond": family("Phi3", (23, 23), rope_parameters=LONG, original_max_position_embeddings=32),
    "olmo2": family("Olmo2", attention_bias=True),
    "gpt2": Family(
        "GPT2",
        {"vocab_size": 61, "n_positions": 128, "n_embd": 32, "n_layer": 3, "n_head": 4}
        | {"scale_attn_by_inverse_layer_idx": True, "bos_token_id": None, "eos_token_id": None},
    ),
    "gpt2-untied": Family(
        "GPT2",
        {"vocab_size": 61, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 40}
        | {"tie_word_embeddings": False, "activation_function": "relu", "bos_token_id": None, "eos_token_id": None},
    ),
    "gpt_neox": Family("GPTNeoX", NO_HEADS),
    "gpt_neox-sequential": Family(
        "GPTNeoX",
        NO_HEADS
        | {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 1000.0}},
    ),
    "mixtral": family("Mixtral", num_local_experts=4, num_experts_per_tok=2, head_dim=8),
    "mixtral-window": family("Mixtral", num_local_experts=3, num_experts_per_tok=1, sliding_window=8),
    "qwen3_moe": family(
        "Qwen3Moe",
        **MOE,
        head_dim=16,
        moe_intermediate_size=24,
        norm_topk_prob=True,
        num_hidden_layers=3,
        mlp_only_layers=[1],
    ),
    "qwen3_moe-sparse-step": family(
        "Qwen3Moe", **MOE, head_dim=8, moe_intermediate_size=24, decoder_sparse_step=2, num_hidden_layers=2
    ),
    "olmoe": family("Olmoe", **MOE, clip_qkv=0.8),
    "olmoe-renormalized": family("Olmoe", **MOE, norm_topk_prob=True, tie_word_embeddings=True),
}


def reference_model(chosen: Family, folder: Path) -> transformers.PreTrainedModel:
    """The family's model in Transformers with lively random weights, saved to `folder`."""
    config = getattr(transformers, f"{chosen.model}Config")(**chosen.options)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name or "ln_" in name
            parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5 * 1.5)
            if is_norm and name.endswith("weight"):
                parameter += 1.0
    model.save_pretrained(folder)
    return model


def load(folder: Path, max_length: int, attention: str = "sdpa") -> DecoderModel:
    """octavo's model from a folder; every tensor of the checkpoint must have been read."""
    checkpoint = Checkpoint.resolve(str(folder))
    model = spec_for(HFConfig(checkpoint.config))
    decoder = DecoderModel(model, torch.float32, torch.device("cpu"), backend.create(attention), max_length)
    assert decoder.load(open_source(checkpoint)) == []
    return decoder


def expected_log_probs(model: transformers.PreTrainedModel, tokens: list[int]) -> Tensor:
    """Transformers' log-probabilities [len(tokens), V] from one forward pass."""
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float().log_softmax(-1)


def draw_prompts(lengths: tuple[int, ...]) -> dict[int, list[int]]:
    generator = torch.Generator().manual_seed(1)
    return {row: torch.randint(61, (length,), generator=generator).tolist() for row, length in enumerate(lengths)}


def check(expected: Tensor, logits: Tensor) -> None:
    """Log-probabilities agree within 1e-4, and the greedy token wherever the runner-up is not within 1e-5."""
    actual = logits.log_softmax(-1)
    assert (actual - expected).abs().max() <= 1e-4
    top = expected.topk(2).values
    clear = top[:, 0] - top[:, 1] > 1e-5
    assert torch.equal(actual.argmax(-1)[clear], expected.argmax(-1)[clear])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    chosen = FAMILIES[name]
    reference = reference_model(chosen, tmp_path)
    prompts = draw_prompts(chosen.prompts)
    model = load(tmp_path, max_length=max(chosen.prompts) + STEPS)
    with torch.inference_mode():
        ids, logits = decode(Harness(model, torch.float32), prompts, STEPS + 1)
        whole = {row: prompts[row] + ids[row][:STEPS] for row in prompts}
        expected = {row: expected_log_probs(reference, tokens) for row, tokens in whole.items()}
        assert max(e.std() for e in expected.values()) > 0.3, "the model says nothing"
        for row in prompts:
            check(expected[row], logits[row])
        chunks = Harness(model, torch.float32, page_size=8)
        outs: dict[int, list[Tensor]] = {row: [] for row in whole}
        # Chunks of different sizes, rows entering late: decodes, first and later chunks meet in one step.
        begun = dict.fromkeys(whole, 0)
        for turn in range(200):
            work = {}
            for row, tokens in whole.items():
                size = (13, 1, 30)[(row + turn // 3) % 3]
                if turn >= 2 * row and begun[row] < len(tokens):
                    work[row] = tokens[begun[row] : begun[row] + size]
                    begun[row] += len(work[row])
            if not work:
                break
            for row, out in chunks.step(work).items():
                outs[row].append(out)
        for row in whole:
            check(expected[row], torch.cat(outs[row]))


def test_the_reference_backend_runs_a_model_with_windows_alone(tmp_path: Path) -> None:
    chosen = FAMILIES["gemma2"]
    reference = reference_model(chosen, tmp_path)
    prompts = draw_prompts((9,))
    with torch.inference_mode():
        ids, logits = decode(Harness(load(tmp_path, 128, "reference"), torch.float32), prompts, 20)
    check(expected_log_probs(reference, prompts[0] + ids[0][:19]), logits[0])


RENAMES = {
    "without the root": ("qwen2", lambda name: name.removeprefix("model.")),
    "a multimodal root": ("llama", lambda name: f"language_model.{name}"),
    "gpt2 without the root": ("gpt2", lambda name: name.removeprefix("transformer.")),
    "neox without the root": ("gpt_neox", lambda name: name.removeprefix("gpt_neox.")),
}


@pytest.mark.parametrize("case", RENAMES)
def test_other_roots_of_the_same_names_load_the_same(case: str, tmp_path: Path) -> None:
    name, rename = RENAMES[case]
    reference = reference_model(FAMILIES[name], tmp_path)
    tensors = {rename(key): value for key, value in reference.state_dict().items()}
    config = HFConfig(json.loads((tmp_path / "config.json").read_text()))
    model = DecoderModel(spec_for(config), torch.float32, torch.device("cpu"), backend.create("sdpa"), 64)
    assert model.load(TensorSource(tensors)) == []
    tokens = draw_prompts((12,))[0]
    with torch.inference_mode():
        check(expected_log_probs(reference, tokens), Harness(model, torch.float32).step({0: tokens})[0])


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_experts_held_in_one_tensor_load_the_same(name: str, tmp_path: Path) -> None:
    reference = reference_model(FAMILIES[name], tmp_path)
    tensors = dict(reference.state_dict())
    assert any(key.endswith("experts.gate_up_proj") for key in tensors)
    if name == "mixtral":
        tensors = {key.replace(".mlp.gate.", ".block_sparse_moe.gate."): value for key, value in tensors.items()}
    config = HFConfig(json.loads((tmp_path / "config.json").read_text()))
    model = DecoderModel(spec_for(config), torch.float32, torch.device("cpu"), backend.create("sdpa"), 64)
    assert model.load(TensorSource(tensors)) == []
    tokens = draw_prompts((12,))[0]
    with torch.inference_mode():
        check(expected_log_probs(reference, tokens), Harness(model, torch.float32).step({0: tokens})[0])
