"""Tokenizers and templates from GGUF metadata: llama.cpp's own cases, how words are cut, what a bad file gets."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from octavo.errors import StartupError
from octavo.frontend.chat import ChatTemplate
from octavo.frontend.gguf import WORDS
from octavo.frontend.tokenizer import Tokenizer

from ..weights.gguf_bytes import ARRAY, file, pair, string, strings, u32

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTES = [*map(chr, range(0x21, 0x7F)), "Ġ", "Ċ"]
WORD_PIECES = ["he", "ll", "hell", "hello", "Ġhello"]
SPECIAL = ["<|start|>", "<|end|>", "<tool>"]


def array(key: str, code: str, values: Sequence[float]) -> bytes:
    type = {"i": 5, "f": 6}[code]
    return pair(key, ARRAY, struct.pack(f"<IQ{len(values)}{code}", type, len(values), *values))


def flag(key: str, value: bool) -> bytes:
    return pair(key, 7, bytes([value]))


def byte_level(pre: str = "gpt-2", *more: bytes) -> bytes:
    """A byte-level vocabulary: printable ASCII, a few merges, three special tokens."""
    tokens = [*BYTES, *WORD_PIECES, *SPECIAL]
    types = [NORMAL] * (len(BYTES) + len(WORD_PIECES)) + [CONTROL, CONTROL, USER_DEFINED]
    merges = ["h e", "l l", "he ll", "hell o", "Ġ hello"]
    start = len(tokens) - 3
    return file(
        [
            string("tokenizer.ggml.model", "gpt2"), string("tokenizer.ggml.pre", pre),
            strings("tokenizer.ggml.tokens", tokens), array("tokenizer.ggml.token_type", "i", types),
            strings("tokenizer.ggml.merges", merges), u32("tokenizer.ggml.bos_token_id", start),
            u32("tokenizer.ggml.eos_token_id", start + 1), *more,
        ]
    )  # fmt: skip


def scored(*more: bytes) -> bytes:
    """A SentencePiece vocabulary with bytes, a few pieces and a user-defined token."""
    pieces = ["▁", "h", "i", "▁h", "▁hi", "hi"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "<tool>"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces), USER_DEFINED]
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))] + [0.0]
    return file(
        [
            string("tokenizer.ggml.model", "llama"), strings("tokenizer.ggml.tokens", tokens),
            array("tokenizer.ggml.token_type", "i", types), array("tokenizer.ggml.scores", "f", scores),
            u32("tokenizer.ggml.bos_token_id", 1), u32("tokenizer.ggml.eos_token_id", 2),
            u32("tokenizer.ggml.unknown_token_id", 0), *more,
        ]
    )  # fmt: skip


def load(folder: Path, data: bytes) -> Tokenizer:
    path = folder / "m.gguf"
    path.write_bytes(data)
    return Tokenizer.load(path)


def refusal(folder: Path, data: bytes) -> str:
    with pytest.raises(StartupError) as caught:
        load(folder, data)
    assert str(folder / "m.gguf") in caught.value.message and "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm"])
def test_ids_are_those_of_llama_cpp(shared_data: Path, name: str) -> None:
    path = shared_data / "tokenizers" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
    assert len(texts) == 47 <= len(lines)
    tokenizer = Tokenizer.load(path)
    for text, line in zip(texts, lines, strict=False):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == [int(id) for id in line.split()]
        assert tokenizer.decode(ids) == text


def test_the_scored_vocabulary_is_the_sentencepiece_model_it_came_from(shared_data: Path, llama2: Tokenizer) -> None:
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "ggml-vocab-llama-spm.gguf")
    rng = random.Random(0)
    alphabet = "  \t\nabcdeTh'.,é日本語😀👍🏽\u200d\u0301<s></s>▁0123"
    for _ in range(300):
        text = "".join(rng.choices(alphabet, k=rng.randrange(40)))
        assert tokenizer.encode(text) == llama2.encode(text)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")


# One text, cut into words by each name as llama.cpp cuts it.
TEXT = "I'M 12345 don't\n\n  camelCase!!"
CUTS = {
    "gpt-2": ["I", "'", "M", " 12345", " don", "'t", "\n\n ", " camelCase", "!!"],
    "llama-bpe": ["I", "'M", " ", "123", "45", " don", "'t", "\n\n", " ", " camelCase", "!!"],
    "qwen2": ["I", "'M", " ", "1", "2", "3", "4", "5", " don", "'t", "\n\n", " ", " camelCase", "!!"],
    "smollm": ["I", "'", "M", " ", "1", "2", "3", "4", "5", " don", "'t", "\n\n ", " camelCase", "!!"],
    "tekken": [
        "I", "'M", " ", "1", "2", "3", "4", "5", " don", "'t", "\n\n", " ", " camel", "Case", "!!",
    ],
    "gpt-4o": ["I'M", " ", "123", "45", " don't", "\n\n", " ", " camel", "Case", "!!"],
    "deepseek-v3": ["I", "'M", " ", "123", "45", " don", "'t", "\n\n", " ", " camelCase", "!!"],
    "default": ["I", "'", "M", " ", "123", "45", " don", "'", "t", "\n\n ", " camelCase", "!!"],
}  # fmt: skip


@pytest.mark.parametrize("pre", CUTS)
def test_a_text_is_cut_into_the_words_its_name_stands_for(tmp_path: Path, pre: str) -> None:
    words = load(tmp_path, byte_level(pre)).backend.pre_tokenizer.pre_tokenize_str(TEXT)
    assert [word.replace("Ġ", " ").replace("Ċ", "\n") for word, _ in words] == CUTS[pre]


@pytest.mark.parametrize("pre", WORDS)
def test_no_character_is_lost_between_words(tmp_path: Path, pre: str) -> None:
    tokenizer = load(tmp_path, byte_level(pre))
    rng = random.Random(1)
    for _ in range(50):
        text = "".join(rng.choices("".join(map(chr, range(0x21, 0x7F))) + " \n", k=rng.randrange(60)))
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_merges_special_tokens_and_plain_spellings(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_level())
    names = [*BYTES, *WORD_PIECES, *SPECIAL]
    assert [names[id] for id in tokenizer.encode(" hello<|end|>hello<tool>")] == [
        "Ġhello", "<|end|>", "hello", "<tool>",
    ]  # fmt: skip
    assert names.index("<|end|>") not in tokenizer.encode("<|end|>", allow_special=False)
    assert tokenizer.special_ids == {names.index("<|start|>"), names.index("<|end|>")}
    assert tokenizer.decode(tokenizer.encode("hello<|end|><tool>")) == "hello<tool>"
    assert tokenizer.vocab_size == len(names)


def test_a_word_that_is_a_token_needs_no_merges_where_its_name_says_so(tmp_path: Path) -> None:
    names = [*BYTES, "hello", *SPECIAL]
    types = [NORMAL] * (len(BYTES) + 1) + [CONTROL, CONTROL, USER_DEFINED]
    for pre, pieces in (("llama-bpe", 1), ("qwen2", 5)):
        data = [string("tokenizer.ggml.model", "gpt2"), string("tokenizer.ggml.pre", pre)]
        data += [strings("tokenizer.ggml.tokens", names), array("tokenizer.ggml.token_type", "i", types)]
        assert len(load(tmp_path, file(data)).encode("hello", add_special_tokens=False)) == pieces


@pytest.mark.parametrize(
    ("pre", "more", "first", "last"),
    [
        ("gpt-2", (), False, False),
        ("llama-bpe", (), True, False),
        ("llama-bpe", (flag("tokenizer.ggml.add_bos_token", False),), False, False),
        ("qwen2", (flag("tokenizer.ggml.add_bos_token", True), flag("tokenizer.ggml.add_eos_token", True)), True, True),
    ],
)
def test_texts_begin_and_end_as_the_metadata_says(
    tmp_path: Path, pre: str, more: tuple[bytes, ...], first: bool, last: bool
) -> None:
    tokenizer = load(tmp_path, byte_level(pre, *more))
    ids = tokenizer.encode("a")
    assert (
        ids == [tokenizer.bos_id] * first + tokenizer.encode("a", add_special_tokens=False) + [tokenizer.eos_id] * last
    )


def test_a_scored_vocabulary_has_a_space_in_front_unless_the_metadata_says_not(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, scored())
    assert tokenizer.encode("hi") == [1, 263]
    assert tokenizer.encode("é", add_special_tokens=False) == [259, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.encode("hi<tool>", add_special_tokens=False) == [263, 265]
    bare = load(tmp_path, scored(flag("tokenizer.ggml.add_space_prefix", False)))
    assert bare.encode("hi") == [1, 264]
    assert bare.decode([264]) == "hi"


def test_the_chat_template_comes_from_the_metadata(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    tokenizer = load(tmp_path, byte_level("gpt-2", string("tokenizer.chat_template", template)))
    found = ChatTemplate.load(tmp_path / "m.gguf", tokenizer)
    assert found is not None
    assert found.render([{"role": "user", "content": "hi"}]).text == "<|start|>hi<|end|>"
    plain = load(tmp_path, byte_level())
    assert ChatTemplate.load(tmp_path / "m.gguf", plain) is None


def test_several_templates_have_their_names(tmp_path: Path) -> None:
    more = (string("tokenizer.chat_template", "A"), strings("tokenizer.chat_templates", ["tool_use"]))
    tokenizer = load(tmp_path, byte_level("gpt-2", *more, string("tokenizer.chat_template.tool_use", "B")))
    found = ChatTemplate.load(tmp_path / "m.gguf", tokenizer)
    assert found is not None
    assert found.render([]).text == "A"
    assert found.render([], tools=[{"type": "function"}]).text == "B"


def test_a_template_that_does_not_compile_is_named_with_its_file(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_level("gpt-2", string("tokenizer.chat_template", "{% if")))
    with pytest.raises(StartupError, match=r"m\.gguf: the chat template does not compile"):
        ChatTemplate.load(tmp_path / "m.gguf", tokenizer)


def words(*tokens: str | bytes, model: str = "gpt2", more: Sequence[bytes] = ()) -> bytes:
    return file([string("tokenizer.ggml.model", model), strings("tokenizer.ggml.tokens", tokens), *more])


BAD = {
    "none": (file(), "has no tokenizer; give a folder that has the model's with --tokenizer"),
    "kind": (words("a", model="rwkv"), "tokenizer 'rwkv' is not supported; supported are 'gpt2'"),
    "pre": (byte_level("bloom-3"), "cuts words as 'bloom-3', which octavo does not know; known are default, gpt-2"),
    "empty": (words(), "0 tokens with 0 types are no vocabulary"),
    "types": (words("a", "b", more=[array("tokenizer.ggml.token_type", "i", [1])]), "2 tokens with 1 types"),
    "twice": (words("a", "b", "a"), "token 'a' occurs twice"),
    "long": (words("a" * 5000), "a token has 5000 characters"),
    "eos": (words("a", more=[u32("tokenizer.ggml.eos_token_id", 1)]), "eos_token_id is 1, outside its 1 tokens"),
    "utf-8": (words(b"\xff"), "'tokenizer.ggml.tokens' is not UTF-8"),
    "merge": (words("a", more=[strings("tokenizer.ggml.merges", ["b c"])]), "not a usable tokenizer"),
    "merge of one": (words("a", more=[strings("tokenizer.ggml.merges", ["a"])]), "not a usable tokenizer"),
    "scores": (words("a", "b", model="llama", more=[array("tokenizer.ggml.scores", "f", [1])]), "must hold 2 finite"),
    "nan": (
        words("a", model="llama", more=[array("tokenizer.ggml.scores", "f", [float("nan")])]),
        "must hold 1 finite",
    ),
    "unknown": (words("a", model="llama", more=[u32("tokenizer.ggml.unknown_token_id", 7)]), "is 7, outside its 1"),
    "tokens": (file([string("tokenizer.ggml.model", "gpt2"), u32("tokenizer.ggml.tokens", 1)]), "an array of strings"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_vocabulary_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    data, reason = BAD[case]
    assert reason in refusal(tmp_path, data)


def test_types_that_are_no_integers_are_none(tmp_path: Path) -> None:
    data = words("a", "b", more=[array("tokenizer.ggml.token_type", "f", [1, float("nan")])])
    assert load(tmp_path, data).encode("ab", add_special_tokens=False) == [0, 1]


@pytest.mark.parametrize("make", [byte_level, scored])
def test_mutants_load_or_are_refused(tmp_path: Path, make) -> None:
    data, rng, refused = make(), random.Random(0), 0
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.randrange(len(mutant))
            mutant[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, mutant[at] ^ 1 << rng.randrange(8)))
        try:
            tokenizer = load(tmp_path, bytes(mutant))
        except StartupError as error:
            refused += 1
            message = error.message
        else:
            message = ""
            ids = tokenizer.encode("hello hi<tool> é")
            assert max(ids, default=0) < tokenizer.vocab_size
            tokenizer.decode(ids)
        assert "\n" not in message
    assert 50 < refused < 400
