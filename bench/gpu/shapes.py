"""Models of real shapes without files: a config.json, and an engine whose weights are drawn on the device."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu.rows import Scene

from octavo import LLM
from octavo.checkpoint import POCKET

COMMON: dict[str, Any] = {
    "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "use_cache": True,
    "initializer_range": 0.02, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "dtype": "bfloat16",
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500_000.0,
}  # fmt: skip
CONFIGS: Mapping[str, dict[str, Any]] = {
    # Qwen3-0.6B
    "0.6 B": COMMON | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "max_position_embeddings": 40_960, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}, "tie_word_embeddings": True,
        "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28,
    },
    # Llama-3.1-8B
    "8 B": COMMON | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096,
        "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_parameters": LLAMA3_ROPE,
        "tie_word_embeddings": False, "mlp_bias": False,
    },
}  # fmt: skip
# A rehearsal's sizes: every kind of layer, and nothing to wait for.
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_window_layers": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What a model of this config holds and moves."""

    config: Mapping[str, Any]

    @property
    def layer_parameters(self) -> int:
        """Elements of one layer's matrices."""
        c = self.config
        hidden, dim = c["hidden_size"], c["head_dim"]
        heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        return hidden * dim * (2 * heads + 2 * kv_heads) + 3 * hidden * c["intermediate_size"]

    @property
    def head_parameters(self) -> int:
        """Elements of the matrix that makes logits."""
        return int(self.config["vocab_size"] * self.config["hidden_size"])

    @property
    def step_bytes(self) -> int:
        """Bytes of bfloat16 weights that a step reads, however many rows it has: all but the table of embeddings."""
        return 2 * (self.config["num_hidden_layers"] * self.layer_parameters + self.head_parameters)

    @property
    def kv_bytes(self) -> int:
        """Bytes of bfloat16 KV of one token."""
        c = self.config
        return int(c["num_hidden_layers"] * 2 * c["num_key_value_heads"] * c["head_dim"] * 2)

    def prefill_flops(self, tokens: int) -> int:
        """Operations for one prompt: products of every layer, causal attention, and logits of the last token."""
        c = self.config
        products = 2 * c["num_hidden_layers"] * self.layer_parameters * tokens
        pairs = tokens * (tokens + 1) // 2
        attention = 4 * c["num_hidden_layers"] * c["num_attention_heads"] * c["head_dim"] * pairs
        return products + attention + 2 * self.head_parameters


def shape(scene: Scene, name: str) -> Shape:
    """The shape called `name`, or a tiny one of the same kind in a rehearsal."""
    return Shape(scene.pick(CONFIGS[name], CONFIGS[name] | TINY))


@contextlib.contextmanager
def folder(chosen: Shape) -> Iterator[Path]:
    """A folder with the shape's config.json, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "config.json").write_text(json.dumps(dict(chosen.config)))
        yield Path(made)


@contextlib.contextmanager
def engine(scene: Scene, chosen: Shape, **options: Any) -> Iterator[LLM]:
    """octavo with random weights of this shape; each prompt computed anew."""
    with (
        folder(chosen) as model,
        LLM(
            str(model),
            tokenizer=str(POCKET),
            load_format="dummy",
            dtype="bfloat16",
            device=str(scene.device),
            enable_prefix_caching=False,
            use_tqdm_on_load=False,
            **options,
        ) as llm,
    ):
        yield llm
