"""Loading: every parameter once, and a checkpoint that does not fit is refused with the tensor's name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from octavo import spec
from octavo.attention import backend
from octavo.errors import StartupError
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import spec_for
from octavo.weights.source import ALL, TensorSource, WeightSource

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "attention_bias": True,
}
NEOX = {**CONFIG, "architectures": ["GPTNeoXForCausalLM"]}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 20,
    "n_positions": 64,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
}
PHI3 = {**CONFIG, "architectures": ["Phi3ForCausalLM"], "attention_bias": False}
MIXTRAL = {**CONFIG, "architectures": ["MixtralForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 2}


def tensors_of(kind: str) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of a checkpoint of that kind."""
    shapes: dict[str, tuple[int, ...]]
    if kind == "neox":
        shapes = {"gpt_neox.embed_in.weight": (20, 16), "embed_out.weight": (20, 16)}
        shapes |= {f"gpt_neox.final_layer_norm.{part}": (16,) for part in ("weight", "bias")}
        for layer in (f"gpt_neox.layers.{i}" for i in range(2)):
            shapes |= {
                f"{layer}.{norm}.{part}": (16,)
                for norm in ("input_layernorm", "post_attention_layernorm")
                for part in ("weight", "bias")
            }
            for module, size in {
                "attention.query_key_value": (48, 16),
                "attention.dense": (16, 16),
                "mlp.dense_h_to_4h": (24, 16),
                "mlp.dense_4h_to_h": (16, 24),
            }.items():
                shapes |= {f"{layer}.{module}.weight": size, f"{layer}.{module}.bias": size[:1]}
    elif kind == "gpt2":
        shapes = {"wte.weight": (20, 16), "wpe.weight": (64, 16), "ln_f.weight": (16,), "ln_f.bias": (16,)}
        for layer in (f"h.{i}" for i in range(2)):
            shapes |= {f"{layer}.{norm}.{part}": (16,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
            for module, size in {
                "attn.c_attn": (16, 48),
                "attn.c_proj": (16, 16),
                "mlp.c_fc": (16, 64),
                "mlp.c_proj": (64, 16),
            }.items():
                shapes |= {f"{layer}.{module}.weight": size, f"{layer}.{module}.bias": size[1:]}
    else:
        shapes = {"model.embed_tokens.weight": (20, 16), "lm_head.weight": (20, 16), "model.norm.weight": (16,)}
        for layer in (f"model.layers.{i}" for i in range(2)):
            shapes |= {f"{layer}.{norm}.weight": (16,) for norm in ("input_layernorm", "post_attention_layernorm")}
            shapes |= {f"{layer}.self_attn.o_proj.weight": (16, 16)}
            if kind == "phi3":
                shapes |= {
                    f"{layer}.self_attn.qkv_proj.weight": (32, 16),
                    f"{layer}.mlp.gate_up_proj.weight": (48, 16),
                    f"{layer}.mlp.down_proj.weight": (16, 24),
                }
                continue
            sizes = {"q": 16, "k": 8, "v": 8}
            shapes |= {f"{layer}.self_attn.{part}_proj.weight": (size, 16) for part, size in sizes.items()}
            shapes |= {f"{layer}.self_attn.{part}_proj.bias": (size,) for part, size in {**sizes, "o": 16}.items()}
            mlps = {
                f"{layer}.mlp.gate_proj": (24, 16),
                f"{layer}.mlp.up_proj": (24, 16),
                f"{layer}.mlp.down_proj": (16, 24),
            }
            if kind == "mixtral":
                moe = f"{layer}.block_sparse_moe"
                shapes |= {f"{moe}.gate.weight": (3, 16)}
                mlps = {
                    f"{moe}.experts.{e}.{w}": (16, 24) if w == "w2" else (24, 16)
                    for e in range(3)
                    for w in ("w1", "w2", "w3")
                }
            shapes |= {f"{name}.weight": size for name, size in mlps.items()}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


KINDS = {"llama": CONFIG, "neox": NEOX, "gpt2": GPT2, "phi3": PHI3, "mixtral": MIXTRAL}


class CountingSource:
    """Counts how often each element of each tensor is read."""

    total_bytes = num_parameters = 0
    names = None

    def __init__(self, tensors: dict[str, Tensor], prefix: str = "", reads: dict[str, Tensor] | None = None) -> None:
        self.tensors = tensors
        self.prefix = prefix
        self.reads = (
            {name: torch.zeros_like(t, dtype=torch.int32) for name, t in tensors.items()} if reads is None else reads
        )

    def at(self, prefix: str) -> WeightSource:
        return CountingSource(self.tensors, f"{self.prefix}{prefix}.", self.reads)

    def has(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[self.prefix + name].shape)

    def read(self, name: str, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        tensor, reads = self.tensors[self.prefix + name], self.reads[self.prefix + name]
        part = rows if tensor.ndim == 1 else (rows, columns)
        reads[part] += 1
        return tensor[part]

    def blocks(self, name: str) -> None:
        return None

    bytes_read = 0

    def release(self) -> None:
        pass

    def unread(self) -> list[str]:
        return [name for name, reads in self.reads.items() if not reads.any()]


def build(config: dict[str, object]) -> DecoderModel:
    model = spec_for(HFConfig(config))
    return DecoderModel(model, torch.float32, torch.device("cpu"), backend.create("sdpa"), 64)


@pytest.mark.parametrize("kind", KINDS)
def test_every_element_of_the_checkpoint_is_read_exactly_once(kind: str) -> None:
    source = CountingSource(tensors_of(kind))
    assert build(KINDS[kind]).load(source) == []
    assert {
        name: Counter(reads.flatten().tolist()) for name, reads in source.reads.items() if not (reads == 1).all()
    } == {}


@pytest.mark.parametrize("kind", KINDS)
def test_each_missing_tensor_is_named(kind: str) -> None:
    tensors = tensors_of(kind)
    for name in tensors:
        if name == "lm_head.weight" and KINDS[kind].get("tie_word_embeddings"):
            continue
        with pytest.raises(StartupError, match=name.rpartition(".")[0].rpartition(".")[2]):
            build(KINDS[kind]).load(TensorSource({key: value for key, value in tensors.items() if key != name}))


@pytest.mark.parametrize("kind", KINDS)
def test_each_tensor_of_another_shape_is_refused(kind: str) -> None:
    tensors = tensors_of(kind)
    for name, tensor in tensors.items():
        with pytest.raises(StartupError, match=r"cannot load .* has shape .*; the config asks for"):
            build(KINDS[kind]).load(TensorSource({**tensors, name: torch.cat((tensor, tensor))}))


def test_what_the_config_does_not_ask_for_is_reported() -> None:
    tensors = tensors_of("llama")
    extra = {
        "model.layers.2.mlp.up_proj.weight": torch.zeros(1),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(1),
    }
    assert build(CONFIG).load(TensorSource({**tensors, **extra})) == ["model.layers.2.mlp.up_proj.weight"]
    assert build({**CONFIG, "tie_word_embeddings": True}).load(TensorSource(tensors)) == []


def test_progress_ends_at_the_bytes_of_the_checkpoint() -> None:
    seen: list[tuple[int, int]] = []
    build(CONFIG).load(TensorSource(tensors_of("llama")), lambda done, total: seen.append((done, total)))
    total = sum(tensor.nbytes for tensor in tensors_of("llama").values())
    assert seen == sorted(seen) and seen[-1] == (total, total) and len({done for done, _ in seen}) > 8


def test_a_context_beyond_learned_positions_is_refused() -> None:
    model = spec_for(HFConfig(GPT2))
    with pytest.raises(StartupError, match="max_model_len=65 exceeds the model's 64 learned positions"):
        DecoderModel(model, torch.float32, torch.device("cpu"), backend.create("sdpa"), 65)


def test_a_dtype_the_backend_refuses_is_named_with_the_layer() -> None:
    with pytest.raises(StartupError, match=r"cannot run layer 0: .* not torch\.float64"):
        DecoderModel(spec_for(HFConfig(CONFIG)), torch.float64, torch.device("cpu"), backend.create("sdpa"), 64)


def test_layers_of_one_cache_spec_share_a_group_and_full_ones_come_first() -> None:
    model = spec_for(HFConfig(CONFIG))
    local = replace(model.blocks[0], mixer=replace(model.blocks[0].mixer, window=5))
    mixed = replace(model, blocks=(local, model.blocks[1], local))
    built = DecoderModel(mixed, torch.float32, torch.device("cpu"), backend.create("sdpa"), 64)
    assert built.groups == (
        spec.CacheGroup(model.blocks[0].mixer.cache, (1,)),
        spec.CacheGroup(local.mixer.cache, (0, 2)),
    )
    assert [block.mixer.group for block in built.blocks] == [1, 0, 1]
