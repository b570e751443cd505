"""tokenizer.model against llama.cpp, tokenizer.json and SentencePiece itself; corrupt files."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from octavo.errors import StartupError
from octavo.frontend.sentencepiece import BPE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, build_backend, read_model
from octavo.frontend.tokenizer import Tokenizer

CORPUS = [f"The {a} {b} of the {c}, and {b} {a}!" for a in ("quick", "brown", "old") for b in ("fox", "hen", "owl")
          for c in
          ("river", "wooden house", "Ｆｕｌｌ　ｗｉｄｔｈ café", "日本語 の 文", "numbers 12 345 ①")]  # fmt: skip


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    """Return one protobuf field: a varint, a 32-bit float or bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def model_file(pieces: Iterable[tuple[str, float, int]], model_type: int = BPE, trainer: bytes = b"") -> bytes:
    body = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces
    )
    return body + field(2, field(3, model_type) + trainer) + field(3, field(4, 0))


TINY = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("▁a", -1.0, NORMAL),
        ("ab", -2.0, NORMAL), ("▁", -3.0, NORMAL), ("a", -4.0, NORMAL), ("b", -5.0, NORMAL), ("<", -6.0, NORMAL),
        ("s", -7.0, NORMAL), (">", -8.0, NORMAL), ("<s", -9.0, NORMAL)]  # fmt: skip


def write_tiny(folder: Path, data: bytes | None = None, config: dict | None = None) -> Path:
    (folder / "tokenizer.model").write_bytes(model_file(TINY) if data is None else data)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def llama2_model(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("llama2_model")
    shutil.copy(shared_data / "tokenizers/hf-llama2/tokenizer.model", folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def stories_model(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("stories_model")
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(shared_data / "models/stories260K" / name, folder)
    return Tokenizer.load(folder)


def random_texts(count: int) -> list[str]:
    rng = random.Random(1)
    alphabet = "  \t\nabcdeTh'.,é日本語😀👍🏽\u200d\u0301<s></s>▁0123"
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(count)]
    return texts + ["".join(chr(rng.randrange(1, 0xD800)) for _ in range(20)) for _ in range(count // 4)]


def test_ids_are_those_of_llama_cpp(llama2_model: Tokenizer, shared_data: Path) -> None:
    name = "tokenizers/ggml-vocab-llama-spm.gguf"
    texts = (shared_data / f"{name}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (shared_data / f"{name}.out").read_text(encoding="utf-8").split("\n")
    assert len(texts) == 47
    for text, line in zip(texts, lines, strict=False):
        assert llama2_model.encode(text, add_special_tokens=False) == [int(id) for id in line.split()]


@pytest.mark.parametrize("name", ["llama2", "stories"])
def test_both_files_of_a_checkpoint_say_the_same(name: str, request: pytest.FixtureRequest, shared_data: Path) -> None:
    from_json: Tokenizer = request.getfixturevalue(name)
    from_model: Tokenizer = request.getfixturevalue(f"{name}_model")
    book = (shared_data / "text/botchan.txt").read_text(encoding="utf-8")
    for text in [book, *random_texts(100)]:
        for plain in (True, False):
            assert from_model.encode(text, allow_special=plain) == from_json.encode(text, allow_special=plain)
    assert (from_model.bos_id, from_model.eos_id, from_model.unk_id) == (from_json.bos_id, from_json.eos_id, 0)
    assert from_model.special_ids == from_json.special_ids
    assert from_model.vocab_size == from_json.vocab_size
    ids = random.Random(2).choices(range(from_json.vocab_size), k=2000)
    assert from_model.decode(ids) == from_json.decode(ids)


@pytest.mark.parametrize("name", ["tokenizers/hf-llama2", "models/stories260K"])
def test_ids_are_those_of_sentencepiece(name: str, shared_data: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = shared_data / name / "tokenizer.model"
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = build_backend(read_model(path))
    ours.encode_special_tokens = True
    for text in [t for t in random_texts(300) if "▁" not in t and "\x00" not in t and t]:
        assert ours.encode(text).ids == theirs.encode(text)


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("extra_spaces", [True, False])
@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_trained_model_segments_as_in_sentencepiece(
    tmp_path: Path, kind: str, fallback: bool, extra_spaces: bool, rule: str
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=stream, vocab_size=400 if fallback else 130, model_type=kind,
        byte_fallback=fallback, normalization_rule_name=rule, remove_extra_whitespaces=extra_spaces,
        hard_vocab_limit=False, minloglevel=2, user_defined_symbols=["<tool>"], num_threads=1,
    )  # fmt: skip
    write_tiny(tmp_path, stream.getvalue())
    theirs = sentencepiece.SentencePieceProcessor(model_proto=stream.getvalue())
    ours = Tokenizer.load(tmp_path)
    for text in [*CORPUS, "  the  fox ", "Ｔhe", "river", "the ①", "fox wooden zzz"]:
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text)
    assert ours.encode("<tool>", add_special_tokens=False)[-1] == theirs.piece_to_id("<tool>")
    assert theirs.piece_to_id("<tool>") not in ours.special_ids


@pytest.mark.parametrize("kind", [BPE, UNIGRAM])
def test_text_cannot_spell_a_control_piece(tmp_path: Path, kind: int) -> None:
    tokenizer = Tokenizer.load(write_tiny(tmp_path, model_file(TINY, kind)))
    assert 1 in tokenizer.encode("<s>a", add_special_tokens=False)
    assert 1 not in tokenizer.encode("<s>a", add_special_tokens=False, allow_special=False)


def test_the_configuration_is_honored(tmp_path: Path) -> None:
    def encode(**config: bool) -> list[int]:
        return Tokenizer.load(write_tiny(tmp_path, config=config)).encode("ab<s>ab")

    assert encode() == [1, 3, 7, 1, 3, 7]
    assert encode(legacy=False) == [1, 3, 7, 1, 4]
    assert encode(add_prefix_space=False) == [1, 4, 1, 4]
    assert encode(add_bos_token=False) == [3, 7, 1, 3, 7]
    assert encode(add_eos_token=True) == [1, 3, 7, 1, 3, 7, 2]


def test_added_tokens_rename_and_extend_the_pieces(tmp_path: Path) -> None:
    added = {"1": {"content": "<bos>", "special": True}, "12": {"content": "<|end|>", "special": True}}
    config = {"added_tokens_decoder": added, "bos_token": "<bos>", "eos_token": "<|end|>"}
    tokenizer = Tokenizer.load(write_tiny(tmp_path, config=config))
    assert tokenizer.encode("ab<|end|><bos>") == [1, 3, 7, 12, 1]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 12, 13)


BROKEN = {
    "empty": (b"", "no pieces"),
    "text": (b"IQ== 0\nIg== 1\n", "not a SentencePiece model"),
    "huge length": (b"\x0a\xff\xff\xff\xff\x0f", "are left"),
    "endless number": (b"\xff" * 20, "more than 10 bytes"),
    "group": (b"\x0b", "wire type 3"),
    "pieces as a number": (field(1, 7), "pieces has the wrong wire type"),
    "piece without text": (field(1, field(2, 1.0)), "piece 0 has 0 bytes"),
    "piece not UTF-8": (field(1, field(1, b"\xff")), "piece 0 is not UTF-8"),
    "score not finite": (model_file([("<unk>", float("nan"), UNKNOWN)]), "score nan"),
    "score as bytes": (field(1, field(1, b"a") + field(2, b"1234")), "score of piece 0 has the wrong wire type"),
    "unknown kind": (model_file([("<unk>", 0.0, 9)]), "type 9"),
    "twice": (model_file([*TINY, ("ab", 0.0, NORMAL)]), "twice"),
    "word model": (model_file(TINY, 3), "model_type 3"),
    "no unknown piece": (model_file([("a", 0.0, NORMAL)]), "unk_id 0"),
    "bos outside": (model_file(TINY, trainer=field(41, 99)), "bos_id 99"),
    "negative below none": (model_file(TINY, trainer=field(43, -2)), "pad_id -2"),
    "charsmap": (model_file(TINY) + field(3, field(2, b"\xff\xff\xff\xffabcd")), "precompiled_charsmap"),
    "charsmap root": (
        model_file(TINY) + field(3, field(2, struct.pack("<II", 1024, 0x8D5000FF) + bytes(1020))),
        "unit 0 points outside",
    ),
    "suffix spaces": (model_file(TINY, trainer=field(24, 1)), "treat_whitespace_as_suffix"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_corrupt_model_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(StartupError, match=reason) as error:
        Tokenizer.load(write_tiny(tmp_path, data))
    assert str(tmp_path / "tokenizer.model") in error.value.message


def test_a_model_cut_or_flipped_anywhere_never_crashes(tmp_path: Path) -> None:
    data = model_file(TINY) + field(3, field(2, struct.pack("<I", 1024) + bytes(1024) + b"a\0"))
    rng = random.Random(4)
    variants = [data[:size] for size in [*range(300), *range(300, len(data), 25)]]
    for _ in range(600):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] = rng.randrange(256)
        variants.append(bytes(changed))
    refused = 0
    for variant in variants:
        try:
            Tokenizer.load(write_tiny(tmp_path, variant)).encode("ab <s>")
        except StartupError:
            refused += 1
    assert 300 < refused < len(variants)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"nowhere\.model"):
        read_model(tmp_path / "nowhere.model")
