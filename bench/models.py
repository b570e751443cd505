"""Random checkpoints of real shapes: what the benches run on, since speed does not depend on what the numbers mean.

    python bench/models.py FOLDER                                        every shape: safetensors, W8A8 and bf16 GGUF
    python bench/models.py FOLDER --shapes qwen3-0.6b                    one shape
    python bench/models.py FOLDER --llama-quantize llama.cpp/build/bin/llama-quantize   quantized GGUF as well

Writes, for each shape, `SHAPE/` (Hugging Face folder, bfloat16), `SHAPE-w8a8/` (compressed-tensors, int8 weights per
channel, int8 activations per token), `SHAPE-bf16.gguf` and `SHAPE-q8_0.gguf` … Nothing is downloaded; a seed decides
every weight, and files that exist are kept. The tokenizer spells bytes and is there so that servers can open a folder.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open

STD = 0.02  # of every matrix; norm weights are one
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
COMMON: dict[str, Any] = {
    "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "use_cache": True,
    "initializer_range": STD, "bos_token_id": None, "pad_token_id": None, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",  # without it Transformers 5 takes the tokenizer for a faulty one of Mistral's
}  # fmt: skip
# As their authors publish them; OLMoE's 16 layers are cut to 4, so that it fits into 8 GB.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": COMMON | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "max_position_embeddings": 40_960, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
        "rope_scaling": None, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": None,
        "max_window_layers": 28,
    },
    "llama-3.2-1b": COMMON | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": True, "mlp_bias": False,
    },
    "olmoe-cut": COMMON | {
        "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "vocab_size": 50_304, "hidden_size": 2048,
        "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 16,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "rope_scaling": None,
        "tie_word_embeddings": False, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False,
        "clip_qkv": None, "output_router_logits": False, "router_aux_loss_coef": 0.01,
    },
}  # fmt: skip
END = "<|end|>"
MERGES = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"))
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
W8A8 = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"], "kv_cache_scheme": None, "global_compression_ratio": None,
    "config_groups": {"group_0": {
        "targets": ["Linear"], "output_activations": None,
        "weights": {
            "num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False,
            "group_size": None, "actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {},
        },
        "input_activations": {
            "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True,
            "group_size": None, "actorder": None, "block_structure": None, "observer": None, "observer_kwargs": {},
        },
    }},
}  # fmt: skip

Step = Callable[[int], None]  # bytes just written


@dataclass(frozen=True)
class Entry:
    """One tensor of a safetensors file: `make` computes it when its turn comes, so that one at a time is in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def tensor_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the checkpoint with its shape, in the order of the file."""
    hidden, size, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    yield "model.embed_tokens.weight", (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (hidden,)
        for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            yield f"{at}self_attn.{name}_proj.weight", (rows * head_dim, hidden)
        yield at + "self_attn.o_proj.weight", (hidden, heads * head_dim)
        if config["model_type"] != "llama":
            whole = config["model_type"] == "olmoe"  # one norm over all heads
            yield at + "self_attn.q_norm.weight", (heads * head_dim if whole else head_dim,)
            yield at + "self_attn.k_norm.weight", (kv_heads * head_dim if whole else head_dim,)
        yield at + "post_attention_layernorm.weight", (hidden,)
        experts = config.get("num_experts", 0)
        if experts:
            yield at + "mlp.gate.weight", (experts, hidden)
        for mlp in [f"mlp.experts.{e}." for e in range(experts)] or ["mlp."]:
            yield at + mlp + "gate_proj.weight", (size, hidden)
            yield at + mlp + "up_proj.weight", (size, hidden)
            yield at + mlp + "down_proj.weight", (hidden, size)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, hidden)


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """bfloat16; ones for a norm, else normal with STD, drawn from (seed, name) alone."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little", signed=True)
    return torch.empty(shape).normal_(std=STD, generator=torch.Generator().manual_seed(key)).bfloat16()


def write_safetensors(path: Path, entries: list[Entry], step: Step) -> None:
    """Write the entries one after another; the header is known before the first is computed."""
    names = {torch.bfloat16: "BF16", torch.int8: "I8", torch.float32: "F32"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        ends = [offset, offset := offset + entry.num_bytes]
        header[entry.name] = {"dtype": names[entry.dtype], "shape": list(entry.shape), "data_offsets": ends}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            tensor = entry.make()
            assert tensor.shape == entry.shape and tensor.dtype == entry.dtype, entry.name
            file.write(tensor.contiguous().view(torch.uint8).numpy().data)
            step(entry.num_bytes)


def vocabulary(size: int) -> list[str]:
    """Token spellings by id: 256 bytes as GPT-2 writes them, a few merges, fillers, and END as the last."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = itertools.count(256)
    spelled = [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]
    spelled += [a + b for a, b in MERGES]
    return [*spelled, *(f"<{id}>" for id in range(len(spelled), size - 1)), END]


def write_tokenizer(folder: Path, size: int) -> None:
    """A byte-level BPE of `size` entries as tokenizer.json, with a chat template that writes `role: content`."""
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    end = {"content": END, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": size - 1, **end}],
        "pre_tokenizer": split, "post_processor": split, "decoder": split,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(vocabulary(size))},
            "merges": [list(merge) for merge in MERGES],
        },
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END, "bos_token": None,
        "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def write_folder(folder: Path, config: Mapping[str, Any], entries: list[Entry], step: Step) -> None:
    """A whole Hugging Face folder; it gets its name only when complete."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    last = config["vocab_size"] - 1
    (part / "config.json").write_text(json.dumps({**config, "eos_token_id": last}, indent=2))
    (part / "generation_config.json").write_text(json.dumps({"eos_token_id": last}))
    write_tokenizer(part, config["vocab_size"])
    write_safetensors(part / "model.safetensors", entries, step)
    part.rename(folder)


def bf16_entries(config: Mapping[str, Any], seed: int) -> list[Entry]:
    """The checkpoint in bfloat16."""

    def entry(name: str, shape: tuple[int, ...]) -> Entry:
        return Entry(name, shape, torch.bfloat16, lambda: random_tensor(name, shape, seed))

    return [entry(name, shape) for name, shape in tensor_shapes(config)]


def w8a8_entries(config: Mapping[str, Any], seed: int) -> list[Entry]:
    """The same weights, every linear layer's rounded to int8 with one scale per output channel."""

    def quantized(name: str, shape: tuple[int, ...]) -> Iterator[Entry]:
        def scale() -> torch.Tensor:
            return (random_tensor(name, shape, seed).float().abs().amax(1, keepdim=True) / 127).bfloat16()

        def codes() -> torch.Tensor:
            weight = random_tensor(name, shape, seed).float()
            return (weight / scale().float()).round_().clamp_(-127, 127).to(torch.int8)

        yield Entry(name, shape, torch.int8, codes)
        yield Entry(name + "_scale", (shape[0], 1), torch.bfloat16, scale)

    entries: list[Entry] = []
    for plain in bf16_entries(config, seed):
        is_linear = len(plain.shape) == 2 and "_proj." in plain.name
        entries += quantized(plain.name, plain.shape) if is_linear else [plain]
    return entries


def gguf_metadata(writer: gguf.GGUFWriter, name: str, config: Mapping[str, Any]) -> None:
    """Hyper-parameters and vocabulary under GGUF's names."""
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "num_experts" in config:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    size = config["vocab_size"]
    kinds = [gguf.TokenType.NORMAL] * (256 + len(MERGES))
    kinds += [gguf.TokenType.UNUSED] * (size - 1 - len(kinds)) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary(size))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_eos_token_id(size - 1)
    writer.add_pad_token_id(size - 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def llama3_rope_factors(config: Mapping[str, Any], head_dim: int) -> np.ndarray[Any, Any]:
    """What each frequency is divided by under Llama 3.1's scaling, [head_dim / 2] float32 (llama.cpp: rope_freqs)."""
    scaling = config["rope_scaling"]
    length = scaling["original_max_position_embeddings"]
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    waves = 2 * np.pi * config["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((length / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def gguf_tensors(
    folder: Path, config: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]]:
    """GGUF name, shape and contents (float32 for vectors and the router, else bfloat16) of each tensor of `folder`.

    Llama's query and key rows are put into the order of its pairwise rotation; a layer's experts become one tensor.
    """
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, gguf_arch(config).upper()), config["num_hidden_layers"])
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    file = safe_open(folder / "model.safetensors", "pt")

    def read(name: str) -> torch.Tensor:
        tensor = file.get_tensor(name)
        if config["model_type"] == "llama" and (".q_proj." in name or ".k_proj." in name):
            halves = tensor.view(-1, 2, head_dim // 2, tensor.shape[1])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        return tensor.float() if tensor.dim() == 1 or "mlp.gate." in name else tensor

    def stack(parts: list[str]) -> torch.Tensor:
        return torch.stack([read(part) for part in parts])

    if config["rope_scaling"]:
        factors = torch.from_numpy(llama3_rope_factors(config, head_dim))
        yield "rope_freqs.weight", tuple(factors.shape), lambda: factors
    for name, shape in tensor_shapes(config):
        if ".experts." in name:
            if ".experts.0." not in name:
                continue
            parts = [name.replace("experts.0.", f"experts.{e}.") for e in range(config["num_experts"])]
            theirs = names.get_name(name.replace("experts.0.", "experts.").removesuffix(".weight"))
            yield f"{theirs}.weight", (len(parts), *shape), lambda parts=parts: stack(parts)
        else:
            theirs = names.get_name(name.removesuffix(".weight"))
            yield f"{theirs}.weight", shape, lambda name=name: read(name)


def gguf_arch(config: Mapping[str, Any]) -> str:
    return config["model_type"]


def write_gguf(path: Path, folder: Path, config: Mapping[str, Any], step: Step) -> None:
    """The folder's weights as a bfloat16 GGUF file; it gets its name only when complete."""
    part = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(part, gguf_arch(config))
    gguf_metadata(writer, path.stem, config)
    kinds = gguf.GGMLQuantizationType
    tensors = list(gguf_tensors(folder, config))
    for name, shape, _ in tensors:
        is_float = len(shape) == 1 or "ffn_gate_inp" in name
        num_bytes = int(np.prod(shape)) * (4 if is_float else 2)
        dtype = np.dtype(np.float32 if is_float else np.uint16)
        writer.add_tensor_info(name, shape, dtype, num_bytes, kinds.F32 if is_float else kinds.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape, make in tensors:
        tensor = make()
        assert tensor.shape == shape, name
        bits = tensor if tensor.dtype == torch.float32 else tensor.view(torch.uint16)
        writer.write_tensor_data(bits.contiguous().numpy())
        step(bits.nbytes)
    writer.close()
    part.rename(path)


def quantize(tool: Path, source: Path, path: Path, kind: str) -> None:
    """Write `path` with llama-quantize; SystemExit with the end of what it said when it fails."""
    part = path.with_name(path.name + ".part")
    done = subprocess.run([tool, source, part, kind], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tool} {kind} failed:\n" + "\n".join((done.stdout + done.stderr).splitlines()[-15:]))
    part.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write; made when it is not there")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all")
    parser.add_argument("--layers", type=int, help="write only so many layers (for a quick look)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--llama-quantize", type=Path, metavar="PROGRAM", help="llama.cpp's tool; makes --types")
    parser.add_argument("--types", nargs="+", default=["Q8_0", "Q4_0", "Q4_K_M"], help="for llama-quantize")
    args = parser.parse_args()
    if args.llama_quantize and not args.llama_quantize.is_file():
        parser.error(f"--llama-quantize: there is no file {args.llama_quantize}")
    for name in args.shapes:
        make_shape(args, name)


def make_shape(args: argparse.Namespace, name: str) -> None:
    """Write what is missing of one shape; each path goes to stdout once it is complete."""
    config = dict(SHAPES[name])
    if args.layers:
        config["num_hidden_layers"] = args.layers
    folder, w8a8, bf16 = (args.folder / (name + end) for end in ("", "-w8a8", "-bf16.gguf"))
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())

    def show(path: Path, total: int, write: Callable[[Step], None]) -> None:
        if not path.exists():
            with Progress(*columns, console=console) as progress:
                task = progress.add_task(path.name, total=total)
                write(lambda count: progress.advance(task, count))
        print(path, flush=True)

    plain = bf16_entries(config, args.seed)
    num_bytes = sum(entry.num_bytes for entry in plain)
    show(folder, num_bytes, lambda step: write_folder(folder, config, plain, step))
    show(bf16, num_bytes, lambda step: write_gguf(bf16, folder, config, step))
    for kind in args.types if args.llama_quantize else ():
        path = args.folder / f"{name}-{kind.lower()}.gguf"
        if not path.exists():
            with console.status(f"{path.name} (llama-quantize)"):
                quantize(args.llama_quantize, bf16, path, kind)
        print(path, flush=True)
    if "num_experts" not in config:
        int8 = w8a8_entries(config, args.seed)
        total = sum(entry.num_bytes for entry in int8)
        with_int8 = {**config, "quantization_config": W8A8}
        show(w8a8, total, lambda step: write_folder(w8a8, with_int8, int8, step))


if __name__ == "__main__":
    sys.exit(main())
