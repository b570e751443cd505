"""Tokenizers the frontend's tests share: tiny ones built here, real ones from ../shared when it is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from octavo.frontend.tokenizer import Tokenizer

WORDS = ["the", "he", "ll", "llo", "hello", "wor", "world", "▁the", "▁hello", "▁world", "▁w", "▁wor", "▁wo", "▁t", "▁h"]


def write_byte_level(folder: Path, config: dict | None = None) -> Path:
    """Write a byte-level BPE tokenizer of the 256 bytes, a few merges and two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("Ġw", "o"), ("ð", "Ł"), ("ðŁ", "ĺ")]
    vocab = {token: id for id, token in enumerate([*alphabet, *(left + right for left, right in merges)])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|bos|>", special=True), AddedToken("<|eos|>", special=True)])
    backend.add_tokens([AddedToken("<tool>", special=False), AddedToken("é!", special=False)])
    return _write(folder, backend, config or {"bos_token": "<|bos|>", "eos_token": "<|eos|>"})


def write_byte_fallback(folder: Path, config: dict | None = None) -> Path:
    """Write a Llama-style BPE tokenizer: ▁ for space, byte fallback, a dummy space in front."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehlortw ", *WORDS]
    vocab = {token: id for id, token in enumerate(dict.fromkeys(tokens))}
    merges = [(w[:cut], w[cut:]) for w in WORDS for cut in range(1, len(w)) if w[:cut] in vocab and w[cut:] in vocab]
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return _write(folder, backend, config or {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def _write(folder: Path, backend: tokenizers.Tokenizer, config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config))
    return folder


@pytest.fixture(scope="session")
def write() -> dict[str, Callable[..., Path]]:
    """The functions that write a tiny tokenizer into a folder, by kind."""
    return {"byte_level": write_byte_level, "byte_fallback": write_byte_fallback}


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_byte_level(tmp_path_factory.mktemp("byte_level")))


@pytest.fixture(scope="session")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_byte_fallback(tmp_path_factory.mktemp("byte_fallback")))


@pytest.fixture(scope="session")
def llama2(shared_data: Path) -> Tokenizer:
    return Tokenizer.load(shared_data / "tokenizers/hf-llama2")


@pytest.fixture(scope="session")
def stories(shared_data: Path) -> Tokenizer:
    return Tokenizer.load(shared_data / "models/stories260K")


@pytest.fixture(scope="session")
def gpt2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """GPT-2's tokenizer.json, rebuilt from the metadata of llama.cpp's vocabulary file."""
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(shared_data / "tokenizers/ggml-vocab-gpt-2.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    backend = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    folder = tmp_path_factory.mktemp("gpt2")
    _write(folder, backend, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    return Tokenizer.load(folder)
