"""The tokenizer in a GGUF file's metadata, as a `tokenizers` pipeline.

Two kinds: "llama", SentencePiece's BPE by scores, and "gpt2", byte-level BPE whose way to cut a text into words has a
name (`tokenizer.ggml.pre`); the expressions here are those of the tokenizer.json of the models that the names are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from octavo.errors import StartupError
from octavo.frontend.sentencepiece import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    build_backend,
)
from octavo.gguf.file import GGUF, Metadata, shown

MAX_TOKEN_BYTES = 4096  # the search for merges is quadratic in it

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}"
QWEN2 = rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s"
CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"{CASED % ('', '')}|\p{{N}}|{CASED_REST}"
GPT4O = rf"{CASED % (f'{ENDINGS}?', f'{ENDINGS}?')}|\p{{N}}{{1,3}}|{CASED_REST}"
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Words:
    """How a text is cut into words: at every match of each expression in turn.

    `whole_first` takes a word that is a token as it is; `starts` says whether a text starts with BOS unless the
    metadata says; `composed` puts it into Unicode's NFC before.
    """

    patterns: tuple[str, ...]
    whole_first: bool = False
    starts: bool = False
    composed: bool = False


DEFAULT = Words((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
SINGLE_DIGITS = Words((r"\p{N}", GPT2))

WORDS: Mapping[str, Words] = MappingProxyType(
    {
        "default": DEFAULT,
        "gpt-2": Words((GPT2,)),
        "phi-2": Words((GPT2,)),
        "mpt": Words((GPT2,)),
        "olmo": Words((GPT2,), composed=True),
        **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone"), SINGLE_DIGITS),
        **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), Words((LLAMA3,), whole_first=True, starts=True)),
        **dict.fromkeys(("dbrx", "smaug-bpe"), Words((LLAMA3,))),
        **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), Words((QWEN2,), composed=True)),
        "stablelm2": Words((QWEN2,)),
        "tekken": Words((TEKKEN,), whole_first=True, starts=True),
        **dict.fromkeys(("gpt-4o", "llama4"), Words((GPT4O,))),
        "deepseek-v3": Words((r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3)),
        "deepseek-coder": Words((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    }
)

NAMED: Mapping[str, str] = MappingProxyType(
    {
        "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
        "sep_token": "seperator", "mask_token": "mask", "cls_token": "cls",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """The tokens by id, and each one's type (sentencepiece.NORMAL …)."""

    tokens: list[str]
    types: list[int]


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str], dict[str, object]]:
    """The pipeline of a GGUF file, its named special tokens, and what tokenizer_config.json would say.

    Raises StartupError naming the file when it has no tokenizer, or one that octavo cannot run.
    """
    metadata = GGUF(path).metadata
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise StartupError(f"{path} has no tokenizer; give a folder that has the model's with --tokenizer", "tokenizer")
    vocabulary = _vocabulary(path, metadata)
    named = _named(path, metadata, vocabulary)
    try:
        if kind == "gpt2":
            words = _words(path, metadata)
            backend, starts = _byte_level(metadata, vocabulary, words), words.starts
        elif kind == "llama":
            backend, starts = _sentencepiece(path, metadata, vocabulary), True
        else:
            raise StartupError(
                f"{path}: tokenizer {shown(kind)} is not supported; supported are 'gpt2' (byte-level BPE) and 'llama' "
                "(SentencePiece); give another with --tokenizer",
                "tokenizer",
            )
    except StartupError:
        raise
    # The library raises bare Exception for whatever it does not like.
    except Exception as error:
        raise StartupError(
            f"{path}: not a usable tokenizer: {' '.join(str(error).split())[:200]}", "tokenizer"
        ) from error
    config: dict[str, object] = {
        "add_bos_token": metadata.flag("tokenizer.ggml.add_bos_token", starts),
        "add_eos_token": metadata.flag("tokenizer.ggml.add_eos_token", False),
        "chat_template": _templates(metadata),
    }
    return backend, named, config


def _vocabulary(path: Path, metadata: Metadata) -> Vocabulary:
    tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(metadata.strings("tokenizer.ggml.tokens"))]
    types = [type for type in metadata.array("tokenizer.ggml.token_type") if isinstance(type, int)]
    types = types or [NORMAL] * len(tokens)
    if not tokens or len(types) != len(tokens):
        raise StartupError(f"{path}: {len(tokens)} tokens with {len(types)} types are no vocabulary", "tokenizer")
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))
        raise StartupError(f"{path}: token {shown(twice)} occurs twice in its vocabulary", "tokenizer")
    longest = max(tokens, key=len)
    if len(longest.encode()) > MAX_TOKEN_BYTES:
        raise StartupError(f"{path}: a token has {len(longest)} characters, no tokenizer's", "tokenizer")
    return Vocabulary(tokens, types)


def _named(path: Path, metadata: Metadata, vocabulary: Vocabulary) -> dict[str, str]:
    named: dict[str, str] = {}
    for ours, theirs in NAMED.items():
        key = f"tokenizer.ggml.{theirs}_token_id"
        if key not in metadata:
            continue
        id = metadata.integer(key)
        if not 0 <= id < len(vocabulary.tokens):
            raise StartupError(f"{path}: {key} is {id}, outside its {len(vocabulary.tokens)} tokens", "tokenizer")
        named[ours] = vocabulary.tokens[id]
    return named


def _words(path: Path, metadata: Metadata) -> Words:
    name = metadata.string("tokenizer.ggml.pre", "default")
    if name not in WORDS:
        raise StartupError(
            f"{path}: its tokenizer cuts words as {shown(name)}, which octavo does not know; known are "
            f"{', '.join(WORDS)}; give the model's own tokenizer with --tokenizer",
            "tokenizer",
        )
    return WORDS[name]


def _byte_level(metadata: Metadata, vocabulary: Vocabulary, words: Words) -> tokenizers.Tokenizer:
    merges: list[tuple[str, str]] = []
    for merge in metadata.strings("tokenizer.ggml.merges"):
        cut = merge.find(" ", 1)
        merges.append((merge[:cut], merge[cut + 1 :]))
    ids = {token: id for id, token in enumerate(vocabulary.tokens)}
    backend = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=words.whole_first))
    if words.composed:
        backend.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in words.patterns]
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_only])
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [
            AddedToken(token, special=type != USER_DEFINED, normalized=False)
            for token, type in zip(vocabulary.tokens, vocabulary.types, strict=True)
            if type in (UNKNOWN, CONTROL, USER_DEFINED)
        ]
    )
    return backend


def _sentencepiece(path: Path, metadata: Metadata, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    count = len(vocabulary.tokens)
    scores = [float(score) for score in metadata.array("tokenizer.ggml.scores")] or [0.0] * count
    if len(scores) != count or not all(-1e30 < score < 1e30 for score in scores):
        raise StartupError(f"{path}: tokenizer.ggml.scores must hold {count} finite numbers", "tokenizer")
    unknown = metadata.integer("tokenizer.ggml.unknown_token_id", 0)
    if not 0 <= unknown < count:
        raise StartupError(f"{path}: unknown_token_id {unknown} is outside the {count} tokens", "tokenizer")
    model = SentencePieceModel(
        pieces=tuple(map(Piece, vocabulary.tokens, scores, vocabulary.types)),
        model_type=BPE,
        byte_fallback=BYTE in vocabulary.types,
        unk_id=unknown,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        charsmap=b"",
        add_dummy_prefix=metadata.flag("tokenizer.ggml.add_space_prefix", True),
        remove_extra_whitespaces=metadata.flag("tokenizer.ggml.remove_extra_whitespaces", False),
        escape_whitespaces=True,
    )
    return build_backend(model)


def _templates(metadata: Metadata) -> str | list[dict[str, str]] | None:
    """The chat template, or with others by name, as tokenizer_config.json has them."""
    default = metadata.string("tokenizer.chat_template", "") or None
    names = metadata.strings("tokenizer.chat_templates")
    if not names:
        return default
    named = [{"name": "default", "template": default}] if default is not None else []
    return named + [{"name": n, "template": metadata.string(f"tokenizer.chat_template.{n}")} for n in names]
