"""Ids against llama.cpp's and Transformers', bytes of tokens, and checkpoints that are broken."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from octavo.errors import InvalidRequest, StartupError
from octavo.frontend.tokenizer import Tokenizer

Write = dict[str, Callable[..., Path]]

TEXTS = [
    "hello world",
    " the  hello",
    "",
    "a\nb\t c",
    "héllo wörld",
    "日本語 😀!",
    "<s>hi</s>",
    "hello <|eos|> world",
    "é! <tool>",
]


def expected_ids(shared_data: Path, name: str) -> list[tuple[str, list[int]]]:
    folder = shared_data / "tokenizers"
    texts = (folder / f"{name}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (folder / f"{name}.out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(id) for id in line.split()]) for text, line in zip(texts, lines, strict=False)]


def test_llama2_ids_are_those_of_llama_cpp(llama2: Tokenizer, shared_data: Path) -> None:
    cases = expected_ids(shared_data, "ggml-vocab-llama-spm.gguf")
    assert len(cases) == 47
    assert [llama2.encode(text, add_special_tokens=False) for text, _ in cases] == [ids for _, ids in cases]


def test_gpt2_ids_are_those_of_llama_cpp(gpt2: Tokenizer, shared_data: Path) -> None:
    cases = expected_ids(shared_data, "ggml-vocab-gpt-2.gguf")
    assert len(cases) == 47
    assert [gpt2.encode(text, add_special_tokens=False) for text, _ in cases] == [ids for _, ids in cases]


@pytest.mark.parametrize("ends", [
    {},
    {"add_bos_token": True},
    {"add_bos_token": False},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_bos_token": False, "add_eos_token": True},
    {"add_eos_token": False},
])  # fmt: skip
@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_ids_are_those_of_transformers(
    tmp_path: Path, write: Write, kind: str, template: bool, ends: dict[str, bool]
) -> None:
    transformers = pytest.importorskip("transformers")
    bos, eos = ("<|bos|>", "<|eos|>") if kind == "byte_level" else ("<s>", "</s>")
    folder = write[kind](tmp_path, {"bos_token": bos, "eos_token": eos, "additional_special_tokens": ["the"], **ends})
    if template:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = [(bos, backend.token_to_id(bos))]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
        backend.save(str(folder / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text).input_ids
        assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False).input_ids
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.special_ids >= set(theirs.all_special_ids)
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize(("ends", "expected"), [
    ({"add_bos_token": True}, "Bx"),
    ({"add_bos_token": False}, "x"),
    ({"add_bos_token": True, "add_eos_token": True}, "BxE"),
    ({"add_bos_token": False, "add_eos_token": True}, "xE"),
    ({"add_eos_token": True}, "BxE"),
    ({"add_bos_token": None}, "x"),
    ({}, "x"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["LlamaTokenizerFast", "GemmaTokenizer"])
def test_llama_style_classes_honor_add_bos_and_add_eos(
    tmp_path: Path, write: Write, name: str, ends: dict[str, bool | None], expected: str
) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": name, **ends}
    tokenizer = Tokenizer.load(write["byte_fallback"](tmp_path, config))
    kinds = {tokenizer.bos_id: "B", tokenizer.eos_id: "E"}
    assert "".join(kinds.get(id, "x") for id in tokenizer.encode("hello")) == expected
    assert "".join(kinds.get(id, "x") for id in tokenizer.encode("hello", add_special_tokens=False)) == "x"


def test_a_llama_folder_starts_with_bos_as_in_transformers(
    llama2: Tokenizer, stories: Tokenizer, shared_data: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(shared_data / "models/stories260K")
    for text in ("Once upon a time", " two  spaces", "</s> x", "日本 😀"):
        assert stories.encode(text) == theirs(text).input_ids
    assert stories.encode("x")[0] == stories.bos_id == 1
    assert llama2.encode("Hello world") == [1, 15043, 3186]
    assert (llama2.bos_token, llama2.eos_id, llama2.pad_id, llama2.unk_id) == ("<s>", 2, None, 0)


def test_a_batch_is_the_texts_one_by_one(byte_level: Tokenizer) -> None:
    assert byte_level.encode_batch(TEXTS) == [byte_level.encode(text) for text in TEXTS]
    assert byte_level.encode_batch([]) == []


@given(text=st.text())
def test_plain_text_never_becomes_a_special_token(text: str, byte_level: Tokenizer, byte_fallback: Tokenizer) -> None:
    for tokenizer in (byte_level, byte_fallback):
        for special in sorted(tokenizer.special_ids):
            spelled = text + tokenizer.pieces.added[special] + text
            ids = tokenizer.encode(spelled, add_special_tokens=False, allow_special=False)
            assert not tokenizer.special_ids & set(ids) - {tokenizer.unk_id}
            assert special in tokenizer.encode(spelled, add_special_tokens=False)


def test_plain_text_of_special_tokens_decodes_to_itself(byte_level: Tokenizer, llama2: Tokenizer) -> None:
    for tokenizer in (byte_level, llama2):
        text = f"{tokenizer.bos_token}hello{tokenizer.eos_token}"
        assert tokenizer.decode(tokenizer.encode(text, allow_special=False)) == text


def test_threads_share_a_tokenizer(byte_fallback: Tokenizer) -> None:
    texts = [f"the hello {n} </s>" for n in range(200)]
    plain = [byte_fallback.encode(text, allow_special=False) for text in texts]
    special = [byte_fallback.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        both = list(pool.map(lambda n: byte_fallback.encode(texts[n // 2], allow_special=n % 2 == 0), range(400)))
    assert (both[::2], both[1::2]) == (special, plain)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "llama2", "gpt2", "stories"])
def test_decode_inverts_encode_and_agrees_with_the_library(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    rng = random.Random(7)
    texts = [*TEXTS, *("".join(rng.choices("ab hello the\n é日😀", k=30)) for _ in range(100))]
    for text in texts:
        for skip in (True, False):
            ids = [id for id in tokenizer.encode(text) if "é" not in tokenizer.pieces.added.get(id, "")]
            assert tokenizer.decode(ids, skip) == tokenizer.backend.decode(ids, skip_special_tokens=skip)
        plain = tokenizer.encode(text, add_special_tokens=False, allow_special=False)
        if tokenizer.unk_id not in plain:
            assert tokenizer.decode(plain, False) == text


@pytest.mark.parametrize("name", ["byte_level", "gpt2"])
def test_random_ids_decode_as_in_the_library(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    rng = random.Random(11)
    for _ in range(300):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(12))]
        ids = [id for id in ids if "é" not in tokenizer.pieces.added.get(id, "")]
        assert tokenizer.decode(ids) == tokenizer.backend.decode(ids)


def test_malformed_byte_tokens_spare_their_neighbors(llama2: Tokenizer, shared_data: Path) -> None:
    """SentencePiece itself is the judge: the library replaces the whole run of byte tokens."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = sentencepiece.SentencePieceProcessor(model_file=str(shared_data / "tokenizers/hf-llama2/tokenizer.model"))
    rng = random.Random(3)
    face = [id for id in range(3, 259) if llama2.token_bytes(id) in (b"\xf0", b"\x9f", b"\x98", b"\x80")]
    for _ in range(500):
        ids = [rng.choice([*face, *face, rng.randrange(3, 259), rng.randrange(259, 32000)]) for _ in range(8)]
        assert llama2.decode(ids) == model.decode(ids)


def test_tokens_stand_for_exact_bytes(byte_level: Tokenizer, byte_fallback: Tokenizer, llama2: Tokenizer) -> None:
    ids = byte_level.encode("wo 😀", add_special_tokens=False)
    assert b"".join(byte_level.token_bytes(id) for id in ids) == "wo 😀".encode()
    assert byte_level.token_bytes(byte_level.encode(" wo")[0]) == b" wo"
    assert byte_level.token_bytes(byte_level.backend.token_to_id("é!")) == "é!".encode()
    assert byte_fallback.token_bytes(3 + 0xF0) == b"\xf0"
    assert byte_fallback.token_text(3 + 0xF0) == "\ufffd"
    assert llama2.token_bytes(15043) == b" Hello"
    assert llama2.token_text(15043) == " Hello"
    assert llama2.token_bytes(2) == b"</s>"
    assert llama2.token_bytes(32000) == b"" == llama2.token_bytes(-1)


def test_every_token_of_gpt2_is_its_bytes(gpt2: Tokenizer) -> None:
    assert b"".join(sorted(gpt2.token_bytes(id) for id in range(256))) == bytes(range(256))
    assert gpt2.token_bytes(gpt2.vocab_size - 1) == b"<|endoftext|>"


@pytest.mark.parametrize(
    "decoder", [None, decoders.Metaspace(), decoders.WordPiece(), decoders.WordPiece(cleanup=False)]
)
def test_other_decoders_agree_with_the_library(tmp_path: Path, decoder: decoders.Decoder | None) -> None:
    words = ["▁hello", "▁", "##lo", "world", ".", "n't", "'", "▁▁a"]
    backend = tokenizers.Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, "."))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        backend.decoder = decoder
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    rng = random.Random(5)
    for _ in range(300):
        ids = [rng.randrange(len(words) + 1) for _ in range(rng.randrange(6))]
        assert tokenizer.decode(ids) == backend.decode(ids)


def test_added_tokens_of_the_configuration_are_read(tmp_path: Path, write: Write) -> None:
    folder = write["byte_level"](tmp_path)
    size = Tokenizer.load(folder).vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"<tool>": size - 2, "<more>": size}))
    spec = {"content": "<|im_end|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    config = {"eos_token": spec, "bos_token": None, "added_tokens_decoder": {str(size + 1): spec}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode("<more><|im_end|>") == [size, size + 1]
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.vocab_size) == (size + 1, None, size + 2)
    assert tokenizer.decode([size, size + 1]) == "<more>"


def test_special_tokens_map_names_what_the_configuration_does_not(tmp_path: Path, write: Write) -> None:
    folder = write["byte_level"](tmp_path)
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|eos|>"}}))
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.config) == ("<|eos|>", None, {})


def test_truncation_and_padding_of_the_file_do_not_touch_prompts(tmp_path: Path, write: Write) -> None:
    folder = write["byte_level"](tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    assert len(Tokenizer.load(folder).encode("0123456789")) == 10


def test_a_lone_surrogate_is_the_callers_mistake(byte_level: Tokenizer) -> None:
    for call in (lambda: byte_level.encode("a\ud800"), lambda: byte_level.encode_batch(["a", "a\ud800"])):
        with pytest.raises(InvalidRequest, match=r"surrogate '.ud800'") as error:
            call()
        assert error.value.field == "prompt"


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"tokenizer\.json or tokenizer\.model"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(("name", "text"), [
    ("tokenizer.json", "{"),
    ("tokenizer.json", "{}"),
    ("tokenizer.json", "\x00\xff"),
    ("tokenizer_config.json", "[1]"),
    ("tokenizer_config.json", '{"bos_token": 7}'),
    ("tokenizer_config.json", "[" * 100_000),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"9999": {"content": "<far>"}}}'),
    ("special_tokens_map.json", "nope"),
    ("added_tokens.json", '{"<x>": "1"}'),
])  # fmt: skip
def test_a_broken_file_is_named(tmp_path: Path, write: Write, name: str, text: str) -> None:
    folder = write["byte_level"](tmp_path)
    (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(StartupError) as error:
        Tokenizer.load(folder)
    assert name in error.value.message or "<far>" in error.value.message
    assert "\n" not in error.value.message


def test_a_truncated_tokenizer_json_is_refused_at_every_length(tmp_path: Path, write: Write) -> None:
    folder = write["byte_fallback"](tmp_path)
    data = (folder / "tokenizer.json").read_bytes()
    for size in range(0, len(data), len(data) // 40):
        (folder / "tokenizer.json").write_bytes(data[:size])
        with pytest.raises(StartupError, match=r"tokenizer\.json"):
            Tokenizer.load(folder)


def test_a_model_folder_can_be_copied_without_its_configuration(tmp_path: Path, shared_data: Path) -> None:
    shutil.copy(shared_data / "models/stories260K/tokenizer.json", tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)
