"""GGUF models: every architecture, dense and in blocks, against Transformers on the values the file holds."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from octavo.attention import backend
from octavo.checkpoint import Checkpoint
from octavo.errors import StartupError, UnsupportedModel
from octavo.gguf.config import ARCHITECTURES
from octavo.models.config import HFConfig
from octavo.models.decoder import DecoderModel
from octavo.models.registry import architectures, spec_for
from octavo.weights.blocks import BLOCK_KINDS
from octavo.weights.source import open_source

from ..models.harness import Harness
from ..models.test_families import FAMILIES, check, draw_prompts, expected_log_probs, reference_model
from ..models.test_families import Family as Model
from .gguf_bytes import file, string
from .gguf_encoders import decode, encode
from .gguf_models import Choose, write_gguf

LENGTH = 40
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 32, "num_attention_heads": 8, "vocab_size": 61}


def load(path: Path, max_length: int = 2 * LENGTH) -> DecoderModel:
    """octavo's model from a file; every tensor of it must have been read."""
    checkpoint = Checkpoint.resolve(str(path))
    model = spec_for(HFConfig(checkpoint.config))
    decoder = DecoderModel(model, torch.float32, torch.device("cpu"), backend.create("sdpa"), max_length)
    assert decoder.load(open_source(checkpoint)) == []
    return decoder


def options(name: str) -> Model:
    """A family's options, but for those a GGUF file has no place for."""
    fixed: Mapping[str, Mapping[str, object]] = {
        "gemma2": {"query_pre_attn_scalar": 16},
        "gemma3": {"query_pre_attn_scalar": 16},
        "gpt2": {"scale_attn_by_inverse_layer_idx": False},
        "olmoe": {"clip_qkv": None},
        "mistral-full": {"head_dim": 8},
        "qwen3_moe": {"mlp_only_layers": []},
    }
    chosen = FAMILIES[name]
    return Model(chosen.model, {**chosen.options, **fixed.get(name, {})})


def compare(folder: Path, model: Model, choose: Choose, max_length: int = 2 * LENGTH) -> None:
    """Write the model's GGUF file; octavo's log-probabilities from it are those of Transformers on its values."""
    reference = reference_model(model, folder)
    write_gguf(reference, folder / "m.gguf", choose)
    tokens = draw_prompts((LENGTH,))[0]
    with torch.inference_mode():
        expected = expected_log_probs(reference, tokens)
        assert expected.std() > 0.3, "the model says nothing"
        check(expected, Harness(load(folder / "m.gguf", max_length), torch.float32).step({0: tokens})[0])


PLAIN = (
    "llama", "llama-tied-biases-wide-heads", "llama-linear", "llama3", "llama-yarn", "llama-yarn-factor",
    "mistral-full", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "phi3-window-partial", "phi3-longrope-short",
    "olmo2", "gpt2", "gpt_neox", "gpt_neox-sequential", "mixtral", "qwen3_moe", "olmoe",
)  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_an_architecture_in_float32_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    compare(tmp_path, options(name), lambda tensor: "F32")


@pytest.mark.parametrize("name", PLAIN)
def test_an_architecture_in_blocks_computes_what_transformers_computes_on_their_values(
    name: str, tmp_path: Path
) -> None:
    mixed = {"attn_v": "Q5_0", "attn_k": "Q4_1", "ffn_up": "Q4_0", "ffn_down": "Q5_1", "token_embd": "Q8_0"}
    compare(tmp_path, options(name), lambda tensor: mixed.get(tensor.split(".")[-2], "Q8_0"))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_each_type_loads(kind: str, tmp_path: Path) -> None:
    compare(tmp_path, Model("Qwen3", {**FAMILIES["qwen3"].options, **WIDE}), lambda tensor: kind)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_mixture_as_q4_k_m_makes_it_loads(name: str, tmp_path: Path) -> None:
    better = ("attn_v", "ffn_down", "ffn_down_exps", "output")
    model = Model(FAMILIES[name].model, {**FAMILIES[name].options, **WIDE, "tie_word_embeddings": False})
    compare(tmp_path, model, lambda tensor: "Q6_K" if tensor.split(".")[-2] in better else "Q4_K")


def test_long_factors_are_taken_beyond_the_original_length(tmp_path: Path) -> None:
    compare(tmp_path, options("phi3-longrope-beyond"), lambda tensor: "F32")


def test_every_architecture_leads_to_a_family() -> None:
    assert set(ARCHITECTURES) <= set(gguf.MODEL_ARCH_NAMES.values())
    assert {"LlamaForCausalLM", "Qwen3MoeForCausalLM"} <= set(architectures())


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_the_tests_own_encoders_keep_most_of_a_value(kind: str) -> None:
    values = torch.randn(5, 512, generator=torch.Generator().manual_seed(0)).numpy()
    kept = decode(encode(values, kind), kind)
    step = {"Q4_K": 1 / 15, "Q5_K": 1 / 31, "Q6_K": 1 / 62}[kind] * 8
    assert abs(kept - values).max() < step
    assert abs(kept - values).mean() > 0


def test_stories_from_gguf_are_those_from_safetensors(shared_data: Path) -> None:
    folder = shared_data / "models" / "stories260K"
    tokens = [1, *range(261, 400)]
    logits: list[Tensor] = []
    for path, dtype in ((folder / "gguf" / "stories260K-F16.gguf", "float16"), (folder, "float32")):
        checkpoint = Checkpoint.resolve(str(path))
        assert checkpoint.config["torch_dtype"] == dtype
        model = spec_for(HFConfig(checkpoint.config))
        decoder = DecoderModel(model, torch.float32, torch.device("cpu"), backend.create("sdpa"), 512)
        assert decoder.load(open_source(checkpoint)) == []
        with torch.inference_mode():
            logits.append(Harness(decoder, torch.float32, page_size=16).step({0: tokens})[0].log_softmax(-1))
    assert (logits[0] - logits[1]).abs().max() < 0.05  # one is rounded to float16
    assert (logits[0].argmax(-1) == logits[1].argmax(-1)).float().mean() > 0.98


def tiny(folder: Path) -> Path:
    """A small Llama with quantized matrices."""
    model = Model("Llama", {**FAMILIES["llama"].options, "num_hidden_layers": 1})
    write_gguf(reference_model(model, folder), folder / "m.gguf", lambda tensor: "Q8_0")
    return folder / "m.gguf"


def refusal(path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        load(path)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    data = path.read_bytes()
    for keep in (0, 3, 23, 24, 100, 700, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:keep])
        assert "no valid GGUF file" in refusal(path)


def fuzz(data: bytes, path: Path, count: int, seed: int) -> int:
    """Load mutants of a whole model, its header's bytes changed; returns how many are refused."""
    rng, refused, end = random.Random(seed), 0, data.index(b"output.weight") + 40
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(24, end)
            mutant[at] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, mutant[at] ^ 1 << rng.randrange(8)))
        path.write_bytes(mutant)
        try:
            load(path)
        except StartupError as error:
            refused += 1
            message = error.message
        else:
            message = ""
        assert "\n" not in message
    return refused


def test_mutants_of_a_whole_model_load_or_are_refused(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    assert 100 < fuzz(path.read_bytes(), path, 300, 0) < 300


@pytest.mark.slow
def test_thousands_of_mutants_of_a_whole_model_load_or_are_refused(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    assert fuzz(path.read_bytes(), path, 6_000, 1) > 2_000


def test_an_unknown_architecture_names_those_that_work(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file([string("general.architecture", "mamba")]))
    with pytest.raises(
        UnsupportedModel, match=r"'mamba' is not supported; supported: gemma2, gemma3, .*llama.*qwen3moe"
    ):
        Checkpoint.resolve(str(path))


def test_a_vocabulary_alone_is_no_model(shared_data: Path) -> None:
    with pytest.raises(UnsupportedModel, match="holds a vocabulary and no weights"):
        Checkpoint.resolve(str(shared_data / "tokenizers" / "ggml-vocab-llama-spm.gguf"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"embedding_length", 31, "embedding_length is 31 and token_embd.weight has rows of 32"),
        (b"block_count", 10**6, "block_count is 1000000, and there are"),
        (b"block_count", 2, r"cannot load .*layers\.1.* is missing from"),
        (b"head_count", 3, "3 query heads over 2 KV heads"),
        (b"head_count", 2**31 + 4, "must be an integer from 1 to 2147483647"),
        (b"feed_forward_length", 47, "has shape .*; the config asks for"),
        (b"context_length", 0, "context_length must be an integer from 1"),
    ],
)
def test_metadata_that_does_not_fit_the_tensors_is_refused(tmp_path: Path, old: bytes, new: int, reason: str) -> None:
    path = tiny(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(old + struct.pack("<I", 4)) + len(old) + 4
    data[at : at + 4] = struct.pack("<I", new)
    path.write_bytes(data)
    assert re.search(reason, refusal(path))


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    data = path.read_bytes()
    name = b"blk.0.attn_q.weight"
    at = data.index(name) + len(name) + 4 + 16
    path.write_bytes(data[:at] + struct.pack("<I", 39) + data[at + 4 :])
    assert "tensor blk.0.attn_q.weight is of type MXFP4, which octavo does not read; types that work: F32" in refusal(
        path
    )


def test_a_folder_is_its_single_gguf_file(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    found = Checkpoint.resolve(str(tmp_path))
    assert (found.file, found.path, found.folder) == (path, path, tmp_path)
    path.with_name("other.gguf").write_bytes(path.read_bytes())
    with pytest.raises(StartupError, match=r"has no single GGUF model but m\.gguf, other\.gguf; give the path of one"):
        Checkpoint.resolve(str(tmp_path))


def test_other_weights_in_a_folder_come_first(tmp_path: Path) -> None:
    tiny(tmp_path)
    assert Checkpoint.resolve(str(tmp_path)).file is None


def test_end_tokens_and_sampling_defaults_come_from_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["<s>", "<|im_end|>", "a", "<|eot_id|>", "<|end|>"])
    writer.add_token_types([3, 3, 1, 3, 1])
    writer.add_eos_token_id(0)
    writer.add_float32("general.sampling.temp", 0.6)
    writer.add_int32("general.sampling.top_k", 20)
    numbers = {"embedding_length": 4, "block_count": 1, "attention.head_count": 1, "feed_forward_length": 4}
    for key, value in {**numbers, "context_length": 64}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", torch.ones(5, 4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = Checkpoint.resolve(str(path))
    assert found.eos_ids == (0, 1, 3)
    assert found.generation_defaults() == {"temperature": 0.6, "top_k": 20}


def test_every_type_that_is_read_has_a_decoder() -> None:
    assert {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"} <= set(BLOCK_KINDS)
