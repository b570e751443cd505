"""Text to token ids and back, for one checkpoint's folder or GGUF file."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from octavo.errors import InvalidRequest, StartupError
from octavo.frontend import gguf
from octavo.frontend.control import NAMED_TOKENS
from octavo.frontend.fence import Fence, second_pipeline
from octavo.frontend.pieces import Joiner, Pieces, decode_utf8
from octavo.frontend.sentencepiece import SentencePieceModel, build_backend, read_model

LONG_TEXT = 4096  # characters; encode() holds the interpreter lock as long as it takes, encode_batch_fast() does not
# What a folder without tokenizer_config.json and special_tokens_map.json most likely means.
USUAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

CLASSES_THAT_READ_ENDS = frozenset(("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"))


class Tokenizer:
    """The tokenizer of a checkpoint: the `tokenizers` pipeline plus what its configuration files say.

    Immutable after `load`, so any number of threads may use it. vocab_size counts added tokens (largest id + 1);
    special_tokens maps "bos_token" … to their spellings; special_ids are the ids that skip_special_tokens drops;
    config is tokenizer_config.json, or what a GGUF file says instead.
    """

    def __init__(self, backend: tokenizers.Tokenizer, named: Mapping[str, str], config: dict[str, object]) -> None:
        backend.no_truncation()
        backend.no_padding()
        added = backend.get_added_tokens_decoder()
        self.backend = backend
        self.config = config
        self.special_tokens = dict(named)
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self.vocab_size = _vocab_size(backend, added)
        self.pieces = Pieces(backend, {id: token.content for id, token in added.items()})
        self._plain = _without_specials(backend, added)
        self._added = added
        self.bos_token, self.bos_id = self._named("bos_token")
        self.eos_token, self.eos_id = self._named("eos_token")
        self.pad_token, self.pad_id = self._named("pad_token")
        self.unk_token, self.unk_id = self._named("unk_token")

    @functools.cached_property
    def _fence(self) -> Fence:
        return Fence(self.backend, self._added, self.unk_id)

    @property
    def control_tokens(self) -> list[str]:
        """The spellings of the special tokens."""
        return [token.content for token in self._added.values() if token.special]

    @property
    def finds_respelled(self) -> bool:
        """Whether it finds special tokens in text that is only normalized to their spelling."""
        return self.backend.normalizer is not None and any(
            token.special and token.normalized for token in self._added.values()
        )

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Return the tokenizer of a folder: tokenizer.json, else the SentencePiece tokenizer.model; or a GGUF file's.

        Also reads tokenizer_config.json, special_tokens_map.json and added_tokens.json. StartupError, naming the file,
        when one is broken or neither of the first two is there.
        """
        folder = Path(path)
        if folder.is_file():
            backend, named, config = gguf.read_tokenizer(folder)
            _mark_special(backend, named.values())
            _set_ends(backend, named, config, has_template=False)
            return cls(backend, named, config)
        config = _read_json(folder / "tokenizer_config.json")
        # Older checkpoints name their special tokens only in special_tokens_map.json.
        settings = _read_json(folder / "special_tokens_map.json") | {k: v for k, v in config.items() if v is not None}
        declared = _declared_tokens(folder, config)
        if (path := folder / "tokenizer.json").is_file():
            backend = _read_backend(path)
            named = _named_tokens(settings, {n: t for n, t in USUAL_TOKENS.items() if _is_special(backend, t)})
        elif (path := folder / "tokenizer.model").is_file():
            model = read_model(path)
            backend = _from_sentencepiece(path, model, config, declared)
            named = _named_tokens(settings, _model_tokens(model, declared))
        else:
            raise StartupError(f"{folder}: no tokenizer; it needs tokenizer.json or tokenizer.model", "tokenizer")
        _add_tokens(backend, declared, path)
        _mark_special(backend, [*named.values(), *_extra_tokens(settings)])
        _set_ends(backend, named, config, has_template=path.name == "tokenizer.json")
        return cls(backend, named, config)

    def encode(self, text: str, add_special_tokens: bool = True, allow_special: bool = True) -> list[int]:
        """Return the token ids of `text`, with BOS and EOS where this tokenizer adds them.

        allow_special=False reads the spellings of special tokens in `text` as plain text. InvalidRequest for text that
        is not valid Unicode (a lone surrogate).
        """
        backend = self.backend if allow_special else self._plain
        try:
            if len(text) >= LONG_TEXT:
                return backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
            return backend.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:
            raise _not_text(text) from error

    def encode_chat(self, text: str, spelled: Sequence[tuple[int, int]], add_special_tokens: bool = False) -> list[int]:
        """`encode` of a rendered chat, in which the ranges `spelled` are text of messages, not control tokens (R41)."""
        if not spelled and not self.finds_respelled:
            return self.encode(text, add_special_tokens)
        try:
            return self._fence.encode(text, spelled, add_special_tokens)
        except TypeError as error:
            raise _not_text(text) from error

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """Return `encode` of each text, computed on all cores."""
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        except TypeError as error:
            raise _not_text(next((text for text in texts if not _is_unicode(text)), "")) from error
        return [encoding.ids for encoding in encodings]

    def offsets(self, text: str, ids: Sequence[int], add_special_tokens: bool = True) -> list[tuple[int, int]] | None:
        """Where in `text` each of `ids` begins and ends, in characters; (0, 0) for those that are not in it.

        `ids` are the tokens of `text`, or the first or last of them; None when they are not.
        """
        encoding = self.backend.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        found = list(zip(encoding.ids, encoding.offsets, strict=True))
        for part in (found[: len(ids)], found[len(found) - len(ids) :]):
            if [id for id, _ in part] == list(ids):
                return [offset for _, offset in part]
        return None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; ids outside the vocabulary leave no trace.

        Malformed UTF-8 becomes U+FFFD and never touches its neighbors: one for each byte with byte fallback (as
        SentencePiece, unlike `tokenizers`, which gives up the whole run of byte tokens), one for each broken character
        with byte-level vocabularies. No clean-up of spaces.
        """
        data = Joiner(self.pieces, self.special_ids if skip_special_tokens else frozenset()).push(ids)
        return decode_utf8(data, is_final=True, per_byte=not self.pieces.byte_level)[0]

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that token `id` stands for inside a text; empty for an id outside the vocabulary."""
        return self.pieces.piece(id) or b""

    def token_text(self, id: int) -> str:
        """Return token `id` as text, its leading space kept, U+FFFD for part of a character."""
        return self.token_bytes(id).decode("utf-8", "replace")

    def _named(self, name: str) -> tuple[str | None, int | None]:
        token = self.special_tokens.get(name)
        return token, None if token is None else self.backend.token_to_id(token)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StartupError(f"{path}: cannot read it ({error.strerror})", "tokenizer") from error
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{path}: not valid JSON: {error}", "tokenizer") from error
    if not isinstance(data, dict):
        raise StartupError(f"{path}: expected a JSON object, found {type(data).__name__}", "tokenizer")
    return data


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(path.read_bytes())
    # The library raises bare Exception for every defect of the file.
    except Exception as error:
        raise StartupError(f"{path}: not a usable tokenizer: {error}", "tokenizer") from error


def _content(token: object, name: str) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise StartupError(f"tokenizer_config.json: {name} is {token!r}, not a token's spelling", "tokenizer")
    return token or None


def _named_tokens(settings: Mapping[str, object], defaults: Mapping[str, str]) -> dict[str, str]:
    found = {name: _content(settings[name], name) if name in settings else defaults.get(name) for name in NAMED_TOKENS}
    return {name: token for name, token in found.items() if token is not None}


def _extra_tokens(settings: Mapping[str, object]) -> list[str]:
    extra: list[str] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        value = settings.get(name) or []
        for token in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            content = _content(token, name)
            if content is not None:
                extra.append(content)
    return extra


def _declared_tokens(folder: Path, config: dict[str, Any]) -> dict[int, AddedToken]:
    """Return the added tokens of added_tokens.json and tokenizer_config.json by id, the latter winning."""
    declared: dict[int, AddedToken] = {}
    for content, id in _read_json(folder / "added_tokens.json").items():
        if not isinstance(id, int) or not content:
            raise StartupError(f"{folder / 'added_tokens.json'}: {content!r} has id {id!r}, not a number", "tokenizer")
        declared[id] = AddedToken(content, normalized=False)
    table = config.get("added_tokens_decoder") or {}
    try:
        for id, spec in table.items():
            flags = {
                k: bool(spec[k]) for k in ("single_word", "lstrip", "rstrip", "normalized", "special") if k in spec
            }
            declared[int(id)] = AddedToken(spec["content"], **flags)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        where = folder / "tokenizer_config.json"
        raise StartupError(f"{where}: added_tokens_decoder is malformed: {error!r}", "tokenizer") from error
    return declared


def _from_sentencepiece(
    path: Path, model: SentencePieceModel, config: dict[str, Any], declared: Mapping[int, AddedToken]
) -> tokenizers.Tokenizer:
    renamed = {id: token.content for id, token in declared.items() if 0 <= id < len(model.pieces)}
    prefix = config.get("add_prefix_space")
    legacy = config.get("legacy")
    legacy = True if legacy is None else bool(legacy)
    try:
        return build_backend(model, add_prefix_space=prefix, legacy=legacy, renamed=renamed)
    # The library raises bare Exception for whatever it does not like.
    except Exception as error:
        raise StartupError(f"{path}: not a usable tokenizer: {error}", "tokenizer") from error


def _model_tokens(model: SentencePieceModel, declared: Mapping[int, AddedToken]) -> dict[str, str]:
    ids = {"bos_token": model.bos_id, "eos_token": model.eos_id, "unk_token": model.unk_id, "pad_token": model.pad_id}
    tokens = {name: declared[id].content if id in declared else model.token(id) for name, id in ids.items()}
    return {name: token for name, token in tokens.items() if token is not None}


def _is_special(backend: tokenizers.Tokenizer, token: str) -> bool:
    id = backend.token_to_id(token)
    return id is not None and id in backend.get_added_tokens_decoder()


def _add_tokens(backend: tokenizers.Tokenizer, declared: Mapping[int, AddedToken], path: Path) -> None:
    known = backend.get_added_tokens_decoder()
    for id, token in sorted(declared.items(), key=lambda item: item[0]):
        if id in known and known[id].content == token.content:
            continue
        backend.add_tokens([token])
        if (got := backend.token_to_id(token.content)) != id:
            raise StartupError(
                f"{path}: added token {token.content!r} would have id {got}, but the configuration says {id}",
                "tokenizer",
            )


def _mark_special(backend: tokenizers.Tokenizer, contents: Iterable[str]) -> None:
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for content in contents:
        token = known.get(content) or AddedToken(content, normalized=False)
        if content not in known or not token.special:
            token.special = True
            backend.add_special_tokens([token])
            known[content] = token


def _set_ends(
    backend: tokenizers.Tokenizer, named: Mapping[str, str], config: dict[str, Any], has_template: bool
) -> None:
    """Make `backend` add BOS and EOS as the checkpoint means it.

    tokenizer.json decides, as in Transformers 5, except where tokenizer_config.json sets add_bos_token or
    add_eos_token for a class that reads them (Transformers 4 wrote such checkpoints without the template in
    tokenizer.json). A SentencePiece model carries no template: BPE models then start with BOS, unigram ones do not.
    """
    reads_ends = str(config.get("tokenizer_class")).removesuffix("Fast") in CLASSES_THAT_READ_ENDS
    is_set = config.get("add_bos_token") is not None or config.get("add_eos_token") is not None
    if has_template and not (reads_ends and is_set):
        return
    add_bos, add_eos = config.get("add_bos_token"), config.get("add_eos_token")
    if add_bos is None:
        add_bos = reads_ends or type(backend.model).__name__ == "BPE"
    bos = named.get("bos_token") if add_bos else None
    eos = named.get("eos_token") if add_eos else None
    ends = [token for token in (bos, eos) if token is not None]
    single = " ".join([f"{bos}:0"] * bool(bos) + ["$A:0"] + [f"{eos}:0"] * bool(eos))
    pair = single + " " + " ".join([f"{bos}:1"] * bool(bos) + ["$B:1"] + [f"{eos}:1"] * bool(eos))
    ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys(ends)]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _without_specials(backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken]) -> tokenizers.Tokenizer:
    """Return a second pipeline over the same model that reads special tokens' spellings as plain text.

    A second one because the switch lives in the pipeline, and threads share pipelines.
    """
    plain = second_pipeline(backend)
    plain.add_tokens([added[id] for id in sorted(added)])
    plain.encode_special_tokens = True
    return plain


def _vocab_size(backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken]) -> int:
    size = backend.get_vocab_size(with_added_tokens=False)
    if size == 0 or backend.id_to_token(size - 1) is None:
        size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return max(size, max(added, default=-1) + 1)


def _is_unicode(text: str) -> bool:
    return isinstance(text, str) and not any(  # pyright: ignore[reportUnnecessaryIsInstance]
        "\ud800" <= char <= "\udfff" for char in text
    )


def _not_text(text: str) -> InvalidRequest:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        return InvalidRequest(f"prompt is {type(text).__name__}, not a string", "prompt")
    surrogate = next((char for char in text if not _is_unicode(char)), "")
    return InvalidRequest(f"prompt contains the lone surrogate {surrogate!r}, which is not valid Unicode", "prompt")
