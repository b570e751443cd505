"""GGUF files of Transformers models: what llama.cpp's converter would write, by the gguf package's names and writer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from .gguf_encoders import decode, encode

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "MixtralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "Olmo2ForCausalLM": "olmo2",
    "OlmoeForCausalLM": "olmoe",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gptneox",
}
Choose = Callable[[str], str]  # tensor name in the file -> its type


def write_gguf(
    model: transformers.PreTrainedModel, path: Path, choose: Choose = lambda name: "F32", vocabulary: bool = False
) -> None:
    """Write the model, and round its own parameters to what the file holds.

    A type a matrix cannot have (its rows are no whole blocks) becomes F16, vectors are F32, as in llama.cpp.
    """
    architecture = ARCHITECTURES[type(model).__name__]
    writer = gguf.GGUFWriter(path, architecture)
    write_settings(writer, architecture, model.config)
    if vocabulary:
        write_vocabulary(writer, model.config.vocab_size)
    for name, values in rope_factors(architecture, model.config):
        writer.add_tensor(name, values)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    tied = {id(model.get_input_embeddings().weight)} if model.config.tie_word_embeddings else set()
    with torch.no_grad():
        for theirs, parameter in model.named_parameters():
            if theirs.startswith("lm_head") and id(parameter) in tied:
                continue
            for name, rows, values in canonical(theirs, parameter, names):
                kind = fitting(choose(name), rows) if rows.ndim > 1 else "F32"
                encoded = encode(rows.numpy().reshape(-1, rows.shape[-1]), kind)
                values.copy_(torch.from_numpy(np.array(decode(encoded, kind))).view(values.shape))
                data = laid_out(name, architecture, model.config, encoded.reshape(*rows.shape[:-1], -1))
                writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def fitting(kind: str, rows: Tensor) -> str:
    elements, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return kind if rows.shape[-1] % elements == 0 else "F16"


def canonical(theirs: str, parameter: Tensor, names: gguf.TensorNameMap) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(file name, [O, I] as the file has it, the view of the parameter it is): fused experts are two tensors."""
    if match := re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj", theirs):
        layer, part = match.groups()
        if part == "down":
            yield f"blk.{layer}.ffn_down_exps.weight", parameter.clone(), parameter
            return
        size = parameter.shape[1] // 2
        yield f"blk.{layer}.ffn_gate_exps.weight", parameter[:, :size].clone(), parameter[:, :size]
        yield f"blk.{layer}.ffn_up_exps.weight", parameter[:, size:].clone(), parameter[:, size:]
        return
    name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
    assert name is not None, theirs
    if re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", theirs):
        parameter = parameter.T
    yield name, parameter.clone().contiguous(), parameter


def laid_out(name: str, architecture: str, config: transformers.PretrainedConfig, rows: NDArray) -> NDArray:
    """Rows, or values, reordered as llama.cpp's converter does."""
    heads = config.num_attention_heads
    if architecture == "llama" and (match := re.search(r"attn_(q|k)\.", name)):
        count = heads if match[1] == "q" else config.num_key_value_heads
        halves = rows.reshape(count, 2, -1, *rows.shape[1:] if name.endswith("weight") else ())
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
    if architecture == "gptneox" and "attn_qkv" in name:
        by_head = rows.reshape(heads, 3, -1, *rows.shape[1:] if name.endswith("weight") else ())
        return np.ascontiguousarray(by_head.swapaxes(0, 1)).reshape(rows.shape)
    if architecture in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return rows + np.float32(1)
    return rows


def write_settings(writer: gguf.GGUFWriter, architecture: str, config: transformers.PretrainedConfig) -> None:
    """The hyper-parameters of every architecture, those that a config has."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    writer.add_feed_forward_length(inner)
    if eps := getattr(config, "rms_norm_eps", None):
        writer.add_layer_norm_rms_eps(eps)
    if eps := getattr(config, "layer_norm_eps", None) or getattr(config, "layer_norm_epsilon", None):
        writer.add_layer_norm_eps(eps)
    if kv_heads := getattr(config, "num_key_value_heads", None):
        writer.add_head_count_kv(kv_heads)
    if head_dim := getattr(config, "head_dim", None):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if getattr(config, "num_experts_per_tok", None):
        writer.add_expert_count(getattr(config, "num_local_experts", None) or config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if architecture == "qwen3moe":
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if architecture == "gptneox":
        writer.add_parallel_residual(config.use_parallel_residual)
    if architecture in ("gemma2", "gemma3", "phi3") and config.sliding_window:
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma3":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture != "gpt2":
        write_rotation(writer, config)


def write_rotation(writer: gguf.GGUFWriter, config: transformers.PretrainedConfig) -> None:
    parameters = config.rope_parameters
    if "sliding_attention" in parameters:
        writer.add_rope_freq_base_swa(parameters["sliding_attention"]["rope_theta"])
        parameters = parameters["full_attention"]
    writer.add_rope_freq_base(parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(int(head_dim * parameters.get("partial_rotary_factor", 1.0)))
    kind = parameters["rope_type"]
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(parameters["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])
        if "attention_factor" in parameters:
            writer.add_rope_scaling_yarn_attn_factor(parameters["attention_factor"])
        if "beta_fast" in parameters:
            writer.add_rope_scaling_yarn_beta_fast(parameters["beta_fast"])
    if kind == "longrope":
        original = config.original_max_position_embeddings
        ratio = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(1.0 if ratio <= 1 else (1 + np.log(ratio) / np.log(original)) ** 0.5)


def rope_factors(architecture: str, config: transformers.PretrainedConfig) -> Iterator[tuple[str, NDArray]]:
    """Llama 3's factors as one tensor, LongRoPE's as two."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type") == "llama3":
        dim, original = config.head_dim, parameters["original_max_position_embeddings"]
        plain = parameters["rope_theta"] ** -(np.arange(0, dim, 2) / dim)
        turns = original * plain / (2 * np.pi)
        low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        yield "rope_freqs.weight", (1 / ((1 - smooth) / parameters["factor"] + smooth)).astype(np.float32)
    if parameters.get("rope_type") == "longrope":
        for kind in ("long", "short"):
            yield f"rope_factors_{kind}.weight", np.float32(parameters[f"{kind}_factor"])


def write_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """A byte-level BPE vocabulary of `size` tokens: one for each of some bytes, and two special ones."""
    tokens = [*"abcdefghijklmnopqrstuvwxyz.,!?Ġ0123456789", "he", "ll"]
    tokens += [f"<unused{i}>" for i in range(size - len(tokens) - 2)] + ["<|endoftext|>", "<|im_end|>"]
    types = [1] * (size - 2) + [3, 3]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(size - 2)
    writer.add_eos_token_id(size - 1)
    writer.add_chat_template(
        "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}a{% endif %}"
    )
